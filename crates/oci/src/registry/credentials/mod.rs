//! Credentials for registries.
//!
//! The first of these that says something of a host: what the program that uses this library said; `VMETTE_OCI_AUTH_…`
//! of the host; `VMETTE_OCI_TOKEN` when `VMETTE_OCI_TOKEN_HOST` names the host; `$REGISTRY_AUTH_FILE`; docker's
//! configuration; podman's. None of them says something of every host: a secret is one registry's, and the name of the
//! image, which chooses the registry, may be a stranger's.

mod environment;
mod file;
mod program;
mod secret;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use vmette_http::Result;
use vmette_http::{Authorization, Lookup};
use vmette_work::Work;

pub(super) use secret::Secret;

/// The user of a secret that comes without one; servers that take such a token do not look at it.
const ANY_USER: &str = "vmette";
/// Docker's name of the default registry in its configuration.
const DOCKER_SERVER: &str = "https://index.docker.io/v1/";

/// A registry's credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// A name and a password or token.
    Password { user: String, secret: Secret },
    /// A token that an earlier login left, for token servers only.
    IdentityToken(Secret),
}

/// Credentials that the calling program gives, which come before any others.
#[derive(Debug, Clone, Default)]
pub struct Credentials(Vec<(String, Credential)>);

impl Credentials {
    /// Adds those of the registry `host`, as it stands in references (`docker.io`, `host:5000`). They take the place of
    /// earlier ones.
    pub fn add(&mut self, host: &str, user: &str, secret: &str) {
        self.0.push((host.to_ascii_lowercase(), Credential::password(user, secret)));
    }

    fn of(&self, host: &str) -> Option<Credential> {
        let own = self.0.iter().rev().find(|(of, _)| of.eq_ignore_ascii_case(host));
        own.map(|(_, credential)| credential.clone())
    }
}

/// A credential that was found for a host, and where.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) credential: Option<Credential>,
    /// `the environment variable X`, `FILE`.
    pub(super) origin: String,
    /// Places that did not answer, for a message when the registry refuses.
    pub(super) failures: Vec<String>,
}

impl Credential {
    fn password(user: &str, secret: &str) -> Self {
        Self::Password { user: user.to_owned(), secret: Secret::new(secret) }
    }

    /// For an `Authorization` header.
    pub(super) fn basic(&self) -> Option<Authorization> {
        let Self::Password { user, secret } = self else { return None };
        let encoded = STANDARD.encode(format!("{user}:{}", secret.expose()));
        Some(Authorization::new(format!("Basic {encoded}"), vec![encoded, secret.expose().to_owned()]))
    }
}

impl Found {
    fn new(credential: Credential, origin: impl Into<String>) -> Self {
        Self { credential: Some(credential), origin: origin.into(), failures: Vec::new() }
    }

    /// Which credentials were tried, and how to add some.
    pub(super) fn advice(&self, host: &str) -> String {
        let variable = environment::auth_variable(host);
        let tried = match &self.credential {
            None => format!("no credentials for {host} are known"),
            Some(Credential::Password { user, .. }) => {
                format!("it was told to be user {} by {}", vmette_work::printable(user, 64), self.origin)
            }
            Some(Credential::IdentityToken(_)) => {
                format!("it was shown the identity token of {}", self.origin)
            }
        };
        let failures = self.failures.iter().fold(String::new(), |all, failure| all + ", and " + failure);
        format!(
            "{tried}{failures}; log in with `docker login {host}` or `podman login {host}`, or set {variable}=USER:PASSWORD"
        )
    }
}

/// Looks for credentials of `host`, as it stands in references (`docker.io`, `host:5000`), to read `repository`.
///
/// # Errors
/// The work is cancelled; a variable that is set and makes no sense.
pub(super) fn find(
    host: &str,
    repository: &str,
    known: &Credentials,
    work: &Work,
    env: Lookup<'_>,
) -> Result<Found> {
    if let Some(credential) = known.of(host) {
        return Ok(Found::new(credential, "the program that asks"));
    }
    if let Some(found) = environment::find(host, env, &|line| work.warn(line))? {
        return Ok(found);
    }
    let mut failures = Vec::new();
    for path in file::places(env) {
        let config = match file::read(&path) {
            Ok(Some(config)) => config,
            Ok(None) => continue,
            Err(problem) => {
                failures.push(format!("{} cannot be used: {problem}", path.display()));
                continue;
            }
        };
        if let Some(name) = config.helper(host) {
            match program::ask(name, &server_name(host), work)? {
                Ok(Some(credential)) => {
                    return Ok(Found {
                        failures,
                        ..Found::new(credential, format!("docker-credential-{name}"))
                    });
                }
                Ok(None) => {}
                Err(problem) => failures.push(problem),
            }
        }
        match config.stored(host, repository) {
            Ok(Some(credential)) => {
                return Ok(Found { failures, ..Found::new(credential, path.display().to_string()) });
            }
            Ok(None) => {}
            Err(problem) => failures.push(format!("{}: {problem}", path.display())),
        }
    }
    Ok(Found { failures, ..Found::default() })
}

/// The helpers' name of the host.
fn server_name(host: &str) -> String {
    if host == "docker.io" { DOCKER_SERVER.to_owned() } else { host.to_owned() }
}

#[cfg(test)]
mod tests;
