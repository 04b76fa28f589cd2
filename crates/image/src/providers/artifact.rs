//! The contract between a spec's provider and its users.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::error::Result;
use crate::store::StoredImage;
use vmette_oci::ImageConfig;

/// File system inside a block image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockFs {
    /// Compressed and read-only.
    Squashfs,
}

impl BlockFs {
    /// The name by which a kernel knows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Squashfs => "squashfs",
        }
    }
}

impl fmt::Display for BlockFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The root of a machine. Plain data: a session that uses a block image of the store keeps it from being
/// pruned with [`Store::hold`](crate::Store::hold).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootfsArtifact {
    /// A directory of the host, shared into the machine.
    Directory {
        /// Absolute, without symlinks.
        path: PathBuf,
        /// The machine must not write into it.
        read_only: bool,
        /// How the image wants to be run.
        config: ImageConfig,
    },
    /// A file that holds a file system, attached read-only.
    BlockImage {
        /// Absolute.
        path: PathBuf,
        /// Its file system.
        fstype: BlockFs,
        /// How the image wants to be run.
        config: ImageConfig,
    },
}

impl RootfsArtifact {
    /// How the image wants to be run.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        match self {
            Self::Directory { config, .. } | Self::BlockImage { config, .. } => config,
        }
    }

    /// A squashfs image that declares nothing.
    pub(crate) fn squashfs(path: PathBuf) -> Self {
        Self::BlockImage { path, fstype: BlockFs::Squashfs, config: ImageConfig::default() }
    }

    /// An image of the store.
    pub(crate) fn stored(image: StoredImage) -> Self {
        Self::BlockImage { path: image.path, fstype: BlockFs::Squashfs, config: image.description.config }
    }
}

/// Turns the specs it claims into artifacts.
pub trait RootfsProvider: Send + Sync {
    /// Short name, as `vmette providers` lists it.
    fn name(&self) -> &'static str;

    /// The form of a spec it claims, for messages: `squashfs+file:///PATH`.
    fn form(&self) -> &'static str;

    /// Returns whether the spec is this provider's. May look at the file system, never fails.
    fn matches(&self, spec: &str) -> bool;

    /// Makes or finds the artifact. Blocks; may be called from any thread, and from several processes at once.
    ///
    /// # Errors
    /// See [`ProviderError`](crate::ProviderError).
    fn provide(&self, spec: &str, ctx: &Context) -> Result<RootfsArtifact>;
}
