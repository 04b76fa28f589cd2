//! What a provider may use, and how it tells what it is doing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::store::{Store, private_dir};

/// Told what is being done, in one short line, when something takes long enough for a person to wonder.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// The cache and the rules under which a spec is resolved.
#[derive(Clone)]
pub struct Context {
    cache_root: PathBuf,
    offline: bool,
    progress: Option<Progress>,
}

impl Context {
    /// Caches below `cache_root`, which is made when first needed. Online, silent.
    #[must_use]
    pub fn new(cache_root: impl Into<PathBuf>) -> Self {
        Self { cache_root: cache_root.into(), offline: false, progress: None }
    }

    /// Rules out the network.
    #[must_use]
    pub fn offline(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    /// Calls `progress` with a line about each long step.
    #[must_use]
    pub fn with_progress(self, progress: Progress) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// Whether the network is ruled out.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// Where caches are.
    #[must_use]
    pub fn cache_root(&self) -> &Path {
        &self.cache_root
    }

    /// A provider's own directory in the cache, made and checked to be the user's own.
    ///
    /// # Errors
    /// [`ProviderError::Cache`](crate::ProviderError::Cache).
    pub fn provider_cache(&self, name: &str) -> Result<PathBuf> {
        private_dir(&self.cache_root)?;
        let dir = self.cache_root.join(name);
        private_dir(&dir)?;
        Ok(dir)
    }

    /// The store of converted images.
    ///
    /// # Errors
    /// [`ProviderError::Cache`](crate::ProviderError::Cache).
    pub fn store(&self) -> Result<Store> {
        Store::open(&self.cache_root)
    }

    /// Says what is being done.
    pub fn report(&self, line: &str) {
        if let Some(progress) = &self.progress {
            progress(line);
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("cache_root", &self.cache_root)
            .field("offline", &self.offline)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}
