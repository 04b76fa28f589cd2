//! The record of an image: JSON beside it, written last, so that an image is ready when its record is there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use vmette_cache::{Digest, Key, Stamp};
use vmette_oci::{ImageConfig, Platform};

use super::document;

/// Kinds of sources of images.
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
    /// Digest of its compressed bytes.
    pub digest: Digest,
    /// Compressed size in bytes.
    pub size: u64,
}

/// An image, as its maker describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The kind of its source.
    pub kind: ImageKind,
    /// Its source: a reference, a path, a URL without secrets.
    pub source: String,
    /// An image's own identity: the digest of its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Digest>,
    /// Its platform, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// How it wants to be run.
    #[serde(default)]
    pub config: ImageConfig,
    /// Its layers, the lowest first.
    #[serde(default)]
    pub layers: Vec<LayerInfo>,
    /// Bytes of its files' content; of a squashfs image, which is not looked into, the image's own.
    pub unpacked: u64,
    /// Lines on what was mended or left out when it was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Description {
    /// A root file system that declares nothing.
    #[must_use]
    pub fn of_rootfs(kind: ImageKind, source: String, unpacked: u64) -> Self {
        let (config, layers, notes) = (ImageConfig::default(), Vec::new(), Vec::new());
        Self { kind, source, id: None, platform: None, config, layers, unpacked, notes }
    }
}

/// An image of the store, complete and whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Its key in the store.
    pub key: Key,
    /// The squashfs image.
    pub path: PathBuf,
    /// Its maker's description.
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
    /// Size of the squashfs image.
    pub(super) bytes: u64,
    pub(super) sha256: Digest,
    /// Stamp of the squashfs image when it had that hash.
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

    /// The key's record and its file, whose time of change is the time of last use. `None` if it cannot be used.
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

    /// The image at that path. `metadata` is the record's own.
    pub(super) fn into_image(self, path: PathBuf, metadata: Option<fs::Metadata>) -> StoredImage {
        let made = UNIX_EPOCH + Duration::from_secs(self.made);
        let used = metadata.and_then(|metadata| metadata.modified().ok()).unwrap_or(made);
        StoredImage { key: self.key, path, description: self.description, bytes: self.bytes, made, used }
    }
}

/// Seconds since 1970; 0 for a time before.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The source of a name, with what is needed to ask whether the name still means the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "origin", rename_all = "kebab-case")]
pub enum Origin {
    /// A registry.
    Registry {
        /// The digest of the manifest or index when it was last asked for.
        manifest: Digest,
    },
    /// A URL.
    Url {
        /// `ETag`, as it came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        etag: Option<String>,
        /// `Last-Modified`, as it came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_modified: Option<String>,
    },
    /// A file or folder of this machine.
    File {
        /// The key of its path and of its stamp when it was read.
        stamp: Key,
    },
    /// Made or imported here: there is no source to ask or to have it from again, so it is only removed by name.
    Local,
}
