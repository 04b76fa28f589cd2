//! Converted images, each made once, whoever asks and however many ask at once.
//!
//! `<cache>/images/<key>.sqfs` is complete whenever it is there: it is written under another name, synced, checked and
//! renamed, all under the key's lock. A name's presence is therefore enough, and a killed conversion leaves nothing but
//! a staging file, which the next holder of the key's lock removes.

mod hold;
mod key;
mod lock;
mod private;
mod prune;
mod record;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{ProviderError, Result};
use crate::superblock::Superblock;

pub use hold::InUse;
pub use key::Key;
pub(crate) use private::private_dir;
pub use prune::Pruned;
pub use record::{Description, ImageKind, LayerInfo, Origin, StoredImage};

use lock::KeyLock;

/// Directory below the cache's root.
const IMAGES_DIR: &str = "images";
const IMAGE_SUFFIX: &str = "sqfs";
const LOCK_SUFFIX: &str = "lock";
/// Between key and random part of a staging file's name.
const STAGING_INFIX: &str = ".staging.";

/// The store below one cache root. Cheap to open; any number of threads and processes may share the directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// A staging file's path; the file is gone when this is, unless it was published.
struct Staging(PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        // Published or never written: not there, and that is fine.
        let _ = fs::remove_file(&self.0);
    }
}

impl Store {
    /// Makes the directory if need be, and refuses one that others can write to.
    ///
    /// # Errors
    /// [`ProviderError::Cache`].
    pub fn open(cache_root: &Path) -> Result<Self> {
        private_dir(cache_root)?;
        let dir = cache_root.join(IMAGES_DIR);
        private_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Where the images are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The key's image. When it is missing or damaged `build` writes it to the path it is given, which does not exist
    /// yet. One caller at a time builds a key; the others wait, and find it.
    ///
    /// # Errors
    /// What `build` says; [`ProviderError::Cache`] when the directory is at fault.
    pub fn obtain(
        &self,
        key: &Key,
        report: &dyn Fn(&str),
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let image = self.dir.join(format!("{key}.{IMAGE_SUFFIX}"));
        if self.is_usable(&image) {
            return Ok(image);
        }
        let _lock = KeyLock::acquire(&self.dir.join(format!("{key}.{LOCK_SUFFIX}")), report)?;
        if self.is_usable(&image) {
            return Ok(image);
        }
        self.sweep_key(key)?;
        let staging = Staging(self.staging_path(key)?);
        build(&staging.0)?;
        self.publish(&staging.0, &image)?;
        Ok(image)
    }

    /// Present and whole by its superblock. A hit counts as use.
    fn is_usable(&self, image: &Path) -> bool {
        let Ok(file) = File::open(image) else { return false };
        if Superblock::read(&file).is_err() {
            return false;
        }
        // A store on a read-only file system still serves; its order of use does not matter there.
        let _ = file.set_modified(SystemTime::now());
        true
    }

    /// A name that no other process, in whatever PID namespace, can be writing to.
    fn staging_path(&self, key: &Key) -> Result<PathBuf> {
        let reserved = tempfile::Builder::new()
            .prefix(&format!("{key}{STAGING_INFIX}"))
            .tempfile_in(&self.dir)
            .map_err(ProviderError::cache(&self.dir, "a file cannot be created"))?;
        Ok(reserved.path().to_owned())
    }

    fn publish(&self, staging: &Path, image: &Path) -> Result<()> {
        let failed = |what| ProviderError::cache(&self.dir, what);
        let file = File::open(staging).map_err(failed("the new image cannot be opened"))?;
        Superblock::read(&file).map_err(|e| {
            ProviderError::Other(format!("the image that was just made {e}: {}", staging.display()))
        })?;
        file.set_permissions(Permissions::from_mode(0o444))
            .map_err(failed("the new image cannot be protected"))?;
        file.sync_all().map_err(failed("the new image cannot be written out"))?;
        fs::rename(staging, image).map_err(failed("the new image cannot be renamed"))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("the directory cannot be written out"))
    }

    /// Removes what a killed conversion of this key left. The caller holds the key's lock, so nobody writes them.
    fn sweep_key(&self, key: &Key) -> Result<()> {
        let prefix = format!("{key}{STAGING_INFIX}");
        for name in self.names()? {
            if name.starts_with(&prefix) {
                remove_if_there(&self.dir.join(name))
                    .map_err(ProviderError::cache(&self.dir, "a stale file cannot be removed"))?;
            }
        }
        Ok(())
    }

    /// The names in the directory that can be the store's.
    fn names(&self) -> Result<Vec<String>> {
        let failed = |e| ProviderError::cache(&self.dir, "it cannot be listed")(e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

/// Another process may have been faster.
fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
