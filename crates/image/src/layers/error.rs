//! Failures of a conversion.

use vmette_oci::{FileError, ImageError};
use vmette_work::Cancelled;

use super::shape::Unpackable;
use crate::pack::PackError;
use crate::read_error::ReadError;
use crate::tar::ArchiveError;

/// Why layers did not become an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error("cancelled")]
    Cancelled(#[from] Cancelled),
    #[error("archive {name}: {source}")]
    Archive {
        name: String,
        #[source]
        source: ArchiveError,
    },
    #[error("image {name}: a layer of it {source}")]
    Layer {
        name: String,
        #[source]
        source: ArchiveError,
    },
    /// A layer's decompressed bytes are not the promised ones.
    #[error("image {name}: {source}")]
    DiffId {
        name: String,
        #[source]
        source: ImageError,
    },
    /// The reader of a layer failed.
    #[error(transparent)]
    Read(ReadError),
    /// Content cannot be spilled to the cache's disk.
    #[error(transparent)]
    Spill(#[from] vmette_cache::Error),
    #[error(transparent)]
    ReadBack(#[from] FileError),
    #[error(transparent)]
    Unpackable(#[from] Unpackable),
    #[error(transparent)]
    Pack(PackError),
    #[error("the thread that reads a layer has ended")]
    ReaderEnded,
}

impl From<ReadError> for ConvertError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Read(error),
        }
    }
}

impl From<PackError> for ConvertError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Pack(error),
        }
    }
}
