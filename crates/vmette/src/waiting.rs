//! Streams in non-blocking mode, waited for.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};

/// A stream that blocks, whatever its mode, which belongs to the open file that others may have too. Only for those that
/// take nothing when they say that they would block.
#[derive(Debug)]
pub struct Waiting<S>(S);

impl<S> Waiting<S> {
    /// Wraps a stream.
    pub fn new(stream: S) -> Self {
        Self(stream)
    }
}

impl<S: AsFd> Waiting<S> {
    fn until_ready<T>(
        &mut self,
        for_what: PollFlags,
        mut attempt: impl FnMut(&mut S) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match attempt(&mut self.0) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(self.0.as_fd(), for_what)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl<S: AsFd + Write> Write for Waiting<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until_ready(PollFlags::OUT, |stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.until_ready(PollFlags::OUT, Write::flush)
    }
}

impl<S: AsFd + Read> Read for Waiting<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.until_ready(PollFlags::IN, |stream| stream.read(buffer))
    }
}

/// Waits until the stream is ready, or until the next call on it says what is wrong with it.
fn wait(stream: BorrowedFd<'_>, for_what: PollFlags) -> io::Result<()> {
    let mut streams = [PollFd::from_borrowed_fd(stream, for_what)];
    while let Err(e) = poll(&mut streams, None) {
        if e != rustix::io::Errno::INTR {
            return Err(e.into());
        }
    }
    // Some systems cannot wait for every kind of file: to try again at once, and for ever, would keep a processor busy.
    if streams[0].revents().contains(PollFlags::NVAL) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(())
}
