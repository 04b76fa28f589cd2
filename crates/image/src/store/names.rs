//! Names of images.
//!
//! A name's file is called by the name's hash: names that were merely cleaned of odd characters would collide, and one
//! name would be served another's image.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use vmette_cache::{Digest, FileLock, Key, private_folder};

use super::error::Result;
use super::{
    LOCK_WAIT_MAX, Origin, RECORD_SUFFIX, Store, document, file_names, key_of, remove_if_there, seconds,
};

/// Directory below the images'.
const NAMES_DIR: &str = "names";
/// The lock under which names change: a name's change depends on what it was.
const LOCK: &str = "names.lock";
/// Counts up when a name's file changes its meaning; one of another version is as good as none.
const VERSION: u32 = 1;

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRecord {
    /// In its canonical form.
    pub name: String,
    /// The image.
    pub key: Key,
    /// The source.
    pub origin: Origin,
    /// The last time its source was asked.
    pub checked: SystemTime,
}

/// The record as it is written.
#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    name: String,
    key: Key,
    from: Origin,
    /// Seconds since 1970.
    checked: u64,
}

impl NameRecord {
    fn from_disk(on_disk: OnDisk) -> Option<Self> {
        let OnDisk { version, name, key, from, checked } = on_disk;
        // A time that no clock has: it was checked, but nobody knows when.
        let checked = UNIX_EPOCH.checked_add(Duration::from_secs(checked)).unwrap_or(UNIX_EPOCH);
        (version == VERSION).then_some(Self { name, key, origin: from, checked })
    }
}

fn stem(name: &str) -> String {
    Digest::of(name.as_bytes()).hex()
}

impl Store {
    /// The image that the name stands for. `None` also if its file is damaged or of another version: its source is asked
    /// again.
    ///
    /// # Errors
    /// [`StoreError::Cache`](super::StoreError::Cache) when the directory of names is not the user's own.
    pub fn name(&self, name: &str) -> Result<Option<NameRecord>> {
        let dir = self.names_dir();
        if !dir.exists() {
            return Ok(None);
        }
        private_folder(&dir)?;
        let path = dir.join(format!("{}.{RECORD_SUFFIX}", stem(name)));
        let found = document::read::<OnDisk>(&path).and_then(|(on_disk, _)| NameRecord::from_disk(on_disk));
        Ok(found.filter(|found| found.name == name))
    }

    /// Lets the name stand for the image, checked now.
    ///
    /// # Errors
    /// [`StoreError::Cache`](super::StoreError::Cache).
    pub fn set_name(&self, name: &str, key: &Key, origin: &Origin) -> Result<()> {
        let _lock = self.lock_names()?;
        self.write_name(name, key, origin)
    }

    /// Notes that the name's source was asked just now, and still means the same. Does nothing if there is no such name.
    ///
    /// # Errors
    /// [`StoreError::Cache`](super::StoreError::Cache).
    pub fn touch_name(&self, name: &str) -> Result<()> {
        let _lock = self.lock_names()?;
        match self.name(name)? {
            Some(found) => self.write_name(name, &found.key, &found.origin),
            None => Ok(()),
        }
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// [`StoreError::Cache`](super::StoreError::Cache) when the directory cannot be listed.
    pub fn all_names(&self) -> Result<Vec<NameRecord>> {
        let dir = self.names_dir();
        let suffix = format!(".{RECORD_SUFFIX}");
        let mut names: Vec<_> = file_names(&dir)?
            .into_iter()
            .filter_map(|file| {
                let stem_on_disk = file.strip_suffix(&suffix)?;
                let (on_disk, _) = document::read::<OnDisk>(&dir.join(&file))?;
                NameRecord::from_disk(on_disk).filter(|found| stem(&found.name) == stem_on_disk)
            })
            .collect();
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    /// The names that stand for the image, sorted.
    ///
    /// # Errors
    /// [`StoreError::Cache`](super::StoreError::Cache) when the directory cannot be listed.
    pub fn names_of(&self, key: &Key) -> Result<Vec<NameRecord>> {
        Ok(self.all_names()?.into_iter().filter(|name| name.key == *key).collect())
    }

    /// Forgets the name. Returns whether it was there.
    ///
    /// # Errors
    /// [`StoreError::Cache`](super::StoreError::Cache).
    pub fn remove_name(&self, name: &str) -> Result<bool> {
        let _lock = self.lock_names()?;
        let known = self.name(name)?.is_some();
        self.remove_name_file(&format!("{}.{RECORD_SUFFIX}", stem(name)))?;
        Ok(known)
    }

    pub(super) fn names_dir(&self) -> PathBuf {
        self.dir.join(NAMES_DIR)
    }

    /// Held while the source of a name is asked, so that eight processes that want the same fetch it once.
    pub(crate) fn lock_source(&self, name: &str) -> Result<FileLock> {
        let key = key_of([b"source of a name".as_slice(), name.as_bytes()]);
        self.lock(&key, "waiting for another process that is fetching the same image")
    }

    /// Held for moments only, unless its holder was stopped. Its file lies outside of the folder, which thereby holds names
    /// and nothing else.
    pub(crate) fn lock_names(&self) -> Result<FileLock> {
        let waiting = "waiting for another process that is changing the names of images";
        Ok(FileLock::acquire(&self.dir.join(LOCK), LOCK_WAIT_MAX, &self.work, waiting)?)
    }

    /// Under the names' lock.
    fn write_name(&self, name: &str, key: &Key, origin: &Origin) -> Result<()> {
        let dir = self.names_dir();
        private_folder(&dir)?;
        let on_disk = OnDisk {
            version: VERSION,
            name: name.to_owned(),
            key: *key,
            from: origin.clone(),
            checked: seconds(SystemTime::now()),
        };
        Ok(document::write(&dir, &stem(name), &on_disk)
            .map_err(vmette_cache::Error::io("a name cannot be written", &dir))?)
    }

    /// Under the names' lock.
    pub(super) fn remove_name_file(&self, file: &str) -> Result<()> {
        let dir = self.names_dir();
        Ok(remove_if_there(&dir.join(file))
            .map_err(vmette_cache::Error::io("a name cannot be removed", &dir))?)
    }

    /// Under the names' lock.
    pub(crate) fn forget(&self, names: &[NameRecord]) -> Result<()> {
        names
            .iter()
            .try_for_each(|name| self.remove_name_file(&format!("{}.{RECORD_SUFFIX}", stem(&name.name))))
    }
}
