//! Making room.

use super::{Images, PruneOptions, PruneReport};
use crate::error::Result;
use crate::store::{PruneRules, Pruned};

impl Images {
    /// Removes downloaded layers and images, the longest unused first, as far as the options say; never what is in use
    /// or was made or imported here under a name it still has. Also removes what killed processes left.
    ///
    /// # Errors
    /// [`ProviderError::Cache`](crate::ProviderError::Cache); a malformed `VMETTE_CACHE_MAX_BYTES`.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport> {
        let everything = options.all || options.max_bytes == Some(0);
        let max_bytes = match options.max_bytes {
            _ if everything => 0,
            Some(bytes) => bytes,
            None => self.store.budget()?.unwrap_or(u64::MAX),
        };
        let rules = PruneRules { max_bytes, keep: None, recent_too: everything };
        let Pruned { images, layers, bytes, left } = self.store.prune(&rules)?;
        Ok(PruneReport { images, layers, bytes, left })
    }
}
