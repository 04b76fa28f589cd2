//! One place that an image comes from.

use std::io::Read;

use crate::digest::Digest;
use crate::error::Result;

/// How a manifest is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    Tag(String),
    Digest(Digest),
}

/// A manifest or an index, as it came. Its bytes have this digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawManifest {
    /// What the source calls it; a manifest that says nothing itself is taken for that.
    pub(crate) media_type: Option<String>,
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

/// What a manifest says of some content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    /// In bytes. As declared: whoever reads it checks.
    pub(crate) size: u64,
}

/// A registry's repository, a layout folder, an archive. Used from several threads at once.
pub(crate) trait Source: Send + Sync {
    /// At most `MANIFEST_MAX` bytes. One that is asked for by digest has that digest.
    fn manifest(&self, which: &Which) -> Result<RawManifest>;

    /// The digest that a tag stands for now, as cheaply as the source can tell.
    fn digest_of(&self, tag: &str) -> Result<Digest>;

    /// Content from this offset on. Not verified: the reader's end hashes. An error while reading carries its cause as
    /// the inner error of the `io::Error`, when it is a `ProviderError`.
    fn open(&self, blob: &Blob, offset: u64) -> Result<Box<dyn Read + Send>>;
}
