//! Errors of a saved state.

use std::path::PathBuf;

/// Why a session did not start from a saved state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The snapshot is not fit for this: it is of another host or version, or is not what was asked for.
    #[error("snapshot {folder}: {reason}", folder = .folder.display())]
    Refused {
        /// The snapshot.
        folder: PathBuf,
        /// The mismatch and its remedy.
        reason: String,
    },
    /// The snapshot was never finished, was changed since, or may be changed by others.
    #[error("snapshot {folder}: {reason}", folder = .folder.display())]
    Damaged {
        /// The snapshot.
        folder: PathBuf,
        /// The defect.
        reason: String,
    },
    /// The saved state is not what its maker has written.
    #[error("{0}")]
    Changed(String),
}
