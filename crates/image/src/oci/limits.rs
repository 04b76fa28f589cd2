//! How large an image may be.

use std::env;
use std::ffi::OsString;

use crate::error::{ProviderError, Result};

/// The variable that says so.
pub(crate) const MAX_BYTES_VARIABLE: &str = "VMETTE_OCI_MAX_BYTES";
/// Larger than nearly every published image, and small enough for a usual disk to hold while it is converted.
const MAX_BYTES_DEFAULT: u64 = 16 << 30;

/// Most bytes of all layers of an image, decompressed, with holes of sparse files.
pub(crate) fn max_bytes() -> Result<u64> {
    from_lookup(|name| env::var_os(name))
}

fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<u64> {
    let Some(value) = lookup(MAX_BYTES_VARIABLE) else { return Ok(MAX_BYTES_DEFAULT) };
    value.to_str().and_then(|text| text.parse().ok()).filter(|&bytes| bytes > 0).ok_or_else(|| {
        ProviderError::Other(format!("{MAX_BYTES_VARIABLE}={value:?} must be a number of bytes, at least 1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_sets_it() {
        let with = |value: &str| from_lookup(|name| (name == MAX_BYTES_VARIABLE).then(|| value.into()));
        assert_eq!(from_lookup(|_| None).unwrap(), MAX_BYTES_DEFAULT);
        assert_eq!(with("7").unwrap(), 7);
        for bad in ["", "0", "-1", "4G"] {
            assert!(with(bad).unwrap_err().to_string().contains(MAX_BYTES_VARIABLE));
        }
    }
}
