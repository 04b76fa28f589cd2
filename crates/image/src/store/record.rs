//! What the store knows of an image beside its bytes. Kept as JSON beside it, written last: an image is ready when its
//! record is there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::document;
use super::key::Key;
use super::stamp::Stamp;
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
    /// Bytes of its files' content; of a squashfs image, which is not looked into, its own.
    pub unpacked: u64,
}

/// An image of the store, complete and whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// What identifies it in the store.
    pub key: Key,
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

impl StoredImage {
    /// The image's identity as it is shown: its own, else the key; 64 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        self.description.id.map_or_else(|| self.key.to_string(), |id| id.hex())
    }
}

/// Counts up when a record's meaning changes; a record of another version is as good as none.
const VERSION: u32 = 1;

/// The record as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// A record under another key's name says nothing.
    key: Key,
    pub(super) description: Description,
    /// Of the squashfs image.
    pub(super) bytes: u64,
    pub(super) sha256: Digest,
    /// Of the squashfs image when it had that hash.
    pub(super) stamp: Stamp,
    /// Seconds since 1970.
    made: u64,
}

/// The parts of a record that its maker knows.
pub(super) struct Made {
    pub(super) description: Description,
    pub(super) bytes: u64,
    pub(super) sha256: Digest,
    pub(super) stamp: Stamp,
}

impl Record {
    pub(super) fn new(key: &Key, made: Made) -> Self {
        let Made { description, bytes, sha256, stamp } = made;
        Self {
            version: VERSION,
            key: *key,
            description,
            bytes,
            sha256,
            stamp,
            made: seconds(SystemTime::now()),
        }
    }

    /// The key's record and its file, whose time of change is the time of last use. None when it cannot be used.
    pub(super) fn read(dir: &Path, key: &Key) -> Option<(Self, File)> {
        let (record, file) = document::read::<Self>(&Self::path(dir, key))?;
        (record.version == VERSION && record.key == *key).then_some((record, file))
    }

    pub(super) fn path(dir: &Path, key: &Key) -> PathBuf {
        dir.join(format!("{key}.json"))
    }

    pub(super) fn write(&self, dir: &Path) -> std::io::Result<()> {
        document::write(dir, &self.key.to_string(), self)
    }

    /// What is told of it. `metadata` is the record's own.
    pub(super) fn into_image(self, path: PathBuf, metadata: Option<fs::Metadata>) -> StoredImage {
        let made = UNIX_EPOCH + Duration::from_secs(self.made);
        let used = metadata.and_then(|metadata| metadata.modified().ok()).unwrap_or(made);
        StoredImage { key: self.key, path, description: self.description, bytes: self.bytes, made, used }
    }
}

/// Since 1970; a time before that is no time that a store has.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
    /// A file or folder of this machine: what it was when it was read.
    File {
        /// Of its place and of all that changes when it is written to.
        stamp: Key,
    },
    /// Made or imported here: nothing to ask, and not to be had again, so it is never removed but by name.
    Local,
}
