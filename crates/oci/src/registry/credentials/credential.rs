//! A credential, and the place where it was found.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use vmette_http::Authorization;

use super::secret::Secret;

/// The user of a secret that comes without one; servers that take such a token do not look at it.
pub(super) const ANY_USER: &str = "vmette";

/// A registry's credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A name and a password or token.
    Password { user: String, secret: Secret },
    /// A token that an earlier login left, for token servers only.
    IdentityToken(Secret),
}

/// A credential that was found for a host, and where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) credential: Option<Credential>,
    /// `the environment variable X`, `FILE`.
    pub(super) origin: String,
    /// Places that did not answer, for a message when the registry refuses.
    pub(super) failures: Vec<String>,
}

impl Credential {
    pub(super) fn password(user: &str, secret: &str) -> Self {
        Self::Password { user: user.to_owned(), secret: Secret::new(secret) }
    }

    /// For an `Authorization` header.
    pub(crate) fn basic(&self) -> Option<Authorization> {
        let Self::Password { user, secret } = self else { return None };
        let encoded = STANDARD.encode(format!("{user}:{}", secret.expose()));
        Some(Authorization::new(format!("Basic {encoded}"), vec![encoded, secret.expose().to_owned()]))
    }
}

impl Found {
    pub(super) fn new(credential: Credential, origin: impl Into<String>) -> Self {
        Self { credential: Some(credential), origin: origin.into(), failures: Vec::new() }
    }
}
