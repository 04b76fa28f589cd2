//! The archive's decompressed bytes, counted.

use std::io::{self, BufRead, Seek};

use super::budget::Budget;
use super::error::ArchiveError;
use crate::header::{BLOCK, Block};
use crate::notes::Notes;

type Result<T> = std::result::Result<T, ArchiveError>;

/// Refuses to give, or to account for, more than a number of bytes: a few kilobytes may decompress to petabytes, and a
/// sparse file may declare as many.
pub(crate) struct Source<'a, R> {
    inner: R,
    budget: &'a Budget,
    notes: &'a Notes,
    /// Bytes given so far.
    offset: u64,
    /// The mark of the archive's end was there.
    is_marked: bool,
}

impl<R: BufRead + Seek> Source<'_, R> {
    /// Passes over content of `len` bytes, which are there, and its padding, without reading them.
    pub(crate) fn jump(&mut self, len: u64) -> Result<()> {
        let len = len.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| self.truncated())?;
        let by = i64::try_from(len).map_err(|_| self.truncated())?;
        self.inner.seek_relative(by).map_err(ArchiveError::Read)?;
        self.offset += len;
        self.budget.bytes(len)
    }
}

impl<'a, R: BufRead> Source<'a, R> {
    pub(crate) fn new(inner: R, budget: &'a Budget, notes: &'a Notes) -> Self {
        Self { inner, budget, notes, offset: 0, is_marked: false }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn budget(&self) -> &'a Budget {
        self.budget
    }

    pub(crate) fn notes(&self) -> &'a Notes {
        self.notes
    }

    /// Notes that the mark of the archive's end was there.
    pub(super) fn end_marked(&mut self) {
        self.is_marked = true;
    }

    /// Returns whether the mark of the archive's end was there.
    pub(crate) fn is_marked(&self) -> bool {
        self.is_marked
    }

    pub(crate) fn get_ref(&self) -> &R {
        &self.inner
    }

    /// The bytes that are there, up to `max`; none at the end. They are taken with [`consume`](Self::consume).
    fn peek(&mut self, max: u64) -> Result<&[u8]> {
        let there = loop {
            match self.inner.fill_buf() {
                Ok(bytes) => break bytes.len(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A decoder's. The failure of a reader below is of another kind.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(self.truncated()),
                Err(e) => return Err(ArchiveError::Read(e)),
            }
        };
        let len = usize::try_from(max).map_or(there, |max| max.min(there));
        // Already there: cannot fail.
        Ok(&self.inner.fill_buf().map_err(ArchiveError::Read)?[..len])
    }

    fn consume(&mut self, len: usize) -> Result<()> {
        self.inner.consume(len);
        self.offset += len as u64;
        self.budget.bytes(len as u64)
    }

    /// Reads as many bytes as there are, up to the buffer's length; zero at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let there = self.peek(buffer.len() as u64)?;
        let len = there.len();
        buffer[..len].copy_from_slice(there);
        self.consume(len)?;
        Ok(len)
    }

    /// Gives content of `len` bytes to `to`, piece by piece.
    pub(crate) fn copy(&mut self, mut len: u64, mut to: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while len > 0 {
            let there = self.peek(len)?;
            let now = there.len();
            if now == 0 {
                return Err(self.truncated());
            }
            to(there)?;
            self.consume(now)?;
            len -= now as u64;
        }
        Ok(())
    }

    /// Passes over content of `len` bytes and its padding.
    pub(crate) fn skip(&mut self, len: u64) -> Result<()> {
        self.copy(len, |_| Ok(()))?;
        self.padding(len)
    }

    pub(super) fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(self.truncated()),
                read => buffer = &mut buffer[read..],
            }
        }
        Ok(())
    }

    /// The next block; None when the archive ends before it.
    pub(super) fn block(&mut self) -> Result<Option<Block>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 if self.offset < BLOCK as u64 => return Err(ArchiveError::NotTar),
                0 => return Err(self.truncated()),
                read => filled += read,
            }
        }
        Ok(Some(block))
    }

    /// Content of `len` bytes and its padding. The caller has bounded `len`.
    pub(super) fn small(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut content = vec![0; len];
        self.read_exact(&mut content)?;
        self.padding(len as u64)?;
        Ok(content)
    }

    /// Passes the padding after content of `len` bytes. An archive that ends in it, as some layers do, ends before the
    /// next block: whether it may is decided there.
    pub(crate) fn padding(&mut self, len: u64) -> Result<()> {
        let mut left = len.wrapping_neg() % BLOCK as u64;
        while left > 0 {
            let there = self.peek(left)?.len();
            if there == 0 {
                break;
            }
            self.consume(there)?;
            left -= there as u64;
        }
        Ok(())
    }

    pub(super) fn truncated(&self) -> ArchiveError {
        ArchiveError::Truncated { offset: self.offset }
    }
}
