//! The places that images come from.

use std::io::Read;

use super::error::Result;
use super::reference::Which;
use vmette_cache::Digest;

/// A manifest or an index, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawManifest {
    /// The source's media type, which counts if the manifest names none itself.
    pub media_type: Option<String>,
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The document.
    pub bytes: Vec<u8>,
}

/// Content, as a manifest declares it. Its reader checks both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The digest.
    pub digest: Digest,
    /// The size in bytes.
    pub size: u64,
}

/// A registry's repository, a layout folder, an archive. Used from several threads at once.
pub trait Source: Send + Sync {
    /// The manifest or index, of at most 4 MiB. One that is asked for by digest has that digest.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn manifest(&self, which: &Which) -> Result<RawManifest>;

    /// The digest that a tag stands for now, as cheaply as the source can tell.
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn digest_of(&self, tag: &str) -> Result<Digest>;

    /// Content from this offset on, not verified. An error of its reader may carry an [`Error`](crate::Error).
    ///
    /// # Errors
    /// See [`Error`](crate::Error).
    fn open(&self, blob: &Blob, offset: u64) -> Result<Box<dyn Read + Send>>;
}
