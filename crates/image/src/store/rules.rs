//! Rules and results of pruning.

use vmette_cache::Key;

/// Rules of a pruning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneRules {
    /// Bytes that images and layers may take afterwards.
    pub max_bytes: u64,
    /// An image that stays.
    pub keep: Option<Key>,
    /// Also what was used within the last minute.
    pub recent_too: bool,
}

/// Result of removing an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Gone,
    /// Somebody uses it.
    Held,
    /// Somebody has its key's lock.
    BeingMade,
}

/// Result of a pruning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images removed, by their identity.
    pub images: Vec<String>,
    /// Layers removed.
    pub layers: usize,
    /// Bytes that this freed.
    pub bytes: u64,
    /// Bytes that images and layers take now.
    pub left: u64,
}

impl Pruned {
    pub(super) fn freed(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.left = self.left.saturating_sub(bytes);
    }
}
