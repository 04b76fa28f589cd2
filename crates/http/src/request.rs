//! Requests, and the secrets in them.

use std::fmt;
use std::sync::Arc;

use super::url::Url;

/// Takes a secret's place in a server's message.
const HIDDEN: &str = "[hidden]";

/// The value of an `Authorization` header. Never shown; goes to the origin it was made for and nowhere else.
#[derive(Clone)]
pub struct Authorization {
    header: Arc<str>,
    secrets: Arc<[String]>,
}

impl Authorization {
    /// A header. No message shows any of `secrets`, which include the header's own credentials.
    #[must_use]
    pub fn new(header: String, secrets: Vec<String>) -> Self {
        Self {
            header: header.into(),
            secrets: secrets.into_iter().filter(|secret| !secret.is_empty()).collect(),
        }
    }

    /// A token's header.
    #[must_use]
    pub fn bearer(token: &str) -> Self {
        Self::new(format!("Bearer {token}"), vec![token.to_owned()])
    }

    pub(super) fn header(&self) -> &str {
        &self.header
    }

    /// A server may repeat what it was sent.
    pub(super) fn hide(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), HIDDEN))
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}

/// The HTTP method, and a body.
#[derive(Clone)]
pub(super) enum Method {
    Get,
    Head,
    /// A form, which may hold secrets. Not redirected.
    Post(Arc<str>),
}

/// One request, which may be made several times.
#[derive(Clone)]
pub struct Request {
    pub(super) url: Url,
    pub(super) method: Method,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) authorization: Option<Authorization>,
    /// Secrets that are in no `Authorization`.
    pub(super) hidden: Option<Authorization>,
    pub(super) pinned: bool,
}

impl Request {
    /// A request for a resource.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self {
            url,
            method: Method::Get,
            headers: Vec::new(),
            authorization: None,
            hidden: None,
            pinned: false,
        }
    }

    /// A request for a resource's headers alone.
    #[must_use]
    pub fn head(url: Url) -> Self {
        Self { method: Method::Head, ..Self::get(url) }
    }

    /// A form to be posted: `application/x-www-form-urlencoded`, with `secrets` in it.
    #[must_use]
    pub fn post(url: Url, form: String, secrets: Vec<String>) -> Self {
        let hidden = Some(Authorization::new(String::new(), secrets));
        Self { method: Method::Post(form.into()), hidden, ..Self::get(url) }
            .header("content-type", "application/x-www-form-urlencoded".to_owned())
    }

    /// The URL.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says who asks.
    #[must_use]
    pub fn authorized(self, authorization: Option<Authorization>) -> Self {
        Self { authorization, ..self }
    }

    /// With `pinned` TLS is not needed: the caller checks the content's digest, so that nobody can exchange it.
    #[must_use]
    pub fn pinned(self, pinned: bool) -> Self {
        Self { pinned, ..self }
    }

    /// Asks for the content from this byte on. With `validator`, an `ETag` or a date, the server sends all of it if that
    /// is no longer its version.
    #[must_use]
    pub fn starting_at(self, from: u64, validator: Option<&str>) -> Self {
        if from == 0 {
            return self;
        }
        let ranged = self.header("range", format!("bytes={from}-"));
        match validator {
            Some(validator) => ranged.header("if-range", validator.to_owned()),
            None => ranged,
        }
    }

    pub(super) fn hide(&self, text: String) -> String {
        [&self.authorization, &self.hidden].into_iter().flatten().fold(text, |text, secret| secret.hide(text))
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("url", &self.url).finish_non_exhaustive()
    }
}
