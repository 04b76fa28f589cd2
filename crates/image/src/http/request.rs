//! What is asked of a server.

use std::fmt;
use std::sync::Arc;

use super::url::Url;

/// What a secret is replaced with where a server's words hold it.
const HIDDEN: &str = "[hidden]";

/// The value of an `Authorization` header. Never shown; goes to the origin it was made for and nowhere else.
#[derive(Clone)]
pub(crate) struct Authorization {
    header: Arc<str>,
    secrets: Arc<[String]>,
}

impl Authorization {
    /// `secrets` are what no message may show, the header's own credentials among them.
    pub(crate) fn new(header: String, secrets: Vec<String>) -> Self {
        Self {
            header: header.into(),
            secrets: secrets.into_iter().filter(|secret| !secret.is_empty()).collect(),
        }
    }

    pub(crate) fn bearer(token: &str) -> Self {
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

/// How it is asked.
#[derive(Clone)]
pub(super) enum Method {
    Get,
    Head,
    /// With this form, which may hold secrets. Not redirected.
    Post(Arc<str>),
}

/// One request, which may be made several times.
#[derive(Clone)]
pub(crate) struct Request {
    pub(super) url: Url,
    pub(super) method: Method,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) authorization: Option<Authorization>,
    /// What must not be shown though it is in no `Authorization`.
    pub(super) hidden: Option<Authorization>,
    pub(super) pinned: bool,
}

impl Request {
    pub(crate) fn get(url: Url) -> Self {
        Self {
            url,
            method: Method::Get,
            headers: Vec::new(),
            authorization: None,
            hidden: None,
            pinned: false,
        }
    }

    pub(crate) fn head(url: Url) -> Self {
        Self { method: Method::Head, ..Self::get(url) }
    }

    /// `form` is `application/x-www-form-urlencoded` and may hold `secrets`.
    pub(crate) fn post(url: Url, form: String, secrets: Vec<String>) -> Self {
        let hidden = Some(Authorization::new(String::new(), secrets));
        Self { method: Method::Post(form.into()), hidden, ..Self::get(url) }
            .header("content-type", "application/x-www-form-urlencoded".to_owned())
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn authorized(self, authorization: Option<Authorization>) -> Self {
        Self { authorization, ..self }
    }

    /// Who asks knows the content's digest and checks it: that it cannot be exchanged, so that TLS is not asked for.
    pub(crate) fn pinned(self, pinned: bool) -> Self {
        Self { pinned, ..self }
    }

    /// From this byte on; with `validator`, an `ETag` or a date, only if the content is still that version's, and all
    /// of it otherwise.
    pub(crate) fn starting_at(self, from: u64, validator: Option<&str>) -> Self {
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
