//! How much the cache may take.

use std::env;
use std::ffi::OsString;

use super::{Key, PruneRules, Store};
use crate::context::Context;
use crate::error::{ProviderError, Result};

const VARIABLE: &str = "VMETTE_CACHE_MAX_BYTES";
/// What it was called when only archives were converted.
const OLDER_VARIABLE: &str = "VMETTE_TAR_CACHE_MAX_BYTES";
/// A few dozen images with their layers.
const DEFAULT: u64 = 16 << 30;

/// Bytes of images and layers above which a new image is followed by pruning. None: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget(pub(super) Option<u64>);

impl Budget {
    /// What the context says, else the environment, else [`DEFAULT`].
    pub(super) fn of(ctx: &Context) -> Result<Self> {
        match ctx.cache_budget() {
            Some(bytes) => Ok(Self::from_bytes(bytes)),
            None => Self::from_lookup(|name| env::var_os(name)),
        }
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let found = [VARIABLE, OLDER_VARIABLE].into_iter().find_map(|name| Some((name, lookup(name)?)));
        let Some((name, value)) = found else { return Ok(Self(Some(DEFAULT))) };
        value.to_str().and_then(|text| text.parse().ok()).map(Self::from_bytes).ok_or_else(|| {
            ProviderError::Other(format!("{name}={value:?} must be a number of bytes; 0 means no limit"))
        })
    }

    fn from_bytes(bytes: u64) -> Self {
        Self((bytes > 0).then_some(bytes))
    }

    /// Prunes after the image was made. It is there and can be used whatever becomes of the others.
    pub(super) fn enforce(self, store: &Store, made: &Key, ctx: &Context) {
        let Some(max_bytes) = self.0 else { return };
        if let Err(e) = store.prune(&PruneRules { max_bytes, keep: Some(*made), recent_too: false }) {
            ctx.warn(&format!("the cache could not be pruned: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let with = |set: &'static [(&'static str, &'static str)]| {
            Budget::from_lookup(|asked| {
                set.iter().find(|(name, _)| *name == asked).map(|(_, value)| value.into())
            })
        };
        assert_eq!(with(&[]).unwrap(), Budget(Some(DEFAULT)));
        assert_eq!(with(&[(VARIABLE, "7"), (OLDER_VARIABLE, "8")]).unwrap(), Budget(Some(7)));
        assert_eq!(with(&[(OLDER_VARIABLE, "8")]).unwrap(), Budget(Some(8)));
        assert_eq!(with(&[(VARIABLE, "0")]).unwrap(), Budget(None));
        for (bad, name) in [([(VARIABLE, "-1")], VARIABLE), ([(OLDER_VARIABLE, "4G")], OLDER_VARIABLE)] {
            let message = Budget::from_lookup(|asked| {
                bad.iter().find(|(name, _)| *name == asked).map(|(_, value)| value.into())
            });
            assert!(message.unwrap_err().to_string().contains(name));
        }
    }
}
