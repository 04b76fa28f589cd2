//! Errors from before there is a machine.

use std::io;
use std::path::{Path, PathBuf};

use vmette_work::Cancelled;

/// Why a kernel, an initramfs or a busybox could not be had. The text names what, where and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// The cache cannot be used, or the wait for it was given up.
    #[error(transparent)]
    Cache(#[from] vmette_cache::Error),
    /// The work was given up.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
    /// `VMETTE_ASSETS_DIR` names something that is not there.
    #[error("VMETTE_ASSETS_DIR={path}: {source}; unset it or name a folder that exists", path = .path.display())]
    AssetsDir {
        /// The file that it holds.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file that is to be booted cannot be used.
    #[error("{what} {path}: {source}", path = .path.display())]
    File {
        /// The file's purpose: `kernel`, `initramfs`, `busybox`, `kernel module`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The error of the system, or of the decoder.
        #[source]
        source: io::Error,
    },
    /// There is no kernel here, and none could be obtained.
    #[error(
        "no Linux kernel for the guest: {reason}. Install one (`apt-get install {package}`), or name one, or set \
         VMETTE_ASSETS_DIR to a folder that has {arch}/vmlinuz and {arch}/modules",
        arch = super::ARCH
    )]
    NoKernel {
        /// Why none could be obtained.
        reason: String,
        /// The package that has one.
        package: &'static str,
    },
    /// There is no static busybox here, and none could be obtained.
    #[error(
        "no static busybox for the built-in root: {reason}. Install one (`apt-get install busybox-static`), or name a \
         rootfs, or set VMETTE_ASSETS_DIR to a folder that has {arch}/busybox",
        arch = super::ARCH
    )]
    NoBusybox {
        /// Why none could be obtained.
        reason: String,
    },
    /// The kernel lacks a module without which no guest can run.
    #[error(
        "kernel {version}: module `{module}` is neither built in nor in {tree}; use a kernel that has it \
         (`apt-get install {package}` has one)",
        tree = .tree.display(), package = super::kernel::PACKAGE
    )]
    NoModule {
        /// The module's name.
        module: String,
        /// The kernel's version.
        version: String,
        /// Where it was looked for.
        tree: PathBuf,
    },
    /// A module's dependencies make no sense.
    #[error("kernel modules in {tree}: {reason}", tree = .tree.display())]
    Modules {
        /// The module tree.
        tree: PathBuf,
        /// The defect.
        reason: String,
    },
    /// More modules are wanted, and the initramfs is a given one.
    #[error("the modules {modules} cannot be added to a given initramfs ({path})", path = .path.display())]
    GivenInitramfs {
        /// The modules that were wanted.
        modules: String,
        /// The given initramfs.
        path: PathBuf,
    },
    /// This library carries no guest.
    #[error(
        "this build of vmette has no guest program: build it again after `rustup target add {arch}-unknown-linux-musl`, \
         or with VMETTE_GUEST_BIN set to a vmette-guest for {arch} Linux, or name an initramfs",
        arch = super::ARCH
    )]
    NoGuest,
    /// A tool of the distribution failed.
    #[error(transparent)]
    Tool(vmette_spawn::Error),
    /// A package has not what it should.
    #[error("package {package}: {reason}")]
    Package {
        /// Which package.
        package: String,
        /// The defect.
        reason: String,
    },
}

impl AssetError {
    /// True if a tool or a package is at fault, so that another way may lead to the same.
    pub(super) fn is_of_packages(&self) -> bool {
        matches!(self, Self::Tool(_) | Self::Package { .. })
    }

    /// For `map_err`: an error of the cache at this path.
    pub(super) fn cache(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let failed = vmette_cache::Error::io("it cannot be used", path);
        move |source| failed(source).into()
    }

    /// For `map_err`: an error about this file.
    pub(super) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, path: path.into(), source }
    }
}

impl From<vmette_spawn::Error> for AssetError {
    fn from(error: vmette_spawn::Error) -> Self {
        match error {
            vmette_spawn::Error::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Tool(error),
        }
    }
}
