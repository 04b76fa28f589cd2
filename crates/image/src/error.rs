//! Why a rootfs could not be provided.

use std::io;
use std::path::PathBuf;

use crate::http::NetworkError;
use crate::oci::ImageError;
use crate::tar::ArchiveError;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, ProviderError>;

/// Why a rootfs could not be provided. The text is meant for the person at the terminal: it names what failed, on
/// what, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The spec is malformed, or names something that cannot be a rootfs.
    #[error("{0}")]
    InvalidSpec(String),
    /// The spec is not in the cache, and the network is ruled out.
    #[error("{0} is not in the cache, and offline mode rules out fetching it")]
    OfflineCacheMiss(String),
    /// The spec is not in the cache, and the caller wants only what is.
    #[error("{0} is not in the cache, and the pull policy rules out fetching it; pull it first")]
    NotPulled(String),
    /// A server cannot be reached, refuses, or gives what it should not.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// An image is damaged, hostile, or not one that can be run here.
    #[error("image {name}: {source}")]
    Image {
        /// The image, as the caller named it.
        name: String,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// No image of the cache is called that.
    #[error("no image {name} is in the cache; look which ones are")]
    NoSuchImage {
        /// As it was asked for.
        name: String,
    },
    /// An image cannot be removed now.
    #[error("image {name} is in use: {by}; end that first, or force its removal")]
    ImageInUse {
        /// As it was asked for.
        name: String,
        /// Who uses it.
        by: &'static str,
    },
    /// The caller has given it up.
    #[error("cancelled")]
    Cancelled,
    /// A file or directory cannot be used.
    #[error("{what} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried: `cannot open`.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The cache directory cannot be used.
    #[error("the cache {dir} cannot be used: {problem}; correct that, or set VMETTE_CACHE_DIR to a directory of your own", dir = .dir.display())]
    Cache {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An archive is damaged, hostile, or holds something that an image cannot hold.
    #[error("archive {path}: {source}", path = .path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ArchiveError,
    },
    /// A program this crate depends on is not installed.
    #[error("{tool} is not installed: install {package}")]
    MissingTool {
        /// The program.
        tool: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A program this crate depends on failed.
    #[error("{tool} failed on {path} ({status}): {message}", path = .path.display())]
    Tool {
        /// The program.
        tool: &'static str,
        /// What it was to write.
        path: PathBuf,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        message: String,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ProviderError {
    /// For `map_err`: names what was tried, and on which file.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// For `map_err`: something could not be written in the cache directory.
    pub(crate) fn write(dir: impl Into<PathBuf>, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let dir = dir.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::no_space(dir),
            _ => Self::io(what, dir)(source),
        }
    }

    /// The cache directory's disk is full.
    pub(crate) fn no_space(dir: impl Into<PathBuf>) -> Self {
        Self::Cache { dir: dir.into(), problem: "no space is left on its disk".to_owned() }
    }

    /// For `map_err`: the cache directory is at fault.
    pub(crate) fn cache(dir: impl Into<PathBuf>, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let dir = dir.into();
        move |source| Self::Cache { dir, problem: format!("{what}: {source}") }
    }
}
