//! Files into and out of a running guest.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use vmette_wire::frame::CHUNK_MAX;
use vmette_wire::streams::{Get, Put};
use vmette_wire::{Input, Open, RootName};

use crate::Error;
use crate::connection::{Connection, RootHandle};
use crate::stream::{Kind, STEP_TIMEOUT, StreamEnd, StreamQueue};

/// A file transfer depends on nothing but the agent: one that makes no progress is given up.
const LIMIT: Option<Duration> = Some(STEP_TIMEOUT);

/// A file that `get` has copied.
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
    fn begin(
        place: &'a RootHandle,
        kind: Kind,
        request: impl FnOnce(RootName) -> Open,
    ) -> Result<Self, Error> {
        let queue = Arc::new(StreamQueue::new(kind));
        let id = place.open(request, &[], &queue)?;
        Ok(Self { connection: place.connection(), id, queue })
    }

    fn send(&self, input: Input, payload: &[u8]) -> Result<(), Error> {
        self.connection.send(self.id, input, payload)
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
        let _ = self.send(Input::Signal { signal: libc::SIGKILL }, &[]);
        // Nobody takes the rest: a guest that goes on sending is given no memory to fill.
        self.connection.forget(self.id);
    }
}

/// Copies `source` to its end into a file of the guest.
pub(crate) fn put(place: &RootHandle, path: &str, mode: u32, source: &mut dyn Read) -> Result<u64, Error> {
    let transfer =
        Transfer::begin(place, Kind::Put, |root| Open::Put(Put { root, path: path.to_owned(), mode }))?;
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
            transfer.send(Input::Data, &bytes[..n])?;
            bytes = &bytes[n..];
        }
        copied += n as u64;
    }
    transfer.send(Input::Eof, &[])?;
    transfer.finish().map(|()| copied)
}

/// Copies a file of the guest into `target`.
pub(crate) fn get(place: &RootHandle, path: &str, target: &mut dyn Write) -> Result<FileInfo, Error> {
    let transfer = Transfer::begin(place, Kind::Get, |root| Open::Get(Get { root, path: path.to_owned() }))?;
    let (_, mode) = transfer.queue.wait_file()?;
    let mut size = 0;
    while let Some((_, bytes, credit)) = transfer.queue.next_chunk(LIMIT)? {
        target.write_all(&bytes)?;
        size += bytes.len() as u64;
        if credit > 0 {
            transfer.send(Input::Credit { bytes: credit }, &[])?;
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
    use vmette_wire::{Event, Reply, Request, frame};

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
                    Request::Open(Open::Get(_)) => {
                        let file = Event::File { size: 1, mode: 0o644 };
                        for (event, payload) in [(file, &b""[..]), (Event::Data, b"x")] {
                            let event = Reply::Event(event);
                            frame::write_frame(&mut guest, frame.id, &event, payload).unwrap();
                        }
                    }
                    Request::Input(Input::Signal { .. }) => signals += 1,
                    _ => {}
                }
            }
            signals
        });
        let place = connection.root(&RootName::default());
        assert!(matches!(put(&place, "/x", 0o644, &mut Broken), Err(Error::Io(_))));
        assert!(matches!(get(&place, "/x", &mut Broken), Err(Error::Io(_))));
        assert_eq!(connection.waiting(), 0);
        connection.close("done");
        assert_eq!(seen.join().unwrap(), 2, "the guest is told of both");
    }
}
