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

/// Copies `source` to its end into a file of the guest.
pub(crate) fn put(
    connection: &Connection,
    path: &str,
    mode: u32,
    source: &mut dyn Read,
) -> Result<u64, Error> {
    let queue = Arc::new(StreamQueue::new());
    let id = connection.open_stream(&Op::Put(Put { path: path.to_owned(), mode }), &[], &queue)?;
    let mut buffer = vec![0; CHUNK_MAX];
    let mut copied = 0;
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => {
                // The guest removes the half-written file when its stream is signalled away.
                let _ = connection.send(id, &Op::Signal { signal: libc::SIGKILL }, &[]);
                return Err(e.into());
            }
        };
        let mut bytes = &buffer[..n];
        while !bytes.is_empty() {
            let n = queue.reserve(bytes.len(), LIMIT)?;
            connection.send(id, &Op::Data, &bytes[..n])?;
            bytes = &bytes[n..];
        }
        copied += n as u64;
    }
    connection.send(id, &Op::Eof, &[])?;
    finish(queue.wait_end(LIMIT)?).map(|()| copied)
}

/// Copies a file of the guest into `target`.
pub(crate) fn get(connection: &Connection, path: &str, target: &mut dyn Write) -> Result<FileInfo, Error> {
    let queue = Arc::new(StreamQueue::new());
    let id = connection.open_stream(&Op::Get { path: path.to_owned() }, &[], &queue)?;
    let (_, mode) = queue.wait_file()?;
    let mut size = 0;
    while let Some((_, bytes, credit)) = queue.next_chunk(LIMIT)? {
        if let Err(e) = target.write_all(&bytes) {
            let _ = connection.send(id, &Op::Signal { signal: libc::SIGKILL }, &[]);
            return Err(e.into());
        }
        size += bytes.len() as u64;
        if credit > 0 {
            connection.send(id, &Op::Credit { bytes: credit }, &[])?;
        }
    }
    finish(queue.wait_end(LIMIT)?).map(|()| FileInfo { size, mode })
}

fn finish(end: StreamEnd) -> Result<(), Error> {
    match end {
        StreamEnd::Done => Ok(()),
        StreamEnd::Failed(failure) => Err(Error::Request(failure)),
        StreamEnd::Aborted(cause) => Err(Error::Agent(cause)),
        StreamEnd::Exited(_) => Err(Error::Agent("the guest ended a file as if it were a command".into())),
    }
}
