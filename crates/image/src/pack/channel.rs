//! The way to a program that may not read.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vmette_work::Work;

/// Longest time between two looks at the cancel token.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// Waits for the program to take what is written. Once the work is cancelled, writing fails.
pub(crate) struct Channel {
    socket: UnixStream,
    work: Work,
}

impl Channel {
    pub(super) fn new(socket: UnixStream, work: &Work) -> io::Result<Self> {
        socket.set_write_timeout(Some(CANCEL_CHECK))?;
        Ok(Self { socket, work: work.clone() })
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    self.work.check()?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
