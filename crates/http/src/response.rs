//! Responses of servers.

use std::io::Read;
use std::ops::Deref;
use std::time::{Duration, Instant};

use ureq::BodyReader;
use ureq::http::HeaderMap;

use super::error::NetworkError;
use super::request::Request;
use super::text::{self, ERROR_BODY_MAX};
use super::url::Url;

/// Status and headers of a response.
pub struct ResponseHead {
    /// The server that answered, after redirects.
    pub(super) url: Url,
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
}

/// A response whose body is still to come.
pub struct Response {
    pub(super) head: ResponseHead,
    pub(super) body: BodyReader<'static>,
    pub(super) request: Request,
}

/// A response with its whole body; only the body's beginning unless the response is a success.
pub struct SmallResponse {
    head: ResponseHead,
    bytes: Vec<u8>,
    request: Request,
}

/// How a small body failed.
pub(super) enum BodyFailure {
    TooLarge,
    Read,
}

impl ResponseHead {
    /// The URL that answered, after redirects.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns whether the status is one of the 200s.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header's value. `None` unless it is text, and there once or always the same.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        // Twice and different: neither can be believed.
        if values.any(|other| other != first) { None } else { first.to_str().ok() }
    }

    /// The values of all headers of that name that are text.
    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<String> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    }
}

impl Deref for Response {
    type Target = ResponseHead;

    fn deref(&self) -> &ResponseHead {
        &self.head
    }
}

impl Deref for SmallResponse {
    type Target = ResponseHead;

    fn deref(&self) -> &ResponseHead {
        &self.head
    }
}

impl Response {
    pub(crate) fn into_body(self) -> BodyReader<'static> {
        self.body
    }

    /// The response as an error, with its body's message.
    pub(super) fn refusal(self, patience: Duration) -> NetworkError {
        let (url, status) = (self.url.to_string(), self.status);
        match self.small(ERROR_BODY_MAX, patience) {
            Ok(small) => small.refusal(),
            Err(_) => NetworkError::Status { url, status, message: String::new() },
        }
    }

    /// Reads the body for at most `longest`: of a success at most `max` bytes, of anything else the beginning.
    pub(super) fn small(
        mut self,
        max: usize,
        longest: Duration,
    ) -> Result<SmallResponse, (NetworkError, BodyFailure)> {
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
                    return Err((truncated, BodyFailure::Read));
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
                let truncated =
                    NetworkError::Truncated { url, done: bytes.len() as u64, total: None, problem };
                return Err((truncated, BodyFailure::Read));
            }
        }
        let Self { head, request, .. } = self;
        Ok(SmallResponse { head, bytes, request })
    }
}

impl SmallResponse {
    /// The body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The response as an error, with its body's message.
    #[must_use]
    pub fn refusal(&self) -> NetworkError {
        let (status, message) = (self.status, self.message());
        NetworkError::Status { url: self.url.to_string(), status, message }
    }

    /// The body's message of an error: `: TEXT`, or nothing. Secrets of the request are taken out.
    #[must_use]
    pub fn message(&self) -> String {
        let content_type = self.header("content-type").unwrap_or_default();
        text::message(content_type, &self.bytes, |text| self.request.hide(text))
    }
}
