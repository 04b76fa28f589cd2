//! The images of a cache, as `vmette image` shows and changes them.

mod build;
mod content;
mod export;
mod find;
mod import;
mod prune;
mod pull;
mod remove;
mod report;
mod show;

use crate::context::Context;
use crate::error::Result;
use crate::store::Store;

pub use report::{ExportFormat, Exported, ImageDetails, ImageSummary, PruneOptions, PruneReport, Removed};

/// The images of one cache. Its methods block; any number of threads and processes may use the same cache.
///
/// Where an image is asked for by name, that is a reference as a run takes it (`alpine:3.20`; of a short name the image
/// that was made here comes first), a URL, or at least four digits of an image's identity.
#[derive(Debug, Clone)]
pub struct Images {
    ctx: Context,
    store: Store,
}

impl Images {
    /// Opens the images of the context's cache, which is made if need be.
    ///
    /// # Errors
    /// [`ProviderError::Cache`](crate::ProviderError::Cache).
    pub fn open(ctx: &Context) -> Result<Self> {
        Ok(Self { ctx: ctx.clone(), store: ctx.store()? })
    }
}

#[cfg(test)]
mod tests;
