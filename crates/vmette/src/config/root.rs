//! The workload's root: a folder of the host, or a block image.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmette_image::{BlockFs, RootfsArtifact};

use super::RootOptions;

/// The workload's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// A folder.
    Share(RootfsShare),
    /// An image.
    Block(RootfsBlock),
}

/// A rootfs that is a host folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootfsShare {
    /// The folder. The guest never writes to it: writes go to an overlay.
    pub path: PathBuf,
    /// Whether the guest's root is read-only, without an overlay.
    #[serde(default)]
    pub read_only: bool,
}

/// A rootfs that is a block image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootfsBlock {
    /// The image. It is never written to.
    pub path: PathBuf,
    /// Its file system.
    pub fstype: BlockFs,
}

impl RootOptions {
    /// Takes over what a provider resolved, with how it wants to be run.
    pub fn set_artifact(&mut self, artifact: RootfsArtifact) {
        let (rootfs, image) = match artifact {
            RootfsArtifact::Directory { path, read_only, config } => {
                (Rootfs::Share(RootfsShare { path, read_only }), config)
            }
            RootfsArtifact::BlockImage { path, fstype, config } => {
                (Rootfs::Block(RootfsBlock { path, fstype }), config)
            }
        };
        self.rootfs = Some(rootfs);
        self.image = image;
    }
}
