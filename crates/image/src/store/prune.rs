//! Keeping the store within its size, and clean of what killed processes left.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, SystemTime};

use vmette_cache::{FileLock, Key, StagedFile};

use super::error::Result;
use super::hold::{is_held, lock_unheld};
use super::names::NameRecord;
use super::record::Record;
use super::{
    IMAGE_SUFFIX, LOCK_SUFFIX, Origin, RECORD_SUFFIX, STAGING_INFIX, Store, StoredImage, document,
    file_names, remove_if_there, staging_of,
};

/// An image that was asked for this recently is kept: its session may be about to hold it. Layers likewise, whose
/// conversion may be about to begin.
const GRACE: Duration = Duration::from_secs(60);

/// Rules of a pruning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneRules {
    /// Bytes that images and layers may take afterwards.
    pub max_bytes: u64,
    /// An image that stays.
    pub keep: Option<Key>,
    /// Also what was used within the last minute.
    pub recent_too: bool,
}

/// Result of removing an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Gone,
    /// Somebody uses it.
    Held,
    /// Somebody has its key's lock.
    BeingMade,
}

/// Result of a pruning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images removed, by their identity.
    pub images: Vec<String>,
    /// Layers removed.
    pub layers: usize,
    /// Bytes that this freed.
    pub bytes: u64,
    /// Bytes that images and layers take now.
    pub left: u64,
}

impl Pruned {
    fn freed(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.left = self.left.saturating_sub(bytes);
    }
}

impl Store {
    /// Removes layers, then images, the longest unused first, until the store takes at most `max_bytes`. Keeps images that
    /// are held, images that cannot be had again under one of their names, and, unless told otherwise, everything that was
    /// used within the last minute. Also removes leftovers of killed processes.
    ///
    /// # Errors
    /// [`StoreError::Cache`](super::StoreError::Cache) when the directory cannot be listed or locked.
    pub fn prune(&self, rules: &PruneRules) -> Result<Pruned> {
        self.sweep()?;
        let mut images = self.list()?;
        images.sort_by_key(|image| image.used);
        let cache = self.layers();
        let mut layers = cache.list()?;
        layers.sort_by_key(|layer| layer.used);
        let left = images.iter().map(|image| image.bytes).chain(layers.iter().map(|layer| layer.bytes)).sum();
        let mut pruned = Pruned { left, ..Pruned::default() };
        let now = SystemTime::now();
        // A time in the future says nothing about use; such a one is as old as any.
        let is_recent =
            |used| !rules.recent_too && now.duration_since(used).is_ok_and(|age: Duration| age < GRACE);
        for layer in layers {
            if pruned.left <= rules.max_bytes {
                return Ok(pruned);
            }
            if !is_recent(layer.used) && cache.remove_unused(&layer)? {
                pruned.layers += 1;
                pruned.freed(layer.bytes);
            }
        }
        for image in images {
            if pruned.left <= rules.max_bytes {
                break;
            }
            if rules.keep == Some(image.key) || is_recent(image.used) {
                continue;
            }
            if self.remove_replaceable(&image)? {
                pruned.images.push(image.id());
                pruned.freed(image.bytes);
            }
        }
        Ok(pruned)
    }

    /// Removes an image and its names unless one of them is [`Origin::Local`], or somebody holds or makes it. Names
    /// are locked meanwhile, so that none comes to stand for what goes.
    fn remove_replaceable(&self, image: &StoredImage) -> Result<bool> {
        let _names_lock = self.lock_names()?;
        let names = self.names_of(&image.key)?;
        let local = names.iter().any(|name| name.origin == Origin::Local);
        if local || self.remove_image(image, false)? != Removal::Gone {
            return Ok(false);
        }
        self.forget(&names)?;
        Ok(true)
    }

    /// Removes an image, unless somebody makes it or, without `held_too`, holds it.
    pub(crate) fn remove_image(&self, image: &StoredImage, held_too: bool) -> Result<Removal> {
        let Some(_lock) = FileLock::try_acquire(&self.lock_path(&image.key))? else {
            return Ok(Removal::BeingMade);
        };
        let failed = |e| vmette_cache::Error::io("an image cannot be removed", &self.dir)(e);
        let file = match document::open(&image.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Removal::Gone),
            opened => opened.map_err(failed)?,
        };
        // Locked until its name is gone: whoever wants to hold it finds it so.
        if !held_too && !lock_unheld(&file, &image.path) {
            return Ok(Removal::Held);
        }
        // The record first: without it nothing is taken for ready.
        remove_if_there(&Record::path(&self.dir, &image.key)).map_err(failed)?;
        #[cfg(test)]
        super::crash::point("record removed");
        remove_if_there(&image.path).map_err(failed)?;
        Ok(Removal::Gone)
    }

    /// Removes files that no living process works on: staging and lock files, images without a record and records without an
    /// image, names that stand for nothing. A file that cannot be removed now is tried again next time.
    fn sweep(&self) -> Result<()> {
        let files = self.file_names()?;
        let present: HashSet<&str> = files.iter().map(String::as_str).collect();
        for name in &files {
            let Some((key, rest)) = name.split_once('.') else { continue };
            let Ok(key) = key.parse::<Key>() else { continue };
            let half = |other: &str| !present.contains(format!("{key}.{other}").as_str());
            let stale = match rest {
                LOCK_SUFFIX => true,
                IMAGE_SUFFIX => half(RECORD_SUFFIX),
                RECORD_SUFFIX => half(IMAGE_SUFFIX),
                _ => staging_of(name).is_some(),
            };
            if stale {
                self.sweep_file(&key, name, rest)?;
            }
        }
        self.sweep_names()
    }

    /// Under the key's lock nobody writes any of it, so what was seen can be looked at again and believed. Letting the
    /// lock go removes its own file.
    fn sweep_file(&self, key: &Key, name: &str, rest: &str) -> Result<()> {
        let Some(_lock) = FileLock::try_acquire(&self.lock_path(key))? else { return Ok(()) };
        let path = self.dir.join(name);
        let goes = match rest {
            LOCK_SUFFIX => false,
            IMAGE_SUFFIX => !Record::path(&self.dir, key).exists() && !is_held(&path),
            RECORD_SUFFIX => !self.image_path(key).exists(),
            _ => true,
        };
        if goes {
            let _ = remove_if_there(&path);
        }
        Ok(())
    }

    /// A name whose image is gone, unless that is being made just now.
    fn sweep_names(&self) -> Result<()> {
        let dir = self.names_dir();
        if !dir.exists() {
            return Ok(());
        }
        let _names_lock = self.lock_names()?;
        let is_staging =
            |name: &&String| StagedFile::target_of(name).is_some() || name.contains(STAGING_INFIX);
        for name in file_names(&dir)?.iter().filter(is_staging) {
            let _ = remove_if_there(&dir.join(name));
        }
        let mut dangling: HashMap<Key, Vec<NameRecord>> = HashMap::new();
        for name in self.all_names()? {
            if !Record::path(&self.dir, &name.key).exists() {
                dangling.entry(name.key).or_default().push(name);
            }
        }
        for (key, names) in dangling {
            let Some(_lock) = FileLock::try_acquire(&self.lock_path(&key))? else { continue };
            if !Record::path(&self.dir, &key).exists() {
                self.forget(&names)?;
            }
        }
        Ok(())
    }
}
