//! The content of files, spilled to disk until the tree is known.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use vmette_oci::FileError;

use crate::tar::SparseMap;

/// Bytes that are collected before they are written, and read at once.
const BUFFER: usize = 256 << 10;

/// The place of a file's bytes in its layer's spill file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// Number of the layer.
    pub(super) layer: u16,
    /// Offset of the first byte.
    pub(super) at: u64,
    /// Size of the file in bytes; without a map also the number of spilled bytes.
    pub(super) size: u64,
    /// Pieces of a sparse file, which follow each other in the spill file without the holes.
    pub(super) map: Option<Box<SparseMap>>,
}

/// A file without a name, which is gone when it is closed, also when the process is killed.
#[derive(Debug)]
pub(super) struct SpillFile {
    file: File,
}

impl SpillFile {
    /// Fills `buffer` from that offset on.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64, dir: &Path) -> Result<(), FileError> {
        let failed = FileError::new("cannot read back what was spilled to", dir);
        self.file.read_exact_at(buffer, at).map_err(failed)
    }

    /// Gives a file's content to `to`, piece by piece.
    pub(super) fn read<E: From<FileError>>(
        &self,
        content: &Content,
        mut to: impl FnMut(Piece<'_>) -> Result<(), E>,
        dir: &Path,
    ) -> Result<(), E> {
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

/// A part of a file's content.
pub(super) enum Piece<'a> {
    Data(&'a [u8]),
    /// A number of zeros.
    Hole(u64),
}

/// A spill file that is being written.
pub(super) struct SpillWriter {
    file: File,
    buffer: Vec<u8>,
    /// Bytes appended so far.
    len: u64,
}

impl SpillWriter {
    /// A file in this directory, but without a name there.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(dir)?, buffer: Vec::with_capacity(BUFFER), len: 0 })
    }

    /// Offset of the next byte.
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

    pub(super) fn finish(mut self) -> io::Result<SpillFile> {
        self.file.write_all(&self.buffer)?;
        Ok(SpillFile { file: self.file })
    }
}
