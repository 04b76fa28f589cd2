//! Failures of the store.

use std::path::PathBuf;

use vmette_work::Cancelled;

use crate::limits::BadLimit;
use crate::superblock::SuperblockError;

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// Why the store cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The caller has given up.
    #[error("cancelled")]
    Cancelled(#[from] Cancelled),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(vmette_cache::Error),
    /// A new image is broken.
    #[error("the image that was just made {source}: {path}", path = .path.display())]
    Damaged {
        /// The image, which is removed.
        path: PathBuf,
        /// The defect.
        #[source]
        source: SuperblockError,
    },
    /// The environment's budget is malformed.
    #[error(transparent)]
    Limit(#[from] BadLimit),
}

impl From<vmette_cache::Error> for StoreError {
    fn from(error: vmette_cache::Error) -> Self {
        match error {
            vmette_cache::Error::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Cache(error),
        }
    }
}
