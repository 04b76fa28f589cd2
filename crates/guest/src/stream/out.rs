//! Frames on their way to the host. Small ones leave together: each write to a virtio port is an exit of the machine.

use std::fmt::Display;
use std::os::fd::AsFd;

use rustix::io::{Errno, write};
use vmette_wire::frame::{self, FrameError};
use vmette_wire::message::encode_response;
use vmette_wire::streams::{Event, Failure};
use vmette_wire::{Reply, ResponseHeader};

/// Bytes in the queue from which on nothing more is read from commands and files.
const FULL: usize = 1 << 20;

/// Bytes in the queue from which on no more requests are taken: a host that asks without reading must wait.
const CONGESTED: usize = 8 << 20;

/// Longest message of an error, in bytes. It quotes names that are as long as a frame, or much longer with their escapes,
/// and a header has to hold it. Hosts show about as much.
const MESSAGE_MAX: usize = 2000;

/// Mark in the place of what was cut out.
const CUT: &str = " […] ";

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Out {
    buffer: Vec<u8>,
    /// Bytes at the front that have been written.
    start: usize,
    /// Bytes that are held back while nothing more may be sent.
    held: Option<Vec<u8>>,
}

impl Out {
    /// Queues an event of a stream.
    pub(crate) fn event(&mut self, id: u32, event: Event, payload: &[u8]) -> Result<(), FrameError> {
        self.reply(id, &Reply::Event(event), payload)
    }

    /// Queues the end of a stream that has failed.
    pub(crate) fn failed(&mut self, id: u32, failure: impl Into<Failure>) -> Result<(), FrameError> {
        let Failure { kind, message } = failure.into();
        self.event(id, Event::Failed(Failure { kind, message: shortened(message) }), b"")
    }

    /// Queues the answer to a request that has one.
    pub(crate) fn answer(&mut self, id: u32, outcome: Result<(), impl Display>) -> Result<(), FrameError> {
        let reply = outcome.map_or_else(|e| Reply::Refused(shortened(e.to_string())), |()| Reply::Done);
        self.reply(id, &reply, b"")
    }

    /// Queues the answer to a request of the desktop.
    pub(crate) fn desktop(
        &mut self,
        id: u32,
        header: ResponseHeader,
        payload: &[u8],
    ) -> Result<(), FrameError> {
        let header = ResponseHeader { error: header.error.map(shortened), ..header };
        self.push(&encode_response(id, &header, payload)?);
        Ok(())
    }

    fn reply(&mut self, id: u32, reply: &Reply, payload: &[u8]) -> Result<(), FrameError> {
        self.push(&frame::encode(id, reply, payload)?);
        Ok(())
    }

    /// Holds back whatever is queued from here on, until [`release`](Self::release) or [`clear`](Self::clear).
    pub(crate) fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub(crate) fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.push(&held);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(held) = &mut self.held {
            held.extend_from_slice(bytes);
            return;
        }
        if self.start > 0 && self.start >= self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    fn waiting(&self) -> usize {
        self.buffer.len() - self.start + self.held.as_ref().map_or(0, Vec::len)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= FULL
    }

    pub(crate) fn is_congested(&self) -> bool {
        self.waiting() >= CONGESTED
    }

    /// Writes as much as the port takes, except what is held back; `false` when no room can come of writing more.
    pub(crate) fn flush(&mut self, port: impl AsFd) -> Result<bool, Errno> {
        while self.start < self.buffer.len() {
            match write(&port, &self.buffer[self.start..]) {
                Ok(n) => self.start += n,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        self.empty();
        Ok(!self.is_held())
    }

    fn empty(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(FULL);
        self.start = 0;
    }

    /// Forgets everything: there is nobody left to read it.
    pub(crate) fn clear(&mut self) {
        self.held = None;
        self.empty();
    }
}

/// A message without its middle if it is too long: what failed is at its beginning, and why at its end.
fn shortened(message: String) -> String {
    if message.len() <= MESSAGE_MAX {
        return message;
    }
    let half = (MESSAGE_MAX - CUT.len()) / 2;
    let begin = &message[..message.floor_char_boundary(half)];
    let end = &message[message.ceil_char_boundary(message.len() - half)..];
    [begin, CUT, end].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_message_that_is_too_long_loses_its_middle() {
        for fits in ["", "short", &"x".repeat(MESSAGE_MAX)] {
            assert_eq!(shortened(fits.to_owned()), fits);
        }
        for long in ["x".repeat(MESSAGE_MAX + 1), "€".repeat(MESSAGE_MAX), "a€".repeat(MESSAGE_MAX)] {
            let short = shortened(format!("begin{long}end"));
            assert!(short.len() <= MESSAGE_MAX && short.contains(CUT), "{}", short.len());
            assert!(short.starts_with("begin") && short.ends_with("end"));
        }
    }

    #[test]
    fn what_is_held_back_leaves_once_it_is_released_and_never_when_it_is_cleared() {
        let (mut host, port) = UnixStream::pair().unwrap();
        host.set_nonblocking(true).unwrap();
        let mut sent = |out: &mut Out| {
            let flushed = out.flush(&port).unwrap();
            let mut bytes = vec![0; 4096];
            let read = host.read(&mut bytes).unwrap_or_default();
            (flushed, read)
        };
        let mut out = Out::default();
        out.event(1, Event::Done, b"").unwrap();
        out.hold();
        out.event(2, Event::Done, b"").unwrap();
        let one = frame::encode(1, &Reply::Event(Event::Done), b"").unwrap().len();
        assert_eq!(sent(&mut out), (false, one));
        assert_eq!(sent(&mut out), (false, 0));
        out.hold();
        out.release();
        assert_eq!(sent(&mut out), (true, one), "held twice is released once");
        out.hold();
        out.event(3, Event::Done, b"").unwrap();
        out.clear();
        assert_eq!(sent(&mut out), (true, 0));
    }
}
