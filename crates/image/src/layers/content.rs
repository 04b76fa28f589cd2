//! What files hold, put aside until the tree is known.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::ProviderError;
use crate::tar::SparseMap;

/// Bytes that are collected before they are written, and read at once.
const BUFFER: usize = 256 << 10;

/// Where in a layer's spill a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// Which layer's.
    pub(super) layer: u16,
    /// Offset of the first.
    pub(super) at: u64,
    /// The file's size. Without a map so many bytes are there.
    pub(super) size: u64,
    /// Of a sparse file: its pieces follow each other in the spill, without the holes.
    pub(super) map: Option<Box<SparseMap>>,
}

/// A file without a name, which is gone when it is closed, also when the process is killed.
#[derive(Debug)]
pub(super) struct Spill {
    file: File,
}

impl Spill {
    /// Bytes from that offset on, as many as `buffer` has.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64, dir: &Path) -> crate::Result<()> {
        let failed = ProviderError::io("cannot read back what was put aside in", dir);
        self.file.read_exact_at(buffer, at).map_err(failed)
    }

    /// Gives a file's content to `to`, piece by piece.
    pub(super) fn read(
        &self,
        content: &Content,
        mut to: impl FnMut(Piece<'_>) -> crate::Result<()>,
        dir: &Path,
    ) -> crate::Result<()> {
        let whole = [crate::tar::Segment { offset: 0, len: content.size }];
        let pieces = content.map.as_ref().map_or(&whole[..], |map| &map.segments);
        let (mut from, mut written) = (content.at, 0);
        let mut buffer = vec![0; usize::try_from(content.size).unwrap_or(BUFFER).min(BUFFER)];
        for piece in pieces {
            to(Piece::Hole(piece.offset - written))?;
            let end = from + piece.len;
            while from < end {
                let len = usize::try_from(end - from).unwrap_or(BUFFER).min(buffer.len());
                self.read_at(&mut buffer[..len], from, dir)?;
                to(Piece::Data(&buffer[..len]))?;
                from += len as u64;
            }
            written = piece.offset + piece.len;
        }
        to(Piece::Hole(content.size - written))
    }
}

/// Some of a file's content.
pub(super) enum Piece<'a> {
    Data(&'a [u8]),
    /// So many zeros.
    Hole(u64),
}

/// A spill that is being written.
pub(super) struct SpillWriter {
    file: File,
    buffer: Vec<u8>,
    /// Bytes given so far.
    len: u64,
}

impl SpillWriter {
    /// In this directory, but without a name there.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(dir)?, buffer: Vec::with_capacity(BUFFER), len: 0 })
    }

    /// Where the next byte will be.
    pub(super) fn position(&self) -> u64 {
        self.len
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.file.write_all(&self.buffer)?;
            self.buffer.clear();
        }
        if bytes.len() > BUFFER / 2 {
            self.file.write_all(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Spill> {
        self.file.write_all(&self.buffer)?;
        Ok(Spill { file: self.file })
    }
}
