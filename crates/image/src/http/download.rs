//! A file from a server, read to its end though connections break.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::client::{Client, cancelled};
use super::error::NetworkError;
use super::patience::PROGRESS;
use super::response::Response;
use super::wait;
use crate::error::{ProviderError, Result};

/// Whether what is asked for again is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is called by its digest, which whoever reads it checks.
    Immutable,
    /// It may become another file at any time: it is gone on with only when the server says that it is the same one.
    Mutable,
}

/// Makes the request for everything from a byte on; the text is for [`Request::starting_at`](super::Request::starting_at).
type Open = Box<dyn FnMut(u64, Option<&str>) -> Result<Response> + Send>;

/// Reads to the end or fails: with an `io::Error` that carries the [`ProviderError`]. A connection that breaks, stalls
/// or crawls is replaced by another one that goes on where it ended; bounded, but as long as it gets anywhere.
pub(crate) struct Download {
    client: Client,
    open: Open,
    kind: Kind,
    url: String,
    body: Option<Box<dyn Read + Send>>,
    /// Bytes from the file's beginning that have been read, or skipped by who asked for a later part.
    done: u64,
    /// Bytes that this connection brings once more, before those that are wanted.
    again: u64,
    /// Of the whole file, where known.
    total: Option<u64>,
    etag: Option<String>,
    last_modified: Option<String>,
    /// Failures since it last got [`PROGRESS`] bytes further.
    failures: u32,
    progress: u64,
    /// The server takes no ranges: each new connection brings again what is there already.
    repeats: bool,
    speed: Speed,
}

/// What came in how much time of waiting for it.
#[derive(Default)]
struct Speed {
    waited: Duration,
    bytes: u64,
}

impl Download {
    /// Opens `url`, which is for messages, from the byte `from` on. A file that has not `expected` bytes is refused, as
    /// soon as the server says so or at the first byte too many.
    pub(crate) fn start(
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
    pub(crate) fn of(
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

    /// Bytes of the whole file, where known.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    pub(crate) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    pub(crate) fn last_modified(&self) -> Option<&str> {
        self.last_modified.as_deref()
    }

    /// What tells this version of the file from another: a strong `ETag`, else the date.
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
                super::printable(range, 80)
            );
            ProviderError::from(NetworkError::Protocol { url: self.url.clone(), problem })
        };
        let (span, total) =
            range.strip_prefix("bytes ").and_then(|range| range.split_once('/')).ok_or_else(wrong)?;
        let (from, to) = span.split_once('-').ok_or_else(wrong)?;
        let (from, to): (u64, u64) = (from.parse().map_err(|_| wrong())?, to.parse().map_err(|_| wrong())?);
        let total: Option<u64> = if total == "*" { None } else { Some(total.parse().map_err(|_| wrong())?) };
        // A range that ends early is one more cut; one that ends beyond the end is none.
        let fits = from == self.done && to >= from && total.is_none_or(|total| to < total);
        if fits { Ok(total) } else { Err(wrong()) }
    }

    fn broken(&self, problem: &str) -> ProviderError {
        let problem = problem.to_owned();
        NetworkError::Truncated { url: self.url.clone(), done: self.done, total: self.total, problem }.into()
    }

    /// A connection that goes on, after a pause; or what stands in its way.
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
            wait::pause(self.client.context(), pause)?;
            let validator = self.validator().map(str::to_owned);
            let opened = (self.open)(self.done, validator.as_deref());
            match opened.and_then(|response| self.accept(response, self.done == 0)) {
                Ok(()) => return Ok(()),
                Err(ProviderError::Network(
                    e @ (NetworkError::Unreachable { .. } | NetworkError::Truncated { .. }),
                )) => {
                    problem = e.into();
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// One step: Ok(None) when the connection had to be replaced.
    fn step(&mut self, buf: &mut [u8]) -> Result<Option<usize>> {
        self.client.context().check_cancelled()?;
        let Some(body) = &mut self.body else {
            return if self.total == Some(self.done) {
                Ok(Some(0))
            } else {
                self.recover("the connection broke").map(|()| None)
            };
        };
        // What comes once more is read as patiently as the rest, and given to nobody.
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
                let url = self.url.clone();
                let e = cancelled_or(e, |e| {
                    ProviderError::from(NetworkError::Unreachable { url, problem: problem(&e) })
                });
                match e {
                    ProviderError::Network(NetworkError::Unreachable { problem, .. }) => {
                        self.recover(&problem).map(|()| None)
                    }
                    e => Err(e),
                }
            }
        }
    }

    /// Whether too little came in too much time; begins to count anew after each such time.
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

fn cancelled_or(error: io::Error, other: impl FnOnce(io::Error) -> ProviderError) -> ProviderError {
    let is_cancelled = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ProviderError>())
        .is_some_and(|inner| matches!(inner, ProviderError::Cancelled));
    if is_cancelled { cancelled(error).unwrap_or(ProviderError::Cancelled) } else { other(error) }
}

/// What went wrong, in a word that says more than the library's.
fn problem(error: &io::Error) -> String {
    let timed_out = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ureq::Error>())
        .is_some_and(|inner| matches!(inner, ureq::Error::Timeout(_)));
    if timed_out { "the connection stalled".to_owned() } else { super::printable(&error.to_string(), 200) }
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
                self.recover(&slow).map_err(io::Error::other)?;
            }
            if let Some(read) = self.step(buf).map_err(io::Error::other)? {
                return Ok(read);
            }
        }
    }
}
