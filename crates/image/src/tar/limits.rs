//! How large an archive may be.

use std::env;
use std::ffi::OsString;

use crate::error::{ProviderError, Result};

pub(crate) const MAX_BYTES_VARIABLE: &str = "VMETTE_TAR_MAX_BYTES";
const MAX_BYTES_DEFAULT: u64 = 4 << 30;

/// Limits of a [`TarProvider`](crate::TarProvider).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarLimits {
    /// Most decompressed bytes of an archive, holes of sparse files included.
    pub max_bytes: u64,
}

impl Default for TarLimits {
    fn default() -> Self {
        Self { max_bytes: MAX_BYTES_DEFAULT }
    }
}

impl TarLimits {
    /// What `VMETTE_TAR_MAX_BYTES` (4 GiB) says.
    ///
    /// # Errors
    /// It is not a number, or zero.
    pub fn from_env() -> Result<Self> {
        Self::from_lookup(|name| env::var_os(name))
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let Some(value) = lookup(MAX_BYTES_VARIABLE) else { return Ok(Self::default()) };
        match value.to_str().and_then(|text| text.parse().ok()) {
            Some(max_bytes @ 1..) => Ok(Self { max_bytes }),
            _ => Err(ProviderError::Other(format!(
                "{MAX_BYTES_VARIABLE}={value:?} must be a number of bytes, at least 1"
            ))),
        }
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
        for bad in ["0", "-1", "4G", ""] {
            assert!(with(MAX_BYTES_VARIABLE, bad).unwrap_err().to_string().contains(MAX_BYTES_VARIABLE));
        }
    }
}
