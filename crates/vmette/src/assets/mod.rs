//! What a machine boots: a Linux kernel, and an initramfs with the guest's `/init` and the kernel's modules.
//!
//! The kernel is the distribution's, fetched once without privileges and without installing it; the guest is embedded
//! in this library; the rest is derived from both and kept in the cache. Nothing is ever taken from the current
//! folder: running inside of a hostile checkout must not boot its kernel.

mod apt;
mod busybox;
mod decompress;
mod elf;
mod error;
mod guest;
mod image;
mod initramfs;
mod kernel;
mod modules;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub use vmette_cache::CacheRoot;
use vmette_work::Work;

pub use busybox::busybox;
pub use error::AssetError;
pub use guest::{GUEST, GUEST_SHA256};
pub use image::vmlinux_of;
pub use initramfs::initramfs;
pub use kernel::{Kernel, Origin};

/// The guest's architecture, as a folder of `VMETTE_ASSETS_DIR` is named: `x86_64` or `aarch64`. It is the host's.
pub const ARCH: &str = std::env::consts::ARCH;

/// Whether this system's engine starts an uncompressed x86 kernel at its PVH entry. VZ takes the image that the kernel's
/// build makes.
const STARTS_ELF: bool = cfg!(all(target_os = "linux", not(vz_check)));

/// Where to take boot assets from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetOptions {
    /// Boot this kernel, as it is.
    pub kernel: Option<PathBuf>,
    /// Boot this initramfs, as it is: its `/init` must be a vmette guest of this version.
    pub initramfs: Option<PathBuf>,
    /// The cache.
    pub cache: CacheRoot,
    /// A folder with `<arch>/vmlinuz`, `<arch>/modules/`, `<arch>/busybox`, each optional: `VMETTE_ASSETS_DIR`.
    pub assets_dir: Option<PathBuf>,
    /// Do not fetch anything: what is neither given, nor in the cache, nor on the host is an error.
    pub offline: bool,
    /// Kernel modules to load besides those that every guest has, for example `kvm-amd`. All are required.
    pub extra_modules: Vec<String>,
}

impl AssetOptions {
    /// Nothing is explicit, this is the cache, and the environment is not looked at.
    #[must_use]
    pub fn new(cache: CacheRoot) -> Self {
        Self {
            kernel: None,
            initramfs: None,
            cache,
            assets_dir: None,
            offline: false,
            extra_modules: Vec::new(),
        }
    }

    /// Nothing is explicit, this is the cache, and `VMETTE_ASSETS_DIR` of this process counts.
    #[must_use]
    pub fn from_env(cache: CacheRoot) -> Self {
        let assets_dir = std::env::var_os("VMETTE_ASSETS_DIR").filter(|value| !value.is_empty());
        Self { assets_dir: assets_dir.map(PathBuf::from), ..Self::new(cache) }
    }

    /// The part of the assets folder for this architecture. A named folder that is not there is an error; one that
    /// holds only some of the assets is none.
    fn assets_for_arch(&self) -> Result<Option<PathBuf>, AssetError> {
        let Some(folder) = &self.assets_dir else { return Ok(None) };
        if !folder.is_absolute() {
            let path = folder.clone();
            return Err(vmette_cache::Error::Relative { variable: "VMETTE_ASSETS_DIR", path }.into());
        }
        fs::read_dir(folder).map_err(|source| AssetError::AssetsDir { path: folder.clone(), source })?;
        Ok(Some(folder.join(ARCH)))
    }
}

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
        _ if !STARTS_ELF => None,
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

#[cfg(test)]
mod tests;
