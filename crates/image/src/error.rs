//! Failures of providers and of the images' operations.

use std::io;
use std::path::PathBuf;

use vmette_http::NetworkError;
use vmette_oci::{BadReference, FileError, ImageError};
use vmette_work::Cancelled;

use crate::layers::{ConvertError, Unpackable};
use crate::limits::BadLimit;
use crate::pack::PackError;
use crate::read_error::ReadError;
use crate::store::StoreError;
use crate::tar::ArchiveError;
use crate::tool::ToolError;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, ProviderError>;

/// Why a rootfs could not be provided. The text is meant for the person at the terminal: it names the failure, its
/// subject, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The spec is malformed, or names something that cannot be a rootfs.
    #[error("{0}")]
    InvalidSpec(String),
    /// The spec is not in the cache, and the network is ruled out.
    #[error("{0} is not in the cache, and offline mode rules out fetching it")]
    OfflineCacheMiss(String),
    /// The spec is not in the cache, and the caller rules out fetching it.
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
        /// The defect.
        #[source]
        source: ImageError,
    },
    /// A layer of an image is damaged, hostile, or holds something that an image cannot hold.
    #[error("image {name}: a layer of it {source}")]
    Layer {
        /// The image, as the caller named it, and the layer.
        name: String,
        /// The defect.
        #[source]
        source: ArchiveError,
    },
    /// No image of the cache has that name.
    #[error("no image {name} is in the cache; look which ones are")]
    NoSuchImage {
        /// The name that was asked for.
        name: String,
    },
    /// An image cannot be removed now.
    #[error("image {name} is in use: {by}; end that first, or force its removal")]
    ImageInUse {
        /// The name that was asked for.
        name: String,
        /// Its user.
        by: &'static str,
    },
    /// The caller has given up.
    #[error("cancelled")]
    Cancelled,
    /// A file or directory cannot be used.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The cache directory cannot be used.
    #[error(transparent)]
    Cache(vmette_cache::Error),
    /// An archive is damaged, hostile, or holds something that an image cannot hold.
    #[error("archive {path}: {source}", path = .path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The defect.
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
    #[error("{}: {source}", .subject.display())]
    Tool {
        /// The file or name that it worked on.
        subject: PathBuf,
        /// The program's own words, or the system's.
        #[source]
        source: vmette_spawn::Error,
    },
    /// A tree that cannot be packed into an image.
    #[error(transparent)]
    Unpackable(#[from] Unpackable),
    /// A limit of the environment is malformed.
    #[error(transparent)]
    Limit(#[from] BadLimit),
    /// The file that was made is no image.
    #[error(transparent)]
    Made(Box<dyn std::error::Error + Send + Sync>),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ProviderError {
    /// For `map_err`: names the action, and its file.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let failed = FileError::new(what, path);
        move |source| failed(source).into()
    }

    /// For `map_err`: names the action, and the directory or file of the cache.
    pub(crate) fn cache(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let failed = vmette_cache::Error::io(what, path.into());
        move |source| Self::Cache(failed(source))
    }
}

impl From<Cancelled> for ProviderError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<BadReference> for ProviderError {
    fn from(error: BadReference) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

impl From<vmette_http::Error> for ProviderError {
    fn from(error: vmette_http::Error) -> Self {
        match error {
            vmette_http::Error::Cancelled(_) => Self::Cancelled,
            vmette_http::Error::Offline { url } => Self::OfflineCacheMiss(url),
            vmette_http::Error::Network(error) => Self::Network(error),
            other => Self::Made(other.into()),
        }
    }
}

impl From<vmette_oci::Error> for ProviderError {
    fn from(error: vmette_oci::Error) -> Self {
        match error {
            vmette_oci::Error::Cancelled(_) => Self::Cancelled,
            vmette_oci::Error::Http(error) => error.into(),
            vmette_oci::Error::Image { name, source } => Self::Image { name, source },
            vmette_oci::Error::Reference(error) => error.into(),
            vmette_oci::Error::File(error) => Self::Io(error),
            other => Self::Made(other.into()),
        }
    }
}

impl From<StoreError> for ProviderError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled(_) => Self::Cancelled,
            StoreError::Cache(error) => Self::Cache(error),
            StoreError::Limit(error) => Self::Limit(error),
            damaged @ StoreError::Damaged { .. } => Self::Made(damaged.into()),
        }
    }
}

impl From<ToolError> for ProviderError {
    fn from(error: ToolError) -> Self {
        match error {
            ToolError::Cancelled(_) => Self::Cancelled,
            ToolError::Missing { tool, package } => Self::MissingTool { tool, package },
            ToolError::Failed { subject, source } => Self::Tool { subject, source },
        }
    }
}

impl From<PackError> for ProviderError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Cancelled(_) => Self::Cancelled,
            PackError::Tool(error) => error.into(),
            PackError::Cache(error) => Self::Cache(error),
            PackError::File(error) => Self::Io(error),
            reroot @ PackError::Reroot { .. } => Self::Made(reroot.into()),
        }
    }
}

impl From<ReadError> for ProviderError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Cancelled(_) => Self::Cancelled,
            ReadError::Oci(error) => error.into(),
            ReadError::Store(error) => error.into(),
            ReadError::Tool(error) => error.into(),
            other => Self::Made(other.into()),
        }
    }
}

impl From<ConvertError> for ProviderError {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::Cancelled(_) => Self::Cancelled,
            ConvertError::Archive { name, source } => Self::Archive { path: name.into(), source },
            ConvertError::Layer { name, source } => Self::Layer { name, source },
            ConvertError::DiffId { name, source } => Self::Image { name, source },
            ConvertError::Read(error) => error.into(),
            ConvertError::Spill(error) => Self::Cache(error),
            ConvertError::ReadBack(error) => Self::Io(error),
            ConvertError::Unpackable(error) => Self::Unpackable(error),
            ConvertError::Pack(error) => error.into(),
            ended @ ConvertError::ReaderEnded => Self::Made(ended.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whichever module notices it: a caller that gave up is told that, and nothing else.
    #[test]
    fn a_cancel_stays_a_cancel_on_its_way_up() {
        let store = || StoreError::from(vmette_cache::Error::from(Cancelled));
        let read = || ReadError::of(vmette_oci::Error::from(vmette_http::Error::from(Cancelled)).into());
        let tool = || ToolError::on("x")(vmette_spawn::Error::from(Cancelled));
        for error in [
            ProviderError::from(store()),
            read().into(),
            tool().into(),
            ReadError::from(store()).into(),
            ReadError::from(tool()).into(),
            PackError::from(tool()).into(),
            ConvertError::from(read()).into(),
            ConvertError::from(PackError::from(tool())).into(),
            vmette_oci::Error::from(vmette_http::Error::from(Cancelled)).into(),
        ] {
            assert!(matches!(error, ProviderError::Cancelled), "{error:?}");
        }
    }
}
