//! Where boot assets are to be taken from.

use std::fs;
use std::path::PathBuf;

use vmette_cache::CacheRoot;

use super::AssetError;

/// The guest's architecture, as a folder of `VMETTE_ASSETS_DIR` is named: `x86_64` or `aarch64`. It is the host's.
pub const ARCH: &str = std::env::consts::ARCH;

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
    /// Unpack an x86 kernel into the ELF file in it, which an engine may be able to start in less time.
    pub elf: bool,
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
            elf: true,
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
    pub(super) fn for_arch(&self) -> Result<Option<PathBuf>, AssetError> {
        let Some(folder) = &self.assets_dir else { return Ok(None) };
        if !folder.is_absolute() {
            let path = folder.clone();
            return Err(vmette_cache::Error::Relative { variable: "VMETTE_ASSETS_DIR", path }.into());
        }
        fs::read_dir(folder).map_err(|source| AssetError::AssetsDir { path: folder.clone(), source })?;
        Ok(Some(folder.join(ARCH)))
    }
}
