//! What resolving a spec tells while it goes on.

use std::sync::Arc;

use crate::digest::Digest;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A step begins that takes long enough for a person to wonder: one short line.
    Step(&'a str),
    /// Something that the user should know, though it goes on: one line.
    Warning(&'a str),
    /// A download begins, or goes on at `done` bytes.
    Started {
        /// What: a layer, or the file that a URL names.
        item: Item<'a>,
        /// Bytes that are there already.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// More of it has arrived. At most every [`PROGRESS_STEP`] bytes.
    Advanced {
        /// What.
        item: Item<'a>,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// It is complete and verified.
    Finished {
        /// What.
        item: Item<'a>,
        /// Whether it was in the cache, so that nothing was downloaded.
        cached: bool,
    },
}

/// Bytes between two [`Progress::Advanced`].
pub const PROGRESS_STEP: u64 = 256 << 10;

/// What is downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Item<'a> {
    /// A layer of an image.
    Layer {
        /// Of its compressed bytes.
        digest: Digest,
        /// Its place, from 0, the lowest.
        index: usize,
        /// Layers in all.
        count: usize,
    },
    /// The file that a URL names.
    File {
        /// The URL without what may be secret in it.
        name: &'a str,
    },
}

/// Receives [`Progress`]. Called from several threads at once; must not block for long.
pub type Reporter = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;
