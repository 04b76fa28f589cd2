//! Why an image cannot be used.

use crate::digest::Digest;
use crate::tar::ArchiveError;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Content is not what its digest says.
    #[error(
        "{what} has the digest {actual}, where {expected} was promised; it was damaged or exchanged on its way"
    )]
    Digest {
        /// Of what.
        what: String,
        /// As promised.
        expected: Digest,
        /// As it came.
        actual: Digest,
    },
    /// One of its layers is damaged, hostile, or holds something that an image cannot hold.
    #[error("a layer of it {0}")]
    Layer(#[source] ArchiveError),
}
