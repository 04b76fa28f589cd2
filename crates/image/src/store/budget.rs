//! The most that the cache may take.

use vmette_cache::Key;

use super::error::Result;
use super::{PruneRules, Store};
use crate::limits::{self, BadLimit};

const VARIABLE: &str = "VMETTE_CACHE_MAX_BYTES";
/// The name of the variable when only archives were converted.
const OLDER_VARIABLE: &str = "VMETTE_TAR_CACHE_MAX_BYTES";
/// A few dozen images with their layers.
const DEFAULT: u64 = 16 << 30;

/// Bytes of images and layers above which a new image is followed by pruning; `None` for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget(pub(super) Option<u64>);

impl Budget {
    /// The caller's, else the environment's, else [`DEFAULT`].
    pub(super) fn of(callers: Option<u64>) -> Result<Self> {
        match callers {
            Some(bytes) => Ok(Self::from_bytes(bytes)),
            None => Ok(Self::from_lookup(&limits::environment)?),
        }
    }

    fn from_lookup(lookup: limits::Lookup<'_>) -> std::result::Result<Self, BadLimit> {
        let variable = if lookup(VARIABLE).is_some() { VARIABLE } else { OLDER_VARIABLE };
        limits::bytes_or_none(variable, DEFAULT, lookup).map(Self::from_bytes)
    }

    fn from_bytes(bytes: u64) -> Self {
        Self((bytes > 0).then_some(bytes))
    }

    /// Prunes after the image was made. It is there and can be used whatever becomes of the others.
    pub(super) fn enforce(self, store: &Store, made: &Key) {
        let Some(max_bytes) = self.0 else { return };
        if let Err(e) = store.prune(&PruneRules { max_bytes, keep: Some(*made), recent_too: false }) {
            store.work.warn(&format!("the cache could not be pruned: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let with = |set: &'static [(&'static str, &'static str)]| {
            Budget::from_lookup(&|asked| {
                set.iter().find(|(name, _)| *name == asked).map(|(_, value)| value.into())
            })
        };
        assert_eq!(with(&[]).unwrap(), Budget(Some(DEFAULT)));
        assert_eq!(with(&[(VARIABLE, "7"), (OLDER_VARIABLE, "8")]).unwrap(), Budget(Some(7)));
        assert_eq!(with(&[(OLDER_VARIABLE, "8")]).unwrap(), Budget(Some(8)));
        assert_eq!(with(&[(VARIABLE, "0")]).unwrap(), Budget(None));
        for (bad, name) in [([(VARIABLE, "-1")], VARIABLE), ([(OLDER_VARIABLE, "4G")], OLDER_VARIABLE)] {
            let message = Budget::from_lookup(&|asked| {
                bad.iter().find(|(name, _)| *name == asked).map(|(_, value)| value.into())
            });
            assert!(message.unwrap_err().to_string().contains(name));
        }
    }
}
