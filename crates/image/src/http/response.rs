//! What a server answers.

use std::io::{self, Read};
use std::ops::Deref;
use std::time::{Duration, Instant};

use ureq::BodyReader;
use ureq::http::HeaderMap;

use super::error::NetworkError;
use super::request::Request;
use super::text::{self, ERROR_BODY_MAX};
use super::url::Url;

/// Who answers what.
pub(crate) struct Head {
    /// After redirects.
    pub(super) url: Url,
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
}

/// A response whose body is still to come.
pub(crate) struct Response {
    pub(super) head: Head,
    pub(super) body: BodyReader<'static>,
    pub(super) request: Request,
}

/// A response with its whole body. Of one that is no success, only the beginning.
pub(crate) struct Small {
    head: Head,
    bytes: Vec<u8>,
    request: Request,
}

/// What goes wrong with a small body.
pub(super) enum BodyFailure {
    TooLarge,
    Read(io::Error),
}

impl Head {
    /// Who answers, after redirects.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header that is text, and there once or always the same.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        // Twice and different: neither can be believed.
        if values.any(|other| other != first) { None } else { first.to_str().ok() }
    }

    /// All headers of that name that are text.
    pub(crate) fn headers(&self, name: &str) -> Vec<String> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    }
}

impl Deref for Response {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Deref for Small {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Response {
    pub(super) fn into_body(self) -> BodyReader<'static> {
        self.body
    }

    /// As an error, with what the body says.
    pub(super) fn refusal(self, patience: Duration) -> NetworkError {
        let (url, status) = (self.url.to_string(), self.status);
        match self.small(ERROR_BODY_MAX, patience) {
            Ok(small) => small.refusal(),
            Err(_) => NetworkError::Status { url, status, message: String::new() },
        }
    }

    /// Reads all of it, of a success at most `max` bytes and of anything else the beginning, in at most that long.
    pub(super) fn small(
        mut self,
        max: usize,
        longest: Duration,
    ) -> Result<Small, (NetworkError, BodyFailure)> {
        let until = Instant::now() + longest;
        let (limit, cut) = if self.is_success() { (max, false) } else { (ERROR_BODY_MAX, true) };
        let mut bytes = Vec::new();
        let mut piece = [0; 16 << 10];
        let url = self.request.url.to_string();
        loop {
            match self.body.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                // An error's message is not worth another error.
                Err(_) if cut => break,
                Err(e) => {
                    let problem = e.to_string();
                    let truncated =
                        NetworkError::Truncated { url, done: bytes.len() as u64, total: None, problem };
                    return Err((truncated, BodyFailure::Read(e)));
                }
            }
            if bytes.len() > limit {
                if cut {
                    bytes.truncate(limit);
                    break;
                }
                let error = NetworkError::TooLarge { url, max: limit as u64, remedy: String::new() };
                return Err((error, BodyFailure::TooLarge));
            }
            if Instant::now() > until {
                if cut {
                    break;
                }
                let problem = format!("it takes longer than {} seconds", longest.as_secs());
                let e = io::Error::new(io::ErrorKind::TimedOut, problem.clone());
                let truncated =
                    NetworkError::Truncated { url, done: bytes.len() as u64, total: None, problem };
                return Err((truncated, BodyFailure::Read(e)));
            }
        }
        let Self { head, request, .. } = self;
        Ok(Small { head, bytes, request })
    }
}

impl Small {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// As an error, with what the body says.
    pub(crate) fn refusal(&self) -> NetworkError {
        let (status, message) = (self.status, self.message());
        NetworkError::Status { url: self.url.to_string(), status, message }
    }

    /// What the body says of an error: `: TEXT`, or nothing. Without what was sent in secret.
    pub(crate) fn message(&self) -> String {
        let content_type = self.header("content-type").unwrap_or_default();
        text::message(content_type, &self.bytes, |text| self.request.hide(text))
    }
}
