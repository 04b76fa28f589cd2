//! What the store knows of an image beside its bytes. Kept as JSON beside it.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image_config::{ImageConfig, Platform};

/// What an image was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageKind {
    /// An OCI or Docker image.
    Oci,
    /// A tar archive.
    Tar,
    /// A squashfs image that was downloaded or imported.
    Squashfs,
    /// A Debian suite.
    Debian,
    /// The built-in userland.
    Builtin,
}

/// One layer that an image was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Of its compressed bytes.
    pub digest: Digest,
    /// Compressed size in bytes.
    pub size: u64,
}

/// What whoever makes an image says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Of what it was made.
    pub kind: ImageKind,
    /// From where: a reference, a path, a URL without what may be secret in it.
    pub source: String,
    /// An image's own identity: the digest of its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Digest>,
    /// What it runs on, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// How it wants to be run.
    #[serde(default)]
    pub config: ImageConfig,
    /// Its layers, the lowest first.
    #[serde(default)]
    pub layers: Vec<LayerInfo>,
    /// Bytes of its files' content.
    pub unpacked: u64,
}

/// An image of the store, complete and whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// The squashfs image.
    pub path: PathBuf,
    /// What is known of it.
    pub description: Description,
    /// Size of the squashfs image in bytes.
    pub bytes: u64,
    /// When it was made.
    pub made: SystemTime,
    /// When it was last asked for.
    pub used: SystemTime,
}

/// Where a name of the store comes from, and how to ask whether it still means the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "origin", rename_all = "kebab-case")]
pub enum Origin {
    /// A registry: the manifest's or index's digest, when it was last compared.
    Registry {
        /// What the name stood for.
        manifest: Digest,
    },
    /// A URL: what the server called this version of the file.
    Url {
        /// `ETag`, as it came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        etag: Option<String>,
        /// `Last-Modified`, as it came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_modified: Option<String>,
    },
    /// Made or imported here: nothing to ask, and not to be had again, so it is never removed but by name.
    Local,
}
