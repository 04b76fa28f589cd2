//! `exec_capture`: a command whose merged output and exit status are the answer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::{Errno, read};
use vmette_wire::ResponseHeader;
use vmette_wire::streams::{ExitStatus, Input};

use super::job::JOBS;
use crate::child::Child;
use crate::exec::ExecError;
use crate::exec::prepare::Started;
use crate::exec::script::Script;
use crate::exec::starting::Start;
use crate::stream::{Limit, Out, Progress, Role, Stream, StreamError, Watch};

/// Time limit of a command whose request has none, in milliseconds.
const DEFAULT_MS: u64 = 15_000;

/// Longest time limit of a command, in milliseconds: less than hosts wait for an answer.
const MAX_MS: u64 = 25_000;

/// Output that is kept, in bytes.
const CAPTURE_MAX: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Capture {
    id: u32,
    child: Child,
    _script: Option<Script>,
    /// Until it runs.
    start: Option<Start>,
    output: Option<OwnedFd>,
    ready: bool,
    kept: Vec<u8>,
    truncated: bool,
    deadline: Instant,
    /// It was killed at its deadline.
    expired: bool,
    exit: Option<ExitStatus>,
}

impl Capture {
    pub(super) fn new(
        id: u32,
        started: Started,
        timeout_ms: Option<u64>,
        watch: Watch<'_>,
    ) -> io::Result<Self> {
        let Started { child, start, stdio, script } = started;
        watch.readable(child.pidfd(), Role::End)?;
        start.watch(watch)?;
        if let Some(output) = &stdio.stdout {
            watch.readable(output.as_fd(), Role::Output)?;
        }
        let limit = timeout_ms.filter(|ms| *ms > 0).unwrap_or(DEFAULT_MS).min(MAX_MS);
        Ok(Self {
            id,
            child,
            _script: script,
            start: Some(start),
            output: stdio.stdout,
            ready: false,
            kept: Vec::new(),
            truncated: false,
            deadline: Instant::now() + Duration::from_millis(limit),
            expired: false,
            exit: None,
        })
    }

    fn advance(&mut self, held: bool, scratch: &mut [u8]) -> Result<Progress, ExecError> {
        if !self.expired && self.deadline <= Instant::now() {
            self.expired = true;
            self.child.kill();
        }
        // A command that is out of time has been killed, and that is the answer.
        if let Some(start) = self.start.as_mut().filter(|_| !self.expired) {
            let Some(outcome) = start.outcome(held) else { return Ok(Progress::Idle) };
            outcome?;
            self.start = None;
        }
        if let Some(output) = self.output.as_ref().filter(|_| self.ready) {
            match read(output, &mut *scratch) {
                Ok(n) if n > 0 => {
                    let keep = n.min(CAPTURE_MAX - self.kept.len());
                    self.kept.extend_from_slice(&scratch[..keep]);
                    self.truncated |= keep < n;
                    // After the command's end only processes that it left behind print. Nobody waits for their end once
                    // nothing of it would be kept.
                    if !(self.truncated && self.exit.is_some()) {
                        return Ok(Progress::More);
                    }
                    self.output = None;
                }
                Err(Errno::INTR) => return Ok(Progress::More),
                Err(Errno::AGAIN) if self.exit.is_none() => self.ready = false,
                _ => self.output = None,
            }
        }
        let over = self.output.is_none() && self.exit.is_some();
        Ok(if over { Progress::Finished } else { Progress::Idle })
    }

    fn answer(&mut self, out: &mut Out) -> Result<(), StreamError> {
        if self.truncated {
            self.kept.extend_from_slice(format!("\n[output truncated at {CAPTURE_MAX} bytes]\n").as_bytes());
        }
        let exit_code = match self.exit {
            Some(ExitStatus::Code(code)) if !self.expired => Some(code),
            _ => None,
        };
        Ok(out.desktop(self.id, ResponseHeader { exit_code, ..ResponseHeader::ok() }, &self.kept)?)
    }
}

impl Stream for Capture {
    fn limit(&self) -> &'static Limit {
        &JOBS
    }

    fn id(&self) -> Option<u32> {
        Some(self.id)
    }

    fn wake(&mut self, role: Role) -> Result<(), StreamError> {
        self.ready = true;
        if role == Role::End && self.exit.is_none() {
            self.exit = self.child.try_wait().map_err(StreamError::Child)?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        if self.expired {
            return None;
        }
        let start = self.start.as_ref().and_then(Start::deadline);
        Some(start.map_or(self.deadline, |start| start.min(self.deadline)))
    }

    fn input(&mut self, _input: Input, _payload: &[u8], _out: &mut Out) -> Result<Progress, StreamError> {
        Ok(Progress::Idle)
    }

    fn pump(&mut self, out: &mut Out, scratch: &mut [u8]) -> Result<Progress, StreamError> {
        match self.advance(out.is_held(), scratch) {
            Ok(Progress::Finished) => self.answer(out)?,
            Ok(progress) => return Ok(progress),
            Err(e) => out.desktop(self.id, ResponseHeader::error(e.to_string()), b"")?,
        }
        Ok(Progress::Finished)
    }

    fn orphan(&mut self) -> bool {
        false
    }
}
