//! A snapshot that was found, and what it says of itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use vmette_image::ImageConfig;

use super::Digests;
use super::manifest::{MACHINE, Manifest, SCRATCH, own};
use crate::error::{Error, RestoreError};
use crate::report::RootfsKind;

/// A snapshot of a session, as [`Session::snapshot`](crate::Session::snapshot) or
/// [`SnapshotOptions::build`](crate::SnapshotOptions::build) made it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) folder: PathBuf,
    pub(super) manifest: Manifest,
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The vmette that made it.
    pub vmette: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The guest's architecture: `x86_64`, `aarch64`.
    pub arch: String,
    /// Name and version of the engine.
    pub engine: String,
    /// What executed the guest's instructions: `kvm`, `tcg`.
    pub accelerator: String,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub mem_mib: u64,
    /// What sort of root it has.
    pub rootfs_kind: RootfsKind,
    /// What its root was called by whoever made it.
    pub rootfs: String,
    /// The first digits of the digest of the root's image.
    pub rootfs_digest: String,
    /// Size of its scratch disk in MiB.
    pub scratch_mib: Option<u64>,
    /// Whether the root takes no writes.
    pub read_only: bool,
    /// Names of the folders that were shared when it was made; they are no part of it.
    pub shares: Vec<String>,
    /// Bytes that can be read from its files; they take less room where they are sparse.
    pub bytes: u64,
}

/// Digits of a digest that are shown.
const DIGITS: usize = 12;

impl Snapshot {
    /// Finds the snapshot in a folder and reads what it says. Its files are not read yet.
    ///
    /// # Errors
    /// [`Error::RestoreFailed`]: there is none, it was never finished, it is of another format, or others may write to
    /// it.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let failed = |reason: String| damaged(folder, reason);
        let folder = std::path::absolute(folder).map_err(|e| failed(e.to_string()))?;
        let manifest = Manifest::read(&folder).map_err(failed)?;
        Ok(Self { folder, manifest })
    }

    /// What it says of itself.
    #[must_use]
    pub fn info(&self) -> SnapshotInfo {
        let Manifest { engine, machine, rootfs, root, .. } = &self.manifest;
        SnapshotInfo {
            vmette: self.manifest.vmette.clone(),
            made: self.manifest.made,
            arch: self.manifest.arch.clone(),
            engine: engine.name.clone(),
            accelerator: engine.accelerator.clone(),
            vcpus: machine.vcpus,
            mem_mib: machine.memory_mib,
            rootfs_kind: rootfs.kind,
            rootfs: rootfs.name.clone(),
            rootfs_digest: rootfs.content.digest.chars().take(DIGITS).collect(),
            scratch_mib: self.manifest.scratch_mib,
            read_only: root.is_read_only(),
            shares: root.shares.iter().map(|share| share.tag.clone()).collect(),
            bytes: self.manifest.files.values().fold(0, |sum, content| sum.saturating_add(content.size)),
        }
    }

    /// How the image of its root wants to be run.
    #[must_use]
    pub fn image(&self) -> &ImageConfig {
        &self.manifest.image
    }

    /// When it was made.
    #[must_use]
    pub fn made(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.manifest.made)
    }

    /// Reads all of its files and compares them with what was written, also if that was done before.
    ///
    /// # Errors
    /// [`Error::RestoreFailed`] names the first file that is damaged.
    pub fn verify(&self) -> Result<(), Error> {
        self.check_files(|path| {
            std::fs::File::open(path)
                .and_then(|file| super::content::digest_of(&file, &vmette_work::Cancel::new()))
        })
    }

    /// As [`Snapshot::verify`], but files that were found whole and have not changed since are not read again.
    pub(crate) fn verify_changed(&self, digests: &Digests) -> Result<(), Error> {
        self.check_files(|path| digests.of(path))
    }

    fn check_files(&self, digest: impl Fn(&Path) -> std::io::Result<String>) -> Result<(), Error> {
        self.check_names()?;
        for (name, content) in &self.manifest.files {
            let path = self.folder.join(name);
            let failed = |e: std::io::Error| self.damaged(format!("{name}: {e}"));
            let meta = std::fs::symlink_metadata(&path).map_err(failed)?;
            own(&meta, name).map_err(|reason| self.damaged(reason))?;
            let size = meta.len();
            if !meta.is_file() || size != content.size {
                return Err(self
                    .damaged(format!("it is damaged: {name} has {size} bytes instead of {}", content.size)));
            }
            if digest(&path).map_err(failed)? != content.digest {
                return Err(self.damaged(format!("it is damaged: {name} is not what was saved")));
            }
        }
        Ok(())
    }

    /// What the engine and the guest will read is what the manifest knows of, and neither more nor elsewhere.
    fn check_names(&self) -> Result<(), Error> {
        let damaged = |what: String| self.damaged(format!("it is damaged: {what}"));
        let machine = self.folder.join(MACHINE);
        let failed = |e: std::io::Error| self.damaged(format!("{MACHINE}: {e}"));
        let meta = std::fs::symlink_metadata(&machine).map_err(failed)?;
        if !meta.is_dir() {
            return Err(damaged(format!("{MACHINE} is no folder")));
        }
        own(&meta, MACHINE).map_err(|reason| self.damaged(reason))?;
        let known = &self.manifest.files;
        for entry in std::fs::read_dir(&machine).map_err(failed)? {
            let name = format!("{MACHINE}/{}", entry.map_err(failed)?.file_name().to_string_lossy());
            if !known.contains_key(&name) {
                return Err(damaged(format!("{name} is no part of it")));
            }
        }
        if !known.keys().any(|name| Path::new(name).parent() == Some(Path::new(MACHINE))) {
            return Err(damaged("its manifest knows of no machine".into()));
        }
        if known.contains_key(SCRATCH) != self.manifest.scratch_mib.is_some() {
            return Err(damaged("its manifest contradicts itself about the scratch disk".into()));
        }
        Ok(())
    }

    /// Why it cannot be used.
    pub(crate) fn refused(&self, reason: &str) -> Error {
        RestoreError::Refused { folder: self.folder.clone(), reason: reason.to_owned() }.into()
    }

    /// What is wrong with its files.
    pub(crate) fn damaged(&self, reason: String) -> Error {
        damaged(&self.folder, reason)
    }
}

fn damaged(folder: &Path, reason: String) -> Error {
    RestoreError::Damaged { folder: folder.to_owned(), reason }.into()
}
