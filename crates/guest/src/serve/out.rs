//! Frames on their way to the host. Small ones leave together: each write to a virtio port is an exit of the machine.

use std::os::fd::AsFd;

use rustix::io::{Errno, write};
use vmette_wire::action::ResponseHeader;
use vmette_wire::agent::{Event, Failure};
use vmette_wire::frame::{self, FrameError};

/// With that many bytes waiting nothing more is read from commands and files.
const FULL: usize = 1 << 20;

/// With that many bytes waiting no more requests are taken: a host that asks without reading must wait.
const CONGESTED: usize = 8 << 20;

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Out {
    buffer: Vec<u8>,
    /// Bytes at the front that have been written.
    start: usize,
}

impl Out {
    pub(crate) fn event(&mut self, id: u32, event: &Event, payload: &[u8]) -> Result<(), FrameError> {
        self.push(&frame::encode(id, event, payload)?);
        Ok(())
    }

    pub(crate) fn failed(&mut self, id: u32, failure: impl Into<Failure>) -> Result<(), FrameError> {
        self.event(id, &Event::Failed(failure.into()), b"")
    }

    pub(crate) fn respond(
        &mut self,
        id: u32,
        header: &ResponseHeader,
        payload: &[u8],
    ) -> Result<(), FrameError> {
        self.push(&frame::encode_response(id, header, payload)?);
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start >= self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    fn waiting(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= FULL
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.waiting() >= CONGESTED
    }

    /// Writes what the port takes; `false` when it takes no more for now.
    pub(crate) fn flush(&mut self, port: impl AsFd) -> Result<bool, Errno> {
        while !self.is_empty() {
            match write(&port, &self.buffer[self.start..]) {
                Ok(n) => self.start += n,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        self.clear();
        Ok(true)
    }

    /// Forgets everything: there is nobody left to read it.
    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(FULL);
        self.start = 0;
    }
}
