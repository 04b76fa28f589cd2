//! The limits of one conversion in all, however many layers it has. Shared by the threads that read them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::ArchiveError;

/// Most entries, counting those that replace earlier ones: five times as many as a large desktop system has files.
pub(crate) const ENTRIES_MAX: u64 = 1_000_000;
/// Most bytes of names and link targets, each name counted without what it has in common with the one before: four
/// times what so many entries usually have.
const NAMES_MAX: u64 = 64 << 20;
/// Most bytes of different sets of extended attributes. Files of one set share it.
const XATTRS_MAX: u64 = 16 << 20;
/// Most pieces of sparse files, of 24 bytes each.
const PIECES_MAX: u64 = 1 << 20;

/// Counts down.
#[derive(Debug)]
struct Meter {
    left: AtomicU64,
    limit: u64,
}

impl Meter {
    fn new(limit: u64) -> Self {
        Self { left: AtomicU64::new(limit), limit }
    }

    fn take(&self, amount: u64) -> Result<(), u64> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount))
            .map(|_| ())
            .map_err(|_| self.limit)
    }
}

/// The rest that may still be taken. Its methods fail once there is nothing left.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: Meter,
    bytes_variable: &'static str,
    entries: Meter,
    names: Meter,
    xattrs: Meter,
    pieces: Meter,
}

impl Budget {
    /// `bytes` are those of the archives, decompressed, and of holes in their files; `variable` raises that limit.
    pub(crate) fn new(bytes: u64, variable: &'static str) -> Self {
        Self {
            bytes: Meter::new(bytes),
            bytes_variable: variable,
            entries: Meter::new(ENTRIES_MAX),
            names: Meter::new(NAMES_MAX),
            xattrs: Meter::new(XATTRS_MAX),
            pieces: Meter::new(PIECES_MAX),
        }
    }

    pub(crate) fn bytes(&self, amount: u64) -> Result<(), ArchiveError> {
        let variable = self.bytes_variable;
        self.bytes.take(amount).map_err(|limit| ArchiveError::TooLarge { limit, variable })
    }

    pub(crate) fn entry(&self) -> Result<(), ArchiveError> {
        self.entries.take(1).map_err(|limit| ArchiveError::TooMany { what: "entries", limit })
    }

    pub(crate) fn names(&self, bytes: usize) -> Result<(), ArchiveError> {
        let too_many = |limit| ArchiveError::TooMany { what: "bytes of names and link targets", limit };
        self.names.take(bytes as u64).map_err(too_many)
    }

    pub(crate) fn xattrs(&self, bytes: usize) -> Result<(), ArchiveError> {
        let too_many = |limit| ArchiveError::TooMany { what: "bytes of extended attributes", limit };
        self.xattrs.take(bytes as u64).map_err(too_many)
    }

    pub(crate) fn pieces(&self, count: usize) -> Result<(), ArchiveError> {
        let too_many = |limit| ArchiveError::TooMany { what: "pieces of sparse files", limit };
        self.pieces.take(count as u64).map_err(too_many)
    }
}
