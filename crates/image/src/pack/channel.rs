//! The way to a program that may not read.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::context::Context;

/// How soon a wait notices that it was given up.
pub(super) const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// Waits for the program to take what is written, unless it is given up: then writing fails with an error that holds
/// [`ProviderError::Cancelled`](crate::ProviderError::Cancelled).
pub(crate) struct Channel {
    socket: UnixStream,
    ctx: Context,
}

impl Channel {
    pub(super) fn new(socket: UnixStream, ctx: &Context) -> io::Result<Self> {
        socket.set_write_timeout(Some(CANCEL_CHECK))?;
        Ok(Self { socket, ctx: ctx.clone() })
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    self.ctx.check_cancelled().map_err(io::Error::other)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
