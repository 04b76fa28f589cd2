//! A program that does one piece of work and ends.

use std::fmt;
use std::io::{self, Read};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use vmette_work::{Cancelled, Work};

use crate::command::Command;
use crate::running::{Running, Stream};
use crate::tail::Ear;

/// Why a tool's work is not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It could not be started.
    #[error("{tool} cannot be started: {source}")]
    Start {
        /// The tool's name.
        tool: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It ended badly.
    #[error("{tool} failed ({status}): {message}")]
    Failed {
        /// The tool's name.
        tool: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed, or the causes in it. Without control characters.
        message: String,
    },
    /// It was ended by us.
    #[error("{tool} took longer than {}, the longest that it may take, and was ended", span(*.limit))]
    TimedOut {
        /// The tool's name.
        tool: String,
        /// How long it may take.
        limit: Duration,
    },
    /// Its output could not be read.
    #[error("cannot read from {tool}: {source}")]
    Read {
        /// The tool's name.
        tool: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The work was given up.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

fn span(limit: Duration) -> String {
    match limit.as_secs() {
        seconds if seconds < 120 => format!("{} s", limit.as_secs_f32()),
        seconds => format!("{} minutes", seconds / 60),
    }
}

/// Everything about a tool that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// The first bytes of its standard output, as many as were asked for.
    pub output: Vec<u8>,
    /// True if there was more.
    pub truncated: bool,
    /// The last words of its standard error, or the causes in it. Without control characters.
    pub message: String,
}

/// A command with a limit of time, whose standard error is listened to.
pub struct Tool {
    pub(crate) name: String,
    pub(crate) command: Command,
    pub(crate) time_max: Duration,
    pub(crate) clean_up_max: Duration,
    pub(crate) ear: Ear,
}

impl Tool {
    /// A tool that may take `time_max`. Messages call it `name`. It speaks English.
    #[must_use]
    pub fn new(name: impl Into<String>, command: Command, time_max: Duration) -> Self {
        Self {
            name: name.into(),
            command: command.env("LC_ALL", "C"),
            time_max,
            clean_up_max: Duration::ZERO,
            ear: Ear { is_cause: |_| false, on_line: Box::new(|_| ()) },
        }
    }

    /// Tells the lines of its standard error that say why it failed; if none does, the last ones are taken to.
    #[must_use]
    pub fn causes(mut self, is_cause: fn(&str) -> bool) -> Self {
        self.ear.is_cause = is_cause;
        self
    }

    /// Hears each line of its standard error, without control characters.
    #[must_use]
    pub fn on_line(mut self, on_line: impl FnMut(&str) + Send + 'static) -> Self {
        self.ear.on_line = Box::new(on_line);
        self
    }

    /// When it is given up it is asked to end first, and killed after this time. Without this it is killed at once.
    #[must_use]
    pub fn clean_up(mut self, clean_up_max: Duration) -> Self {
        self.clean_up_max = clean_up_max;
        self
    }

    /// Starts it. Its standard input and output are those of the command.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn start(self, work: &Work) -> Result<Running, Error> {
        Running::start(self, work)
    }

    /// Starts it, and reads its standard output as it comes.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn stream(self, work: &Work) -> Result<Stream, Error> {
        Stream::start(self, work)
    }

    /// Runs it to its end, and keeps the first `max` bytes of its standard output; the rest is read and dropped.
    ///
    /// # Errors
    /// [`Error::Start`], [`Error::TimedOut`], [`Error::Read`], [`Error::Cancelled`]. A bad end is no error here.
    pub fn outcome(self, max: usize, work: &Work) -> Result<Outcome, Error> {
        let mut stream = self.stream(work)?;
        let (mut output, mut rest) = (Vec::new(), 0);
        stream.copy_to_end(max, &mut output, &mut rest)?;
        let (status, message) = stream.end()?;
        Ok(Outcome { status, output, truncated: rest > 0, message })
    }

    /// Does what [`outcome`](Self::outcome) does, and takes a bad end for an error.
    ///
    /// # Errors
    /// Those, and [`Error::Failed`].
    pub fn output(self, max: usize, work: &Work) -> Result<Vec<u8>, Error> {
        let tool = self.name.clone();
        let Outcome { status, output, message, .. } = self.outcome(max, work)?;
        if status.success() { Ok(output) } else { Err(Error::Failed { tool, status, message }) }
    }
}

impl Stream {
    /// Keeps the first `max` bytes, and counts the others.
    fn copy_to_end(&mut self, max: usize, kept: &mut Vec<u8>, rest: &mut u64) -> Result<(), Error> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            match self.read_some(&mut chunk)? {
                0 => return Ok(()),
                read => {
                    let keep = read.min(max - kept.len());
                    kept.extend_from_slice(&chunk[..keep]);
                    *rest += (read - keep) as u64;
                }
            }
        }
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool")
            .field("name", &self.name)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// The deadline of a tool that starts now; `None` when its limit is longer than the clock goes.
pub(crate) fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

/// A stream that ends only when the tool has ended well: output of one that failed is not whole.
impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.has_ended() || buffer.is_empty() {
            return Ok(0);
        }
        match self.read_some(buffer).map_err(io::Error::other)? {
            0 => self.finish().map(|()| 0).map_err(io::Error::other),
            read => Ok(read),
        }
    }
}
