//! `exec`: a command that nobody waits for. It is answered when it runs, and ends with its host.

use std::io;
use std::time::Instant;

use vmette_wire::ResponseHeader;
use vmette_wire::streams::Input;

use crate::child::Child;
use crate::exec::prepare::Started;
use crate::exec::script::Script;
use crate::exec::starting::Start;
use crate::stream::{Limit, Out, Progress, Role, Stream, StreamError, Watch};

/// Most commands in the background at once.
pub(super) static LIMIT: Limit = Limit { max: BACKGROUND_MAX, what: "commands in the background" };

/// See [`LIMIT`].
const BACKGROUND_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Background {
    /// The request, until it is answered.
    id: Option<u32>,
    /// Declared before the script: the process is gone when its file is removed.
    child: Child,
    _script: Option<Script>,
    /// Until it runs.
    start: Option<Start>,
}

impl Background {
    pub(super) fn new(id: u32, started: Started, watch: Watch<'_>) -> io::Result<Self> {
        let Started { child, start, script, .. } = started;
        watch.readable(child.pidfd(), Role::End)?;
        start.watch(watch)?;
        Ok(Self { id: Some(id), child, _script: script, start: Some(start) })
    }
}

impl Stream for Background {
    fn limit(&self) -> &'static Limit {
        &LIMIT
    }

    fn id(&self) -> Option<u32> {
        self.id
    }

    fn wake(&mut self, role: Role) -> Result<(), StreamError> {
        if role == Role::End {
            self.child.try_wait().map_err(StreamError::Child)?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.start.as_ref().and_then(Start::deadline)
    }

    fn input(&mut self, _input: Input, _payload: &[u8], _out: &mut Out) -> Result<Progress, StreamError> {
        Ok(Progress::Idle)
    }

    fn pump(&mut self, out: &mut Out, _scratch: &mut [u8]) -> Result<Progress, StreamError> {
        if let Some(start) = &mut self.start {
            let Some(outcome) = start.outcome(out.is_held()) else { return Ok(Progress::Idle) };
            self.start = None;
            let failed = outcome.is_err();
            if let Some(id) = self.id.take() {
                let header =
                    outcome.map_or_else(|e| ResponseHeader::error(e.to_string()), |_| ResponseHeader::ok());
                out.desktop(id, header, b"")?;
            }
            if failed {
                return Ok(Progress::Finished);
            }
        }
        Ok(if self.child.has_ended() { Progress::Finished } else { Progress::Idle })
    }

    fn orphan(&mut self) -> bool {
        self.id = None;
        true
    }
}
