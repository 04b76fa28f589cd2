//! Files into and out of a running guest.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use vmette_wire::agent::{Op, Put};
use vmette_wire::frame::CHUNK_MAX;

use crate::Error;
use crate::connection::Connection;
use crate::stream::{STEP_TIMEOUT, StreamEnd, StreamQueue};

/// A file transfer depends on nothing but the agent: one that makes no progress is given up.
const LIMIT: Option<Duration> = Some(STEP_TIMEOUT);

/// What `get` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileInfo {
    /// Bytes that were copied.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
}

/// A transfer under way. However the host leaves it, the guest is told, and nothing of it stays on either side.
struct Transfer<'a> {
    connection: &'a Connection,
    id: u32,
    queue: Arc<StreamQueue>,
}

impl<'a> Transfer<'a> {
    fn begin(connection: &'a Connection, op: &Op) -> Result<Self, Error> {
        let queue = Arc::new(StreamQueue::new());
        let id = connection.open_stream(op, &[], &queue)?;
        Ok(Self { connection, id, queue })
    }

    fn send(&self, op: &Op, payload: &[u8]) -> Result<(), Error> {
        self.connection.send(self.id, op, payload)
    }

    fn finish(&self) -> Result<(), Error> {
        match self.queue.wait_end(LIMIT)? {
            StreamEnd::Done => Ok(()),
            StreamEnd::Failed(failure) => Err(Error::Request(failure)),
            StreamEnd::Aborted(cause) => Err(Error::Agent(cause)),
            StreamEnd::Exited(_) => {
                Err(Error::Agent("the guest ended a file as if it were a command".into()))
            }
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if self.queue.has_ended() {
            return;
        }
        // The guest removes the half-written file. A connection that takes no signal has ended, and the guest's end with it.
        let _ = self.send(&Op::Signal { signal: libc::SIGKILL }, &[]);
        // What still comes is for nobody: a guest that goes on sending is given no memory to fill.
        self.connection.forget(self.id);
    }
}

/// Copies `source` to its end into a file of the guest.
pub(crate) fn put(
    connection: &Connection,
    path: &str,
    mode: u32,
    source: &mut dyn Read,
) -> Result<u64, Error> {
    let transfer = Transfer::begin(connection, &Op::Put(Put { path: path.to_owned(), mode }))?;
    let mut buffer = vec![0; CHUNK_MAX];
    let mut copied = 0;
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.into()),
        };
        let mut bytes = &buffer[..n];
        while !bytes.is_empty() {
            let n = transfer.queue.reserve(bytes.len(), LIMIT)?;
            transfer.send(&Op::Data, &bytes[..n])?;
            bytes = &bytes[n..];
        }
        copied += n as u64;
    }
    transfer.send(&Op::Eof, &[])?;
    transfer.finish().map(|()| copied)
}

/// Copies a file of the guest into `target`.
pub(crate) fn get(connection: &Connection, path: &str, target: &mut dyn Write) -> Result<FileInfo, Error> {
    let transfer = Transfer::begin(connection, &Op::Get { path: path.to_owned() })?;
    let (_, mode) = transfer.queue.wait_file()?;
    let mut size = 0;
    while let Some((_, bytes, credit)) = transfer.queue.next_chunk(LIMIT)? {
        target.write_all(&bytes)?;
        size += bytes.len() as u64;
        if credit > 0 {
            transfer.send(&Op::Credit { bytes: credit }, &[])?;
        }
    }
    transfer.finish().map(|()| FileInfo { size, mode })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use vmette_wire::agent::{Event, Request};
    use vmette_wire::frame;

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is broken"))
        }
    }

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is broken"))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_transfer_that_the_host_gives_up_is_ended_and_forgotten() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let connection = Connection::new(host, || None).unwrap();
        // Never ends a stream by itself.
        let seen = thread::spawn(move || {
            let mut signals = 0;
            while let Some(frame) = frame::read_frame(&mut guest).unwrap() {
                match Request::parse(&frame.header).unwrap() {
                    Request::Op(Op::Get { .. }) => {
                        let file = Event::File { size: 1, mode: 0o644 };
                        for (event, payload) in [(file, &b""[..]), (Event::Data, b"x")] {
                            frame::write_frame(&mut guest, frame.id, &event, payload).unwrap();
                        }
                    }
                    Request::Op(Op::Signal { .. }) => signals += 1,
                    _ => {}
                }
            }
            signals
        });
        assert!(matches!(put(&connection, "/x", 0o644, &mut Broken), Err(Error::Io(_))));
        assert!(matches!(get(&connection, "/x", &mut Broken), Err(Error::Io(_))));
        assert_eq!(connection.waiting(), 0);
        connection.close("done");
        assert_eq!(seen.join().unwrap(), 2, "the guest is told of both");
    }
}
