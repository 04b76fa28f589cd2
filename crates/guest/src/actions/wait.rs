//! `wait`: an answer after some time.

use std::time::{Duration, Instant};

use vmette_wire::ResponseHeader;
use vmette_wire::streams::Input;

use super::job::{ActionError, JOBS, WAIT_MAX_MS};
use crate::stream::{Limit, Out, Progress, Role, Stream, StreamError};

#[derive(Debug)]
pub(super) struct Wait {
    id: u32,
    deadline: Instant,
}

impl Wait {
    pub(super) fn new(id: u32, ms: u64) -> Result<Self, ActionError> {
        if ms > WAIT_MAX_MS {
            return Err(ActionError::Wait(ms));
        }
        Ok(Self { id, deadline: Instant::now() + Duration::from_millis(ms) })
    }
}

impl Stream for Wait {
    fn limit(&self) -> &'static Limit {
        &JOBS
    }

    fn id(&self) -> Option<u32> {
        Some(self.id)
    }

    fn wake(&mut self, _role: Role) -> Result<(), StreamError> {
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    fn input(&mut self, _input: Input, _payload: &[u8], _out: &mut Out) -> Result<Progress, StreamError> {
        Ok(Progress::Idle)
    }

    fn pump(&mut self, out: &mut Out, _scratch: &mut [u8]) -> Result<Progress, StreamError> {
        if Instant::now() < self.deadline {
            return Ok(Progress::Idle);
        }
        out.desktop(self.id, ResponseHeader::ok(), b"")?;
        Ok(Progress::Finished)
    }

    fn orphan(&mut self) -> bool {
        false
    }
}
