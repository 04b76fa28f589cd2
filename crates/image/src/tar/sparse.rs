//! Files with holes: where in the file the bytes belong that the archive has.

use std::io::BufRead;

use super::error::{ArchiveError, Refusal};
use super::pax::{Pax, decimal};
use super::source::Source;
use crate::header::{BLOCK, Header, Pieces, more_pieces};

/// Most pieces of one file.
const SEGMENTS_MAX: usize = 1 << 18;
/// Most digits of a number in a map.
const DIGITS_MAX: usize = 20;

/// A file's pieces, in order, and its full size.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    pub(crate) segments: Vec<Segment>,
    pub(crate) size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

type Result<T> = std::result::Result<T, ArchiveError>;

impl SparseMap {
    /// The map of GNU's own format, in the header and in blocks after it.
    pub(super) fn gnu<R: BufRead>(
        path: &[u8],
        header: &Header<'_>,
        source: &mut Source<'_, R>,
    ) -> Result<Self> {
        let bad = |what| Refusal::Sparse(what).of(path);
        let (size, pieces, mut more) =
            header.sparse().ok_or_else(|| bad("its size cannot be read, or it is not GNU's"))?;
        let mut map = Self { segments: Vec::new(), size };
        map.add(path, pieces)?;
        while more {
            let mut block = [0; BLOCK];
            source.read_exact(&mut block)?;
            let (pieces, again) = more_pieces(&block);
            map.add(path, pieces)?;
            more = again;
        }
        Ok(map)
    }

    fn add(&mut self, path: &[u8], pieces: Pieces<'_>) -> Result<()> {
        for piece in pieces {
            let (offset, len) = piece.ok_or_else(|| Refusal::Sparse("a number cannot be read").of(path))?;
            self.push(Segment { offset, len }).map_err(|e| e.of(path))?;
        }
        Ok(())
    }

    /// The map of POSIX archives. Also gives its length in the content, of which `content` bytes are there.
    pub(super) fn pax<R: BufRead>(
        path: &[u8],
        pax: &Pax,
        content: u64,
        source: &mut Source<'_, R>,
    ) -> Result<(Self, u64)> {
        let refuse = |refusal: Refusal| refusal.of(path);
        let bad = |what| refuse(Refusal::Sparse(what));
        let size = match pax.bytes("GNU.sparse.size").map_err(refuse)? {
            Some(size) => Some(size),
            None => pax.bytes("GNU.sparse.realsize").map_err(refuse)?,
        };
        let map = Self { segments: Vec::new(), size: size.unwrap_or(content) };
        match (pax.get("GNU.sparse.major"), pax.get("GNU.sparse.minor")) {
            (Some(b"1"), Some(b"0")) => map.in_content(path, content, source),
            (None, None) | (Some(b"0"), Some(b"0" | b"1")) => Ok((map.in_header(pax).map_err(refuse)?, 0)),
            _ => Err(bad("its format is none of 0.0, 0.1 and 1.0")),
        }
    }

    /// Formats 0.0 and 0.1: in the extended header.
    fn in_header(mut self, pax: &Pax) -> std::result::Result<Self, Refusal> {
        let numbers = pax.get("GNU.sparse.map").unwrap_or_default().split(|&byte| byte == b',');
        let mut numbers = numbers.filter(|number| !number.is_empty()).map(decimal);
        let count = pax.bytes("GNU.sparse.numblocks")?;
        while let Some(offset) = numbers.next() {
            let len = numbers.next().ok_or(Refusal::Sparse("a length is missing"))?;
            let piece = offset.zip(len).ok_or(Refusal::Sparse("a number cannot be read"))?;
            self.push(Segment { offset: piece.0, len: piece.1 })?;
        }
        if count.is_some_and(|count| count != self.segments.len() as u64) {
            return Err(Refusal::Sparse("it has another number of pieces than it says"));
        }
        Ok(self)
    }

    /// Format 1.0: at the start of the content.
    fn in_content<R: BufRead>(
        mut self,
        path: &[u8],
        content: u64,
        source: &mut Source<'_, R>,
    ) -> Result<(Self, u64)> {
        let bad = |what| Refusal::Sparse(what).of(path);
        let mut numbers = Numbers { source, left: content, block: [0; BLOCK], at: BLOCK };
        let mut next = || numbers.next()?.ok_or_else(|| bad("a number cannot be read"));
        let count = next()?;
        if count > SEGMENTS_MAX as u64 {
            return Err(bad("too many pieces"));
        }
        for _ in 0..count {
            let segment = Segment { offset: next()?, len: next()? };
            self.push(segment).map_err(|e| e.of(path))?;
        }
        let left = numbers.left;
        Ok((self, content - left))
    }

    fn push(&mut self, segment: Segment) -> std::result::Result<(), Refusal> {
        let begin = self.segments.last().map_or(0, |last| last.offset + last.len);
        let end = segment.offset.checked_add(segment.len);
        if segment.offset < begin || end.is_none_or(|end| end > self.size) {
            return Err(Refusal::Sparse("pieces overlap, or lie outside of the file"));
        }
        if self.segments.len() == SEGMENTS_MAX {
            return Err(Refusal::Sparse("too many pieces"));
        }
        self.segments.push(segment);
        Ok(())
    }

    /// Bytes that the archive has.
    pub(crate) fn content(&self) -> u64 {
        // Cannot overflow: pieces are disjoint and within `size`.
        self.segments.iter().map(|segment| segment.len).sum()
    }
}

/// Decimal numbers, one a line, in blocks.
struct Numbers<'a, 'b, R> {
    source: &'a mut Source<'b, R>,
    left: u64,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: BufRead> Numbers<'_, '_, R> {
    /// None when there is no number.
    fn next(&mut self) -> Result<Option<u64>> {
        let mut digits = Vec::new();
        while digits.len() <= DIGITS_MAX {
            if self.at == BLOCK {
                if self.left < BLOCK as u64 {
                    return Ok(None);
                }
                self.source.read_exact(&mut self.block)?;
                self.left -= BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return Ok(decimal(&digits));
            }
            digits.push(byte);
        }
        Ok(None)
    }
}
