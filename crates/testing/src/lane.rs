//! Another host's QEMU and kernel, for the tests that run machines: `scripts/lane` unpacks them into a folder, and runs
//! tests on them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folder of a lane.
const VARIABLE: &str = "VMETTE_LANE";

/// The folder with kernel and templates that all tests of a run share: that of the lane, or the given one.
#[must_use]
pub fn shared_cache(own: &Path) -> PathBuf {
    folder().map_or_else(|| own.to_owned(), |lane| lane.join("cache"))
}

/// The variables by which a command finds what a lane has instead of what is installed. Empty outside of a lane.
#[must_use]
pub fn environment() -> Vec<(&'static str, OsString)> {
    let Some(lane) = folder() else { return Vec::new() };
    vec![("VMETTE_QEMU", lane.join("qemu").into()), ("APT_CONFIG", lane.join("apt.conf").into())]
}

fn folder() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}
