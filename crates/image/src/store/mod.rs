//! Converted images, each made once, however many processes ask for it at once.
//!
//! `<cache>/images/<key>.sqfs` is an image, `<key>.json` its record. Both are written under other names, synced and
//! renamed, under the key's lock and the record last: an image is ready when its record is there and its file is the
//! one that the record describes. Leftovers of a killed process are thereby either ready or swept by the next holder of
//! the lock. Names of images lie in `images/names`, downloaded layers in `layers`.

mod budget;
#[cfg(test)]
mod crash;
mod document;
mod error;
mod hold;
mod key;
mod layers;
mod list;
mod names;
mod prune;
mod record;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use vmette_cache::{Digest, FileLock, Key, StagedFile, Stamp, private_folder, sync_folder};
use vmette_work::Work;

use crate::superblock::Superblock;

#[cfg(test)]
pub(crate) use crash::VARIABLE as CRASH_VARIABLE;
pub use error::StoreError;
pub use hold::StoreHold;
pub(crate) use key::key_of;
pub(crate) use key::key_of_file;
pub(crate) use layers::LayerCache;
pub use names::NameRecord;
pub(crate) use prune::Removal;
pub use prune::{PruneRules, Pruned};
pub(crate) use record::seconds;
pub use record::{Description, ImageKind, LayerInfo, Origin, StoredImage};

use budget::Budget;
use document::remove_if_there;
use error::Result;
use record::{Made, Record};

/// Directory below the cache's root.
const IMAGES_DIR: &str = "images";
const IMAGE_SUFFIX: &str = "sqfs";
const RECORD_SUFFIX: &str = "json";
const LOCK_SUFFIX: &str = "lock";
/// Longest wait for another process: it may be downloading gigabytes over a slow line. A process that died has lost its
/// lock, so only one that hangs or was stopped makes anybody wait this long.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(60 * 60);
/// Between key and random part of a staging image's name.
const STAGING_INFIX: &str = ".staging.";

/// The store below one cache root. Cheap to open; any number of threads and processes may share the directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    dir: PathBuf,
    /// Ends waits for other processes, and hears of them.
    work: Work,
    /// The caller's budget in bytes, which the environment's does not change.
    budget: Option<u64>,
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
            #[cfg(test)]
            crash::point("built");
            self.publish(key, &staging.0, description)?
        };
        budget.enforce(self, key);
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

    /// Bytes that images and layers may take; `None` for any number.
    pub(crate) fn budget(&self) -> Result<Option<u64>> {
        Ok(Budget::of(self.budget)?.0)
    }

    /// Waits for the key's lock; `waiting` is what the caller hears meanwhile.
    fn lock(&self, key: &Key, waiting: &str) -> Result<FileLock> {
        Ok(FileLock::acquire(&self.lock_path(key), LOCK_WAIT_MAX, &self.work, waiting)?)
    }

    fn image_path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{key}.{IMAGE_SUFFIX}"))
    }

    fn lock_path(&self, key: &Key) -> PathBuf {
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
        crash::point("synced");
        let path = self.image_path(key);
        fs::rename(staging, &path).map_err(failed("the new image cannot be renamed"))?;
        #[cfg(test)]
        crash::point("renamed");
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
    fn file_names(&self) -> Result<Vec<String>> {
        file_names(&self.dir)
    }
}

/// The key whose staging file has this name: an image's, or a record's.
fn staging_of(name: &str) -> Option<Key> {
    let image = name.split_once(STAGING_INFIX).map(|(key, _)| key);
    let record = StagedFile::target_of(name).and_then(|target| target.strip_suffix(".json"));
    image.or(record)?.parse().ok()
}

/// Sorted names of the files in a directory of the cache; none if it is not there.
fn file_names(dir: &Path) -> Result<Vec<String>> {
    let failed = |e| vmette_cache::Error::io("it cannot be listed", dir)(e);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
