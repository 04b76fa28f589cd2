//! Limits of sources, which the environment raises.

use crate::limits::{self, BadLimit, Lookup};

pub(crate) const TAR_MAX_VARIABLE: &str = "VMETTE_TAR_MAX_BYTES";
const TAR_MAX_DEFAULT: u64 = 4 << 30;
pub(crate) const OCI_MAX_VARIABLE: &str = "VMETTE_OCI_MAX_BYTES";
/// Larger than nearly every published image, and small enough for a usual disk to hold while it is converted.
const OCI_MAX_DEFAULT: u64 = 16 << 30;
pub(super) const SQUASHFS_MAX_VARIABLE: &str = "VMETTE_SQUASHFS_MAX_BYTES";
const SQUASHFS_MAX_DEFAULT: u64 = 4 << 30;

/// Limits of a [`TarProvider`](crate::TarProvider).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarLimits {
    /// Most decompressed bytes of an archive, holes of sparse files included.
    pub max_bytes: u64,
}

impl Default for TarLimits {
    fn default() -> Self {
        Self { max_bytes: TAR_MAX_DEFAULT }
    }
}

impl TarLimits {
    /// The limits that `VMETTE_TAR_MAX_BYTES` (4 GiB) sets.
    ///
    /// # Errors
    /// It is not a number, or zero.
    pub fn from_env() -> Result<Self, BadLimit> {
        Self::from_lookup(&limits::environment)
    }

    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, BadLimit> {
        let max_bytes = limits::bytes(TAR_MAX_VARIABLE, TAR_MAX_DEFAULT, lookup)?;
        Ok(Self { max_bytes })
    }
}

/// Most bytes of all layers of an image, decompressed, with holes of sparse files.
pub(crate) fn oci_max() -> Result<u64, BadLimit> {
    limits::bytes(OCI_MAX_VARIABLE, OCI_MAX_DEFAULT, &limits::environment)
}

/// Most bytes of a squashfs image that is fetched.
pub(super) fn squashfs_max() -> Result<u64, BadLimit> {
    limits::bytes(SQUASHFS_MAX_VARIABLE, SQUASHFS_MAX_DEFAULT, &limits::environment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_sets_it() {
        let with = |value: &str| {
            let value = value.to_owned();
            TarLimits::from_lookup(&move |name| (name == TAR_MAX_VARIABLE).then(|| value.clone().into()))
        };
        assert_eq!(TarLimits::from_lookup(&|_| None).unwrap(), TarLimits::default());
        assert_eq!(with("7").unwrap().max_bytes, 7);
        for bad in ["", "0", "-1", "4G"] {
            let message = with(bad).unwrap_err().to_string();
            assert!(message.contains(TAR_MAX_VARIABLE) && message.contains("at least 1"), "{message}");
        }
    }
}
