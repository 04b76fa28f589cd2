//! vsock connections, as sockets of the host.

use std::any::Any;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The host's end of one connection. Half-closing either side reaches the other.
pub type VsockStream = UnixStream;

/// A port of the host (CID 2) at which the guest of one machine may connect. Dropping it closes the port; connections
/// that were accepted go on.
pub struct VsockListener {
    port: u32,
    incoming: Mutex<Receiver<VsockStream>>,
    /// Keeps the port open.
    _open: Box<dyn Any + Send + Sync>,
}

impl VsockListener {
    /// For engines: connections come through `incoming`, which must be bounded and end when the machine does; dropping
    /// `open` closes the port.
    pub fn new(port: u32, incoming: Receiver<VsockStream>, open: impl Any + Send + Sync) -> Self {
        Self { port, incoming: Mutex::new(incoming), _open: Box::new(open) }
    }

    /// Its number.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Waits for the next connection; `None` when the machine has ended. One thread at a time gets an answer.
    pub fn accept(&self) -> Option<VsockStream> {
        self.incoming.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv().ok()
    }

    /// Waits like [`accept`](Self::accept), up to a deadline.
    ///
    /// # Errors
    /// The deadline has passed.
    pub fn accept_until(&self, deadline: Instant) -> Result<Option<VsockStream>, TimedOut> {
        let left = deadline.saturating_duration_since(Instant::now());
        let incoming = self.incoming.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match incoming.recv_timeout(left.max(Duration::from_millis(1))) {
            Ok(stream) => Ok(Some(stream)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(TimedOut),
        }
    }
}

impl std::fmt::Debug for VsockListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VsockListener").field("port", &self.port).finish_non_exhaustive()
    }
}

/// Nobody connected in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody connected in time")]
pub struct TimedOut;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn connections_come_in_order_and_end_with_the_machine() {
        let (sender, incoming) = mpsc::sync_channel(1);
        let listener = VsockListener::new(1025, incoming, ());
        assert_eq!(listener.accept_until(Instant::now()).unwrap_err(), TimedOut);
        let (stream, _other) = UnixStream::pair().unwrap();
        sender.send(stream).unwrap();
        assert!(listener.accept().is_some());
        drop(sender);
        assert!(listener.accept().is_none());
        assert!(listener.accept_until(Instant::now()).unwrap().is_none());
        assert_eq!(listener.port(), 1025);
    }
}
