//! What can go wrong before there is a machine.

use std::io;
use std::path::PathBuf;

/// Why a kernel, an initramfs or a busybox could not be had. The text names what, where and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// Neither a cache folder nor a home is known.
    #[error("no cache folder: HOME is not set; set VMETTE_CACHE_DIR to a folder of yours")]
    NoHome,
    /// A folder that is named by the environment depends on the current folder.
    #[error("{variable}={path} is not an absolute path; name the folder from / on", path = .path.display())]
    Relative {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        path: PathBuf,
    },
    /// `VMETTE_ASSETS_DIR` names something that is not there.
    #[error("VMETTE_ASSETS_DIR={path}: {source}; unset it or name a folder that exists", path = .path.display())]
    AssetsDir {
        /// What it holds.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The cache cannot be read or written.
    #[error(
        "cache {path}: {source}; make it usable, or set VMETTE_CACHE_DIR to a folder of yours with space",
        path = .path.display()
    )]
    Cache {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The cache belongs to someone else, who could replace the kernel in it.
    #[error(
        "cache {path} belongs to user {owner}, not to {us}; set VMETTE_CACHE_DIR to a folder of yours",
        path = .path.display()
    )]
    CacheOwner {
        /// The cache folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may write to the cache, and could replace the kernel in it.
    #[error(
        "cache {path} is writable by others (mode {mode:04o}): run `chmod 700 {path}` if its content is yours, \
         or set VMETTE_CACHE_DIR to another folder",
        path = .path.display()
    )]
    CacheMode {
        /// The cache folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that is to be booted cannot be used.
    #[error("{what} {path}: {source}", path = .path.display())]
    File {
        /// What the file is for: `kernel`, `initramfs`, `busybox`, `kernel module`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system, or the decoder, says.
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
        /// What is wrong with it.
        reason: String,
    },
    /// More modules are wanted, and the initramfs is a given one.
    #[error("the modules {modules} cannot be added to a given initramfs ({path})", path = .path.display())]
    GivenInitramfs {
        /// What was wanted.
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
    #[error("`{command}` {reason}")]
    Tool {
        /// The command line.
        command: String,
        /// How it failed, with its last words.
        reason: String,
    },
    /// A package has not what it should.
    #[error("package {package}: {reason}")]
    Package {
        /// Which package.
        package: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl AssetError {
    /// For `map_err`: an error of the cache at this path.
    pub(super) fn cache(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Cache { path: path.into(), source }
    }

    /// For `map_err`: an error about this file.
    pub(super) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, path: path.into(), source }
    }
}
