//! Bytes that one thread makes and another takes.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes moved at once.
const CHUNK: usize = 128 << 10;
/// Chunks that wait between two threads: half a MiB, so that neither stops for the other's short breaks.
const CHUNKS_AHEAD: usize = 4;

/// The first `len` bytes of a buffer.
struct Chunk {
    buffer: Vec<u8>,
    len: usize,
}

/// A way from one thread to another, on which buffers come back to be filled again: getting new ones from the system
/// for each chunk costs as much as copying them.
pub(super) fn stream() -> (Pump, Chunks) {
    let (to, from) = sync_channel(CHUNKS_AHEAD);
    let (spent, empty) = channel();
    (Pump { to, empty }, Chunks { from, spent, current: Chunk { buffer: Vec::new(), len: 0 }, at: 0 })
}

/// The end where bytes are made.
pub(super) struct Pump {
    to: SyncSender<io::Result<Chunk>>,
    /// No more than are on the way, and one at each end.
    empty: Receiver<Vec<u8>>,
}

impl Pump {
    /// Reads all and sends it, and then the end or the error. Ends early when nobody takes it any more.
    pub(super) fn all(self, mut from: impl Read) {
        loop {
            let mut buffer = self.empty.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
            let (len, read) = fill(&mut from, &mut buffer);
            // Bytes that came before an error count; the error follows them.
            if len > 0 && self.to.send(Ok(Chunk { buffer, len })).is_err() {
                return;
            }
            match read {
                Ok(()) if len == CHUNK => {}
                Ok(()) => return,
                Err(e) => return self.fail(e),
            }
        }
    }

    /// Sends this instead of what would have come.
    pub(super) fn fail(self, error: io::Error) {
        // Nobody takes it any more when another one was first.
        let _ = self.to.send(Err(error));
    }
}

/// Fills the buffer, unless there is no more or an error comes before. How much there is in it.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> (usize, io::Result<()>) {
    let mut len = 0;
    while len < buffer.len() {
        match from.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (len, Err(e)),
        }
    }
    (len, Ok(()))
}

/// The other thread's bytes. After an error or the end there is nothing.
pub(super) struct Chunks {
    from: Receiver<io::Result<Chunk>>,
    spent: Sender<Vec<u8>>,
    current: Chunk,
    at: usize,
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len {
            let spent = std::mem::replace(&mut self.current, Chunk { buffer: Vec::new(), len: 0 });
            self.at = 0;
            if !spent.buffer.is_empty() {
                // Nobody fills it any more at the end.
                let _ = self.spent.send(spent.buffer);
            }
            if let Some(chunk) = self.from.recv().ok().transpose()? {
                self.current = chunk;
            }
        }
        Ok(&self.current.buffer[self.at..self.current.len])
    }

    fn consume(&mut self, amount: usize) {
        self.at = self.current.len.min(self.at + amount);
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

/// `Read::read` of a reader with a buffer of its own: copies bytes that are there.
pub(super) fn read_buffered(from: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let there = from.fill_buf()?;
    let len = there.len().min(buffer.len());
    buffer[..len].copy_from_slice(&there[..len]);
    from.consume(len);
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Gives bytes in pieces of odd sizes, and an error at the end if it is to.
    struct Pieces<'a> {
        left: &'a [u8],
        piece: usize,
        fails: bool,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.piece = self.piece * 7 % 65_537 + 1;
            let len = self.piece.min(buffer.len()).min(self.left.len());
            if len == 0 && self.fails {
                return Err(io::Error::other("broken"));
            }
            buffer[..len].copy_from_slice(&self.left[..len]);
            self.left = &self.left[len..];
            Ok(len)
        }
    }

    fn through(content: &[u8], fails: bool) -> (Vec<u8>, io::Result<usize>) {
        thread::scope(|scope| {
            let (pump, mut chunks) = stream();
            scope.spawn(move || pump.all(Pieces { left: content, piece: 3, fails }));
            let mut read = Vec::new();
            let end = chunks.read_to_end(&mut read);
            assert_eq!(chunks.read(&mut [0; 1]).unwrap(), 0, "nothing follows the end");
            (read, end)
        })
    }

    #[test]
    fn bytes_come_as_they_were_made_whatever_their_number() {
        let mut random = fastrand::Rng::with_seed(5);
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 20 * CHUNK + 77] {
            let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
            for fails in [false, true] {
                let (read, end) = through(&content, fails);
                assert!(read == content, "{len} bytes came back changed");
                assert_eq!(end.is_err(), fails, "{len}");
            }
        }
    }

    #[test]
    fn buffers_come_back_to_be_filled_again() {
        let (pump, mut chunks) = stream();
        let made = thread::scope(|scope| {
            let maker = scope.spawn(|| {
                let mut content = io::repeat(7).take(64 * CHUNK as u64);
                let mut buffers = std::collections::BTreeSet::new();
                for _ in 0..64 {
                    let mut buffer = pump.empty.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
                    buffers.insert(buffer.as_ptr() as usize);
                    let (len, _) = fill(&mut content, &mut buffer);
                    pump.to.send(Ok(Chunk { buffer, len })).unwrap();
                }
                drop(pump);
                buffers.len()
            });
            io::copy(&mut chunks, &mut io::sink()).unwrap();
            maker.join().unwrap()
        });
        assert!(made <= CHUNKS_AHEAD + 2, "{made} buffers");
    }

    #[test]
    fn who_takes_no_more_stops_the_other() {
        let (pump, chunks) = stream();
        drop(chunks);
        pump.all(io::repeat(7));
    }
}
