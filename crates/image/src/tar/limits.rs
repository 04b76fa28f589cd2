//! How large an archive, and all images together, may be.

use std::env;
use std::ffi::OsString;

use crate::error::{ProviderError, Result};

const MAX_BYTES_VARIABLE: &str = "VMETTE_TAR_MAX_BYTES";
const MAX_BYTES_DEFAULT: u64 = 4 << 30;
const CACHE_MAX_BYTES_VARIABLE: &str = "VMETTE_TAR_CACHE_MAX_BYTES";
const CACHE_MAX_BYTES_DEFAULT: u64 = 8 << 30;

/// Limits of a [`TarProvider`](crate::TarProvider).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarLimits {
    /// Most decompressed bytes of an archive, holes of sparse files included.
    pub max_bytes: u64,
    /// Bytes of the store above which a conversion is followed by pruning; 0 means never.
    pub cache_max_bytes: u64,
}

impl Default for TarLimits {
    fn default() -> Self {
        Self { max_bytes: MAX_BYTES_DEFAULT, cache_max_bytes: CACHE_MAX_BYTES_DEFAULT }
    }
}

impl TarLimits {
    /// What `VMETTE_TAR_MAX_BYTES` (4 GiB) and `VMETTE_TAR_CACHE_MAX_BYTES` (8 GiB) say.
    ///
    /// # Errors
    /// One of them is not a number, or the first is zero.
    pub fn from_env() -> Result<Self> {
        Self::from_lookup(|name| env::var_os(name))
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let read = |name: &str, default: u64, least: u64| match lookup(name) {
            None => Ok(default),
            Some(value) => {
                value.to_str().and_then(|text| text.parse().ok()).filter(|&bytes| bytes >= least).ok_or_else(
                    || {
                        ProviderError::Other(format!(
                            "{name}={value:?} must be a number of bytes, at least {least}"
                        ))
                    },
                )
            }
        };
        Ok(Self {
            max_bytes: read(MAX_BYTES_VARIABLE, MAX_BYTES_DEFAULT, 1)?,
            cache_max_bytes: read(CACHE_MAX_BYTES_VARIABLE, CACHE_MAX_BYTES_DEFAULT, 0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let with = |name: &'static str, value: &'static str| {
            TarLimits::from_lookup(|asked| (asked == name).then(|| value.into()))
        };
        assert_eq!(with("", "").unwrap(), TarLimits::default());
        assert_eq!(with(MAX_BYTES_VARIABLE, "7").unwrap().max_bytes, 7);
        assert_eq!(with(CACHE_MAX_BYTES_VARIABLE, "0").unwrap().cache_max_bytes, 0);
        for bad in ["0", "-1", "4G", ""] {
            assert!(with(MAX_BYTES_VARIABLE, bad).unwrap_err().to_string().contains(MAX_BYTES_VARIABLE));
        }
    }
}
