//! The three streams of this process. Each may be in non-blocking mode: that belongs to the open file, which others have
//! too, such as a program at the other end of a terminal or of a socket. They are waited for then.

use std::io::{self, Read, Stderr, Stdout, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use vmette::Process;

/// How much of stdin is read at once.
const STDIN_BUFFER: usize = 64 << 10;

/// Writes to stdout; a reader that has gone away needs no answer.
pub(crate) fn print_out(text: &str) {
    let _ = stdout().write_all(text.as_bytes());
}

/// Writes to stderr; there is nowhere to report a failure to.
pub(crate) fn print_err(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}

/// A line of vmette's own.
pub(crate) fn say(text: &str) {
    print_err(&format!("[vmette] {text}\n"));
}

pub(crate) fn stdout() -> Waiting<Stdout> {
    Waiting(io::stdout())
}

pub(crate) fn stderr() -> Waiting<Stderr> {
    Waiting(io::stderr())
}

/// Feeds this process's stdin to the command until either ends. The thread is left to itself: a blocked read of a
/// terminal cannot be called off, and ends with the process.
pub(crate) fn forward_stdin(process: &Arc<Process>) -> io::Result<()> {
    let process = Arc::downgrade(process);
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut stdin = Waiting(io::stdin());
        let mut buffer = vec![0; STDIN_BUFFER];
        loop {
            let read = stdin.read(&mut buffer);
            let Some(process) = process.upgrade() else { return };
            let read = read.unwrap_or_else(|e| {
                say(&format!("error: stdin: {e}; the command's ends here"));
                0
            });
            // The command ended, or the connection did: both are seen by whoever waits for the command.
            if read == 0 {
                let _ = process.close_stdin();
                return;
            }
            if process.write_stdin(&buffer[..read]).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// A stream that blocks, whatever its mode. Only for those that take nothing when they say that they would block.
pub(crate) struct Waiting<S>(S);

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
