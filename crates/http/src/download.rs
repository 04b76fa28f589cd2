//! A file from a server, read to its end though connections break.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::client::Client;
use super::error::{Error, NetworkError, Result};
use super::patience::PROGRESS;
use super::response::Response;

/// How a file may change between two requests of one download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Never: its reader checks its digest.
    Immutable,
    /// At any time. The download resumes only if the server says that the file is the same.
    Mutable,
}

/// Requests the file from a byte on. The text is the validator for
/// [`Request::starting_at`](super::Request::starting_at).
type Open = Box<dyn FnMut(u64, Option<&str>) -> Result<Response> + Send>;

/// Reads a file to its end, or fails with an `io::Error` that carries the [`Error`]. A connection that breaks, stalls or
/// crawls is replaced by one that resumes where it ended. The number of replacements is bounded, and counts anew while
/// the download advances.
pub struct Download {
    client: Client,
    open: Open,
    kind: Kind,
    url: String,
    body: Option<Box<dyn Read + Send>>,
    /// Bytes of the file that have been read, or that the caller did not ask for.
    done: u64,
    /// Bytes that this connection repeats before it brings new ones.
    again: u64,
    /// Size of the whole file in bytes, where known.
    total: Option<u64>,
    etag: Option<String>,
    last_modified: Option<String>,
    /// Failures since the last [`PROGRESS`] new bytes.
    failures: u32,
    progress: u64,
    /// The server takes no ranges: each new connection begins at the file's first byte.
    repeats: bool,
    speed: Speed,
}

/// Bytes that came, and the time spent waiting for them.
#[derive(Default)]
struct Speed {
    waited: Duration,
    bytes: u64,
}

impl Download {
    /// Opens the file from the byte `from` on. `url` is for messages. A file whose size is not `expected` is refused as
    /// soon as the server names its size, or at the first byte too many.
    ///
    /// # Errors
    /// Those of `open`; the server's refusal.
    pub fn start(
        client: &Client,
        url: String,
        kind: Kind,
        from: u64,
        expected: Option<u64>,
        open: impl FnMut(u64, Option<&str>) -> Result<Response> + Send + 'static,
    ) -> Result<Self> {
        let mut download = Self {
            client: client.clone(),
            open: Box::new(open),
            kind,
            url,
            body: None,
            done: from,
            again: 0,
            total: expected,
            etag: None,
            last_modified: None,
            failures: 0,
            progress: 0,
            repeats: false,
            speed: Speed::default(),
        };
        // Nothing is left to ask for, and a server would have to refuse an empty range.
        if expected != Some(from) || from == 0 {
            let response = (download.open)(from, None)?;
            download.etag = response.header("etag").map(str::to_owned);
            download.last_modified = response.header("last-modified").map(str::to_owned);
            download.accept(response, true)?;
        }
        Ok(download)
    }

    /// Continues with a response that has come already, to a request for the whole file.
    ///
    /// # Errors
    /// The response is a refusal.
    pub fn of(
        client: &Client,
        url: String,
        response: Response,
        kind: Kind,
        mut open: impl FnMut(u64, Option<&str>) -> Result<Response> + Send + 'static,
    ) -> Result<Self> {
        let mut first = Some(response);
        Self::start(client, url, kind, 0, None, move |from, validator| match first.take() {
            Some(response) => Ok(response),
            None => open(from, validator),
        })
    }

    /// Size of the whole file in bytes, where known.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The server's `ETag` of this version of the file.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// The server's `Last-Modified` of this version of the file.
    #[must_use]
    pub fn last_modified(&self) -> Option<&str> {
        self.last_modified.as_deref()
    }

    /// The mark of this version of the file: a strong `ETag`, else the date.
    fn validator(&self) -> Option<&str> {
        match self.kind {
            Kind::Immutable => None,
            Kind::Mutable => {
                self.etag().filter(|etag| etag.starts_with('"')).or(self.last_modified.as_deref())
            }
        }
    }

    /// Checks that the response is what was asked for.
    fn accept(&mut self, response: Response, first: bool) -> Result<()> {
        let same = first
            || self.kind == Kind::Immutable
            || match self.etag() {
                Some(etag) => response.header("etag") == Some(etag),
                None => {
                    self.last_modified.is_some()
                        && response.header("last-modified") == self.last_modified.as_deref()
                }
            };
        let total = match response.status() {
            200 if !same => return Err(NetworkError::Changed { url: self.url.clone() }.into()),
            200 => response.header("content-length").and_then(|length| length.trim().parse().ok()),
            206 if self.done > 0 => Some(self.range_total(&response)?).flatten(),
            _ => return Err(self.client.refusal(response).into()),
        };
        match (self.total, total) {
            (Some(expected), Some(actual)) if expected != actual => {
                return Err(NetworkError::Length { url: self.url.clone(), expected, actual }.into());
            }
            _ => self.total = self.total.or(total),
        }
        let whole = response.status() == 200;
        self.again = if whole { self.done } else { 0 };
        self.repeats |= self.again > 0;
        self.body = Some(Box::new(response.into_body()));
        self.speed = Speed::default();
        Ok(())
    }

    /// The total that `Content-Range: bytes FROM-TO/TOTAL` names, when it is the range that was asked for.
    fn range_total(&self, response: &Response) -> Result<Option<u64>> {
        let range = response.header("content-range").unwrap_or_default();
        let wrong = || {
            let problem = format!(
                "it was asked for the bytes from {} on, and sends {:?}",
                self.done,
                vmette_work::printable(range, 80)
            );
            Error::from(NetworkError::Protocol { url: self.url.clone(), problem })
        };
        let (span, total) =
            range.strip_prefix("bytes ").and_then(|range| range.split_once('/')).ok_or_else(wrong)?;
        let (from, to) = span.split_once('-').ok_or_else(wrong)?;
        let (from, to): (u64, u64) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
        let total: Option<u64> = if total == "*" { None } else { Some(total.parse().map_err(|_| wrong())?) };
        // A range that ends early is one more cut; one that ends beyond the end is an error.
        let fits = from == self.done && to >= from && total.is_none_or(|total| to < total);
        if fits { Ok(total) } else { Err(wrong()) }
    }

    fn broken(&self, problem: &str) -> Error {
        let problem = problem.to_owned();
        NetworkError::Truncated { url: self.url.clone(), done: self.done, total: self.total, problem }.into()
    }

    /// Replaces the connection after a pause.
    fn recover(&mut self, problem: &str) -> Result<()> {
        self.body = None;
        if self.kind == Kind::Mutable && self.validator().is_none() && self.done > 0 {
            return Err(self.broken(&format!("{problem}, and the server has no way to go on; try again")));
        }
        let mut problem = self.broken(problem);
        loop {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= self.client.patience().attempts {
                return Err(problem);
            }
            let pause = self.client.patience().pause(self.failures, None);
            self.client.cancel().wait(pause)?;
            let validator = self.validator().map(str::to_owned);
            let opened = (self.open)(self.done, validator.as_deref());
            match opened.and_then(|response| self.accept(response, self.done == 0)) {
                Ok(()) => return Ok(()),
                Err(Error::Network(
                    e @ (NetworkError::Unreachable { .. } | NetworkError::Truncated { .. }),
                )) => {
                    problem = e.into();
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads once. `None` if the connection was replaced, or repeated what is there already.
    fn step(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        self.client.cancel().check()?;
        let Some(body) = &mut self.body else {
            return if self.total == Some(self.done) {
                Ok(Some(0))
            } else {
                self.recover("the connection broke").map(|()| None)
            };
        };
        // Repeated bytes are read as patiently as the rest, and dropped.
        let skips = self.again > 0 && !buf.is_empty();
        let len =
            if skips { buf.len().min(usize::try_from(self.again).unwrap_or(usize::MAX)) } else { buf.len() };
        let started = Instant::now();
        let read = body.read(&mut buf[..len]);
        self.speed.waited += started.elapsed();
        match read {
            Ok(0) if skips => self.recover("it ends earlier than before").map(|()| None),
            Ok(n) if skips => {
                self.again -= n as u64;
                self.speed.bytes += n as u64;
                Ok(None)
            }
            Ok(0) if buf.is_empty() || self.total.is_none_or(|total| self.done == total) => Ok(Some(0)),
            Ok(0) => self.recover("the connection was closed").map(|()| None),
            Ok(n) => {
                let n64 = n as u64;
                if let Some(expected) = self.total.filter(|total| self.done + n64 > *total) {
                    let actual = self.done + n64;
                    self.body = None;
                    return Err(NetworkError::Length { url: self.url.clone(), expected, actual }.into());
                }
                self.done += n64;
                self.progress += n64;
                self.speed.bytes += n64;
                // A server that takes no ranges sends everything again each time: its attempts are counted once.
                if self.progress >= PROGRESS && !self.repeats {
                    (self.progress, self.failures) = (0, 0);
                }
                Ok(Some(n))
            }
            Err(e) => {
                self.client.cancel().check()?;
                self.recover(&problem(&e)).map(|()| None)
            }
        }
    }

    /// Returns whether too little came in the last `slow` of waiting.
    fn crawls(&mut self) -> bool {
        let patience = self.client.patience();
        if self.speed.waited < patience.slow {
            return false;
        }
        let crawls = self.speed.bytes < patience.slow_bytes;
        self.speed = Speed::default();
        crawls
    }
}

/// A short text of the failure, which says more than the library's.
fn problem(error: &io::Error) -> String {
    let timed_out = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ureq::Error>())
        .is_some_and(|inner| matches!(inner, ureq::Error::Timeout(_)));
    if timed_out {
        "the connection stalled".to_owned()
    } else {
        vmette_work::printable(&error.to_string(), 200)
    }
}

impl Read for Download {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.crawls() {
                let slow = format!(
                    "less than {} bytes in {:?}",
                    self.client.patience().slow_bytes,
                    self.client.patience().slow
                );
                self.recover(&slow)?;
            }
            if let Some(read) = self.step(buf)? {
                return Ok(read);
            }
        }
    }
}
