//! Bytes that one thread makes and another takes.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender};

/// Bytes moved at once.
const CHUNK: usize = 128 << 10;
/// Chunks that wait between two threads: half a MiB, so that neither stops for the other's short breaks.
pub(super) const CHUNKS_AHEAD: usize = 4;

pub(super) type Chunk = io::Result<Vec<u8>>;

/// Reads all and sends it, and then the end or the error. Ends early when nobody takes it any more.
pub(super) fn pump(mut from: impl Read, to: &SyncSender<Chunk>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = from.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        let end = chunk.is_empty();
        // What came before an error counts; the error follows it.
        if (!end && to.send(Ok(chunk)).is_err()) || (end && read.is_ok()) {
            return;
        }
        if let Err(e) = read {
            let _ = to.send(Err(e));
            return;
        }
    }
}

/// The other thread's bytes. After an error or the end there is nothing.
pub(super) struct Chunks {
    from: Receiver<Chunk>,
    current: Vec<u8>,
    at: usize,
}

impl Chunks {
    pub(super) fn new(from: Receiver<Chunk>) -> Self {
        Self { from, current: Vec::new(), at: 0 }
    }

    /// The next bytes as they came, when those before have been taken.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.from.recv().ok().transpose()
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() {
            self.at = 0;
            self.current.clear();
            if let Some(chunk) = self.next()? {
                self.current = chunk;
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = self.current.len().min(self.at + amount);
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let len = there.len().min(buffer.len());
        buffer[..len].copy_from_slice(&there[..len]);
        self.consume(len);
        Ok(len)
    }
}
