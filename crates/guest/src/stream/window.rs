//! Flow control of one stream: bytes that may still be sent, and received bytes that are still to be confirmed.

use vmette_wire::streams::{Event, WINDOW};

use super::{Out, StreamError};

/// Bytes that are worth a confirmation; fewer are confirmed when none are left to be passed on.
const CREDIT_STEP: u32 = 32 << 10;

const _: () = assert!(CREDIT_STEP < WINDOW);

/// Both directions of a stream.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Sent and not confirmed by the host.
    sent: u32,
    /// Received and not confirmed by us.
    received: u32,
    /// The part of `received` that was passed on.
    consumed: u32,
}

impl Window {
    /// Bytes that may be sent now.
    pub(crate) fn room(&self) -> usize {
        (WINDOW - self.sent) as usize
    }

    /// Notes that `bytes`, at most [`Window::room`], were sent.
    pub(crate) fn send(&mut self, bytes: usize) {
        self.sent = WINDOW.min(self.sent.saturating_add(saturate(bytes)));
    }

    /// Takes a credit from the host.
    pub(crate) fn credit(&mut self, id: u32, bytes: u32) -> Result<(), StreamError> {
        self.sent = self.sent.checked_sub(bytes).ok_or(StreamError::Credit { id, bytes, sent: self.sent })?;
        Ok(())
    }

    /// Notes bytes from the host. More than the window allows are an error, so that no host can make the agent hold more.
    pub(crate) fn receive(&mut self, id: u32, bytes: usize) -> Result<(), StreamError> {
        let received = self.received.saturating_add(saturate(bytes));
        if received > WINDOW {
            return Err(StreamError::Window { id, received });
        }
        self.received = received;
        Ok(())
    }

    /// Notes that `bytes` of those received were passed on.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.consumed = self.received.min(self.consumed.saturating_add(saturate(bytes)));
    }

    /// Confirms the bytes that were passed on, if they are worth a frame; `drained`: no others are waiting.
    pub(crate) fn confirm(&mut self, id: u32, drained: bool, out: &mut Out) -> Result<(), StreamError> {
        if self.consumed >= CREDIT_STEP || (drained && self.consumed > 0) {
            let bytes = std::mem::take(&mut self.consumed);
            self.received -= bytes;
            out.event(id, Event::Credit { bytes }, b"")?;
        }
        Ok(())
    }
}

fn saturate(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_side_may_exceed_the_window() {
        let mut window = Window::default();
        window.send(window.room());
        assert_eq!(window.room(), 0);
        window.credit(1, 10).unwrap();
        assert_eq!(window.room(), 10);
        assert!(window.credit(1, WINDOW).is_err());
        window.receive(1, WINDOW as usize).unwrap();
        assert!(window.receive(1, 1).is_err());
        assert!(Window::default().receive(1, usize::MAX).is_err());
    }

    #[test]
    fn small_amounts_are_confirmed_when_nothing_waits() {
        let (mut window, mut out) = (Window::default(), Out::default());
        window.receive(1, 100).unwrap();
        window.consume(60);
        window.confirm(1, false, &mut out).unwrap();
        assert!(out.is_empty());
        window.consume(40);
        window.confirm(1, true, &mut out).unwrap();
        assert!(!out.is_empty());
        window.receive(1, WINDOW as usize).unwrap();
    }
}
