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
    /// The snapshot was booted with another kernel or initramfs than the one that is named, or that is vmette's own.
    #[error(
        "snapshot {folder}: it was booted with another {what} than {path} (vmette {maker} made it): name that {what}, or make \
         the snapshot anew",
        folder = .folder.display(), path = .path.display()
    )]
    OtherBootFile {
        /// The snapshot.
        folder: PathBuf,
        /// `kernel` or `initramfs`.
        what: &'static str,
        /// The file that is here.
        path: PathBuf,
        /// The version of vmette that made the snapshot.
        maker: String,
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
