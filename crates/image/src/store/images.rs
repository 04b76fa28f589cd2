//! The store: each image made once, and found again.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use vmette_cache::{Digest, FileLock, Key, Stamp, private_folder, sync_folder};
use vmette_work::Work;

use super::budget::Budget;
use super::document::{self, remove_if_there};
use super::error::{Result, StoreError};
use super::files::{
    IMAGE_SUFFIX, IMAGES_DIR, LOCK_SUFFIX, LOCK_WAIT_MAX, STAGING_INFIX, Staging, file_names, staging_of,
};
use super::layers::LayerCache;
use super::record::{Description, Made, Origin, Record, StoredImage};
use super::rules::PruneRules;
use crate::superblock::Superblock;

/// The store below one cache root. Cheap to open; any number of threads and processes may share the directory.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) root: PathBuf,
    pub(super) dir: PathBuf,
    /// Ends waits for other processes, and hears of them.
    pub(super) work: Work,
    /// The caller's budget in bytes, which the environment's does not change.
    pub(super) budget: Option<u64>,
}

impl Store {
    /// Makes the directory if need be, and refuses one that others can write to.
    ///
    /// # Errors
    /// [`StoreError::Cache`].
    pub fn open(cache_root: &Path) -> Result<Self> {
        private_folder(cache_root)?;
        let dir = cache_root.join(IMAGES_DIR);
        private_folder(&dir)?;
        Ok(Self { root: cache_root.to_owned(), dir, work: Work::quiet(), budget: None })
    }

    /// The same store for this work, which ends its waits and hears of them.
    #[must_use]
    pub fn within(self, work: &Work) -> Self {
        Self { work: work.clone(), ..self }
    }

    /// The same store with a budget: bytes of images and layers above which a new image is followed by pruning; 0 means
    /// never. `None` leaves it to the environment.
    #[must_use]
    pub fn with_budget(self, budget: Option<u64>) -> Self {
        Self { budget, ..self }
    }

    /// The work that the store is used for.
    pub(crate) fn work(&self) -> &Work {
        &self.work
    }

    /// The directory of the images.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cache that it is part of.
    #[must_use]
    pub fn cache_root(&self) -> &Path {
        &self.root
    }

    /// The downloaded layers.
    pub(crate) fn layers(&self) -> LayerCache {
        LayerCache::new(&self.root)
    }

    /// The key's image, if it is there and whole. Counts as use. Works on a read-only file system as well.
    ///
    /// An image whose file is not the one that was recorded (a cache that was copied, a file that was changed) is read
    /// and hashed; one that differs does not count.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<StoredImage> {
        let (mut record, file) = Record::read(&self.dir, key)?;
        let path = self.image_path(key);
        let found = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let stamp = Stamp::of(&found);
        if stamp != record.stamp {
            self.is_unchanged(&path, &record, stamp)?;
            record.stamp = stamp;
            self.record_stamp(key, &record);
        }
        // A store on a read-only file system still serves; its order of use does not matter there.
        let _ = file.set_modified(SystemTime::now());
        Some(record.into_image(path, file.metadata().ok()))
    }

    /// The key's image. When it is missing or damaged, `build` writes it to the path it is given, which does not exist
    /// yet, and says what it is. One caller at a time builds a key; the others wait, and find it. A new image is
    /// followed by pruning to the budget.
    ///
    /// # Errors
    /// Those of `build`; [`StoreError`].
    pub fn obtain<E: From<StoreError>>(
        &self,
        key: &Key,
        build: impl FnOnce(&Path) -> std::result::Result<Description, E>,
    ) -> std::result::Result<StoredImage, E> {
        if let Some(found) = self.find(key) {
            return Ok(found);
        }
        let budget = Budget::of(self.budget)?;
        let image = {
            let _lock = self.lock(key, "waiting for another process that is making the same image")?;
            if let Some(found) = self.find(key) {
                return Ok(found);
            }
            self.discard(key)?;
            let staging = Staging(self.staging_path(key)?);
            let description = build(&staging.0)?;
            for note in &description.notes {
                self.work.warn(&format!("image {}: {note}", description.source));
            }
            #[cfg(test)]
            super::crash::point("built");
            self.publish(key, &staging.0, description)?
        };
        self.enforce(budget, key);
        Ok(image)
    }

    /// Like [`obtain`](Self::obtain), of a file that `spec` names: the image is listed under that, and an earlier one of
    /// the same file no longer is.
    pub(crate) fn obtain_of_file<E: From<StoreError>>(
        &self,
        spec: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> std::result::Result<Description, E>,
    ) -> std::result::Result<StoredImage, E> {
        let image = self.obtain(key, build)?;
        if self.name(spec)?.is_none_or(|name| name.key != *key) {
            // A list is all that depends on it, and a cache on a read-only file system serves.
            let _ = self.set_name(spec, key, &Origin::File { stamp: *key });
        }
        Ok(image)
    }

    /// Prunes after the image was made, which is there and can be used whatever becomes of the others.
    fn enforce(&self, budget: Budget, made: &Key) {
        let Some(max_bytes) = budget.0 else { return };
        if let Err(e) = self.prune(&PruneRules { max_bytes, keep: Some(*made), recent_too: false }) {
            self.work.warn(&format!("the cache could not be pruned: {e}"));
        }
    }

    /// Bytes that images and layers may take; `None` for any number.
    pub(crate) fn budget(&self) -> Result<Option<u64>> {
        Ok(Budget::of(self.budget)?.0)
    }

    /// Waits for the key's lock; `waiting` is what the caller hears meanwhile.
    pub(super) fn lock(&self, key: &Key, waiting: &str) -> Result<FileLock> {
        Ok(FileLock::acquire(&self.lock_path(key), LOCK_WAIT_MAX, &self.work, waiting)?)
    }

    pub(super) fn image_path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{key}.{IMAGE_SUFFIX}"))
    }

    pub(super) fn lock_path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{key}.{LOCK_SUFFIX}"))
    }

    /// `None` if the file's content is not the recorded one.
    fn is_unchanged(&self, path: &Path, record: &Record, stamp: Stamp) -> Option<()> {
        let file = document::open(path).ok()?;
        let same = |file: &File| file.metadata().is_ok_and(|metadata| Stamp::of(&metadata) == stamp);
        let whole = file.metadata().is_ok_and(|metadata| metadata.len() == record.bytes)
            && vmette_cache::hash(&file, || Ok(())).is_ok_and(|digest| digest == record.sha256);
        (whole && same(&file)).then_some(())
    }

    /// Saves the next caller the reading. Only when nobody else is about to change the record; what fails costs time.
    fn record_stamp(&self, key: &Key, record: &Record) {
        if let Ok(Some(_lock)) = FileLock::try_acquire(&self.lock_path(key))
            && Record::read(&self.dir, key).is_some_and(|(current, _)| current.sha256 == record.sha256)
        {
            let _ = record.write(&self.dir);
        }
    }

    /// A name that no other process, in whatever PID namespace, can be writing to.
    fn staging_path(&self, key: &Key) -> Result<PathBuf> {
        let reserved = tempfile::Builder::new()
            .prefix(&format!("{key}{STAGING_INFIX}"))
            .tempfile_in(&self.dir)
            .map_err(vmette_cache::Error::io("a file cannot be created in it", &self.dir))?;
        Ok(reserved.path().to_owned())
    }

    fn publish(&self, key: &Key, staging: &Path, description: Description) -> Result<StoredImage> {
        let failed = |what| vmette_cache::Error::io(what, &self.dir);
        let file = document::open(staging).map_err(failed("the new image cannot be opened"))?;
        Superblock::read(&file).map_err(|source| StoreError::Damaged { path: staging.to_owned(), source })?;
        file.set_permissions(Permissions::from_mode(0o444))
            .map_err(failed("the new image cannot be protected"))?;
        // Hashing takes the processor, syncing the disk.
        let (synced, hashed) = thread::scope(|scope| {
            let syncing = scope.spawn(|| file.sync_all());
            let hashed = vmette_cache::hash(&file, || Ok(self.work.check()?));
            (syncing.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended"))), hashed)
        });
        self.work.check()?;
        synced.map_err(failed("the new image cannot be written out"))?;
        let sha256 = hashed.map_err(failed("the new image cannot be read"))?;
        #[cfg(test)]
        super::crash::point("synced");
        let path = self.image_path(key);
        fs::rename(staging, &path).map_err(failed("the new image cannot be renamed"))?;
        #[cfg(test)]
        super::crash::point("renamed");
        let recorded = self.record(key, &file, sha256, description);
        recorded.map(|record| record.into_image(path.clone(), None)).map_err(|e| {
            // Without its record it is of no use to anybody.
            let _ = fs::remove_file(&path);
            failed("the new image cannot be recorded")(e).into()
        })
    }

    /// Renaming changed the file's change time, so it is looked at only now.
    fn record(&self, key: &Key, file: &File, sha256: Digest, description: Description) -> io::Result<Record> {
        let metadata = file.metadata()?;
        let stamp = Stamp::of(&metadata);
        let record = Record::new(key, Made { description, bytes: metadata.len(), sha256, stamp });
        sync_folder(&self.dir)?;
        record.write(&self.dir)?;
        Ok(record)
    }

    /// Removes what there is of a key that is about to be made. The caller holds the key's lock, so nobody else writes
    /// any of it. The record goes first: without it nothing is taken for ready.
    fn discard(&self, key: &Key) -> Result<()> {
        let (record, image) = (Record::path(&self.dir, key), self.image_path(key));
        if record.exists() && image.exists() {
            self.work.warn(&format!(
                "the cached image {} is damaged or of another version; it is made again",
                image.display()
            ));
        }
        let stale = self.file_names()?.into_iter().filter(|name| staging_of(name) == Some(*key));
        [record, image].into_iter().chain(stale.map(|name| self.dir.join(name))).try_for_each(|path| {
            Ok(remove_if_there(&path)
                .map_err(vmette_cache::Error::io("a stale file cannot be removed from it", &self.dir))?)
        })
    }

    /// The names in the directory that can be the store's.
    pub(super) fn file_names(&self) -> Result<Vec<String>> {
        file_names(&self.dir)
    }
}
