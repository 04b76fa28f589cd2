//! `sync`: a process that writes dirty data out, and the answer at its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use vmette_wire::streams::{ExitStatus, Input};

use crate::child::Helper;
use crate::stream::{Limit, Out, Progress, Role, Stream, StreamError, Watch};

/// Most `sync` requests at once.
pub(super) static LIMIT: Limit = Limit { max: SYNCS_MAX, what: "sync requests" };

/// See [`LIMIT`].
const SYNCS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Sync {
    id: u32,
    process: Helper,
    exit: Option<ExitStatus>,
}

impl Sync {
    pub(super) fn new(id: u32, pidfd: OwnedFd, watch: Watch<'_>) -> io::Result<Self> {
        watch.readable(pidfd.as_fd(), Role::End)?;
        Ok(Self { id, process: Helper::new(pidfd), exit: None })
    }
}

impl Stream for Sync {
    fn limit(&self) -> &'static Limit {
        &LIMIT
    }

    fn id(&self) -> Option<u32> {
        Some(self.id)
    }

    fn wake(&mut self, _role: Role) -> Result<(), StreamError> {
        if self.exit.is_none() {
            self.exit = self.process.try_wait().map_err(StreamError::Child)?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn input(&mut self, _input: Input, _payload: &[u8], _out: &mut Out) -> Result<Progress, StreamError> {
        Ok(Progress::Idle)
    }

    fn pump(&mut self, out: &mut Out, _scratch: &mut [u8]) -> Result<Progress, StreamError> {
        let done = match self.exit {
            None => return Ok(Progress::Idle),
            Some(ExitStatus::Code(0)) => Ok(()),
            Some(_) => Err("sync was killed in the guest (out of memory?)"),
        };
        out.answer(self.id, done)?;
        Ok(Progress::Finished)
    }

    fn orphan(&mut self) -> bool {
        false
    }
}
