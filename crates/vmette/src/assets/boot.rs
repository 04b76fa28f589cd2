//! A kernel and an initramfs, found, fetched or derived.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use vmette_work::Work;

use super::{AssetError, AssetOptions, Kernel, Origin, initramfs, vmlinux_of};

/// What a machine boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootAssets {
    /// The kernel for the engine: an uncompressed one with a PVH entry where there is such a one, else the image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The kernel's version as in `uname -r`, or `unknown`.
    pub version: String,
    /// Where the kernel was found.
    pub origin: Origin,
}

/// Finds the assets, and fetches and derives those that are missing. Takes about a millisecond when everything is there; up
/// to minutes, on the network, on the first run. `work` hears of each step that takes its time.
pub fn boot_assets(options: &AssetOptions, work: &Work) -> Result<BootAssets, AssetError> {
    let given = options.initramfs.as_deref().map(readable_initramfs).transpose()?;
    let kernel = Kernel::locate(options, work)?;
    let extra: Vec<&str> = options.extra_modules.iter().map(String::as_str).collect();
    let initramfs = match given.or_else(|| kernel.initramfs.clone()) {
        Some(path) if !extra.is_empty() => {
            return Err(AssetError::GivenInitramfs { modules: extra.join(", "), path });
        }
        Some(path) => path,
        None => initramfs(&kernel, &extra, &options.cache, work)?,
    };
    let vmlinux = match kernel.origin {
        Origin::Explicit => None,
        _ if !options.elf => None,
        _ => vmlinux_of(&kernel.image, &options.cache, work)?,
    };
    Ok(BootAssets {
        kernel: vmlinux.unwrap_or(kernel.image),
        initramfs,
        version: kernel.version,
        origin: kernel.origin,
    })
}

/// A given initramfs must at least be a file that can be read and is not empty.
fn readable_initramfs(path: &Path) -> Result<PathBuf, AssetError> {
    let check = || {
        let meta = File::open(path)?.metadata()?;
        if !meta.is_file() || meta.len() == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not an initramfs: not a file, or empty",
            ));
        }
        fs::canonicalize(path)
    };
    check().map_err(AssetError::file("initramfs", path))
}
