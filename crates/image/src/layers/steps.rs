//! The most look-ups and removals of one conversion.

use crate::tar::ArchiveError;

/// Most names looked up, and entries passed when something is removed: thirty for each of a million entries. Without a
/// limit, long paths through many links or one directory that is emptied again and again would keep a processor busy
/// for days.
const STEPS_MAX: u64 = 32 << 20;

/// Steps that are left.
#[derive(Debug)]
pub(super) struct Steps {
    left: u64,
}

impl Steps {
    pub(super) fn new() -> Self {
        Self { left: STEPS_MAX }
    }

    pub(super) fn step(&mut self) -> Result<(), ArchiveError> {
        self.left = self.left.checked_sub(1).ok_or(ArchiveError::TooMuchWork { limit: STEPS_MAX })?;
        Ok(())
    }
}
