//! A device state on its way between QEMU and its file, through a socket.
//!
//! QEMU 11.0 refuses to migrate to or from a file behind `fd:`, and QEMU before 8.2 does not know `file:`. A socket behind
//! `fd:` is what every version takes: <https://www.qemu.org/docs/master/about/removed-features.html>.

use std::fs::File;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::SendFlags;

use crate::snapshot::STATE_MAX;

/// Bytes that are handed to the socket at once.
const CHUNK: usize = 64 << 10;

/// Time for QEMU to take or to give the next bytes.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// A thread that copies between a file and a socket whose other end is for QEMU. Dropping it ends the thread, whatever
/// QEMU does.
#[derive(Debug)]
pub(crate) struct Transfer {
    ours: UnixStream,
    theirs: Option<UnixStream>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Transfer {
    /// What QEMU writes goes to the file, up to [`STATE_MAX`] bytes.
    pub(crate) fn to_file(file: &File) -> io::Result<Self> {
        let mut file = file.try_clone()?;
        Self::start("save-state", move |ours| {
            let written = io::copy(&mut (&ours).take(STATE_MAX + 1), &mut file)?;
            if written > STATE_MAX {
                let reason = format!("the device state has more than {STATE_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
            }
            Ok(())
        })
    }

    /// QEMU reads what the file has, up to [`STATE_MAX`] bytes.
    pub(crate) fn from_file(file: &File) -> io::Result<Self> {
        let mut file = file.try_clone()?.take(STATE_MAX);
        Self::start("load-state", move |ours| {
            let mut chunk = vec![0; CHUNK];
            loop {
                let mut left = match file.read(&mut chunk)? {
                    0 => return ours.shutdown(Shutdown::Write),
                    read => &chunk[..read],
                };
                while !left.is_empty() {
                    // A QEMU that has died must not end this process with SIGPIPE.
                    let sent =
                        rustix::io::retry_on_intr(|| rustix::net::send(&ours, left, SendFlags::NOSIGNAL))?;
                    left = &left[sent..];
                }
            }
        })
    }

    fn start(
        name: &str,
        copy: impl FnOnce(UnixStream) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(STALL_LIMIT))?;
        ours.set_write_timeout(Some(STALL_LIMIT))?;
        let end = ours.try_clone()?;
        let on_failure = ours.try_clone()?;
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            copy(end).inspect_err(|_| {
                // QEMU is to fail at once, and not to wait for what nobody copies any more.
                let _ = on_failure.shutdown(Shutdown::Both);
            })
        })?;
        Ok(Self { ours, theirs: Some(theirs), thread: Some(thread) })
    }

    /// QEMU's end, for [`crate::qmp::Qmp::send_fd`].
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.theirs.as_ref().unwrap_or(&self.ours).as_fd()
    }

    /// Closes this process's copy of QEMU's end: the stream is to end with QEMU's own.
    pub(crate) fn handed_over(&mut self) {
        self.theirs = None;
    }

    /// Waits until QEMU has closed its end and everything is copied.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.handed_over();
        self.join()
    }

    /// Ends the copying, and tells whether the file was the cause of its failure.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        self.ours.shutdown(Shutdown::Both)?;
        self.join().or_else(|e| if e.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) })
    }

    fn join(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Either side of the thread returns at once then. What it had left to copy is of no use to anybody.
            let _ = self.ours.shutdown(Shutdown::Both);
            let _ = self.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    fn taken(transfer: &mut Transfer) -> UnixStream {
        let end = UnixStream::from(transfer.end().try_clone_to_owned().unwrap());
        transfer.handed_over();
        end
    }

    #[test]
    fn a_state_arrives_whole_in_either_direction() {
        let state: Vec<u8> = (0..=250).cycle().take(3 * CHUNK + 5).collect();
        let mut file = tempfile::tempfile().unwrap();
        let mut saving = Transfer::to_file(&file).unwrap();
        let mut qemu = taken(&mut saving);
        qemu.write_all(&state).unwrap();
        drop(qemu);
        saving.finish().unwrap();

        file.seek(SeekFrom::Start(0)).unwrap();
        let mut loading = Transfer::from_file(&file).unwrap();
        let mut read = Vec::new();
        taken(&mut loading).read_to_end(&mut read).unwrap();
        loading.finish().unwrap();
        assert!(read == state);
    }

    #[test]
    fn a_state_without_end_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let mut saving = Transfer::to_file(&file).unwrap();
        let qemu = taken(&mut saving);
        // The reader stops at the limit and goes, so that the writer fails at last.
        let zeros = vec![0; 1 << 20];
        let written = (0..=STATE_MAX >> 20)
            .try_for_each(|_| rustix::net::send(&qemu, &zeros, SendFlags::NOSIGNAL).map(drop));
        assert!(written.is_ok() || written == Err(rustix::io::Errno::PIPE));
        drop(qemu);
        assert_eq!(saving.finish().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(file.metadata().unwrap().len() <= STATE_MAX + 1);
    }

    #[test]
    fn dropping_it_ends_a_thread_that_qemu_lets_wait() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        let mut loading = Transfer::from_file(&file).unwrap();
        let never_reads = taken(&mut loading);
        drop(loading);
        let mut saving = Transfer::to_file(&file).unwrap();
        let never_writes = taken(&mut saving);
        drop(saving);
        drop((never_reads, never_writes));
    }
}
