//! Files with holes: where in the file the bytes belong that the archive has.

use std::io::BufRead;

use super::error::{ArchiveError, Refusal};
use super::pax::{Pax, decimal};
use super::source::{BLOCK, Source};

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
        header: &tar::GnuHeader,
        source: &mut Source<'_, R>,
    ) -> Result<Self> {
        let bad = |what| Refusal::Sparse(what).of(path);
        let unreadable = |_| bad("a number cannot be read");
        let mut map = Self { segments: Vec::new(), size: header.real_size().map_err(unreadable)? };
        let mut add = |pieces: &[tar::GnuSparseHeader]| {
            for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                let offset = piece.offset().map_err(unreadable)?;
                map.push(Segment { offset, len: piece.length().map_err(unreadable)? })
                    .map_err(|e| e.of(path))?;
            }
            Ok(())
        };
        add(&header.sparse)?;
        let mut more = header.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            source.read_exact(block.as_mut_bytes())?;
            add(&block.sparse)?;
            more = block.is_extended();
        }
        Ok(map)
    }

    /// The map of POSIX archives, format 1.0, at the start of the content. Also gives its length there.
    pub(super) fn pax<R: BufRead>(
        path: &[u8],
        pax: &Pax,
        content: u64,
        source: &mut Source<'_, R>,
    ) -> Result<(Self, u64)> {
        let refuse = |refusal: Refusal| refusal.of(path);
        let bad = |what| refuse(Refusal::Sparse(what));
        let size =
            pax.number("GNU.sparse.realsize").map_err(refuse)?.ok_or_else(|| bad("the size is missing"))?;
        let mut numbers = Numbers { source, left: content, block: [0; BLOCK], at: BLOCK };
        let mut next = || numbers.next()?.ok_or_else(|| bad("a number cannot be read"));
        let count = next()?;
        if count > SEGMENTS_MAX as u64 {
            return Err(bad("too many pieces"));
        }
        let mut map = Self { segments: Vec::new(), size };
        for _ in 0..count {
            let segment = Segment { offset: next()?, len: next()? };
            map.push(segment).map_err(refuse)?;
        }
        let left = numbers.left;
        Ok((map, content - left))
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
