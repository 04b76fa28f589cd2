//! Downloaded layers, kept compressed as they came, so that images that share some share their download.
//!
//! `<cache>/layers/sha256-<digits>` was verified when it got that name. `….partial` is the part that has come so far; the
//! next holder of the digest's lock resumes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;

use vmette_cache::{Digest, FileLock, private_folder, sync_folder};
use vmette_work::Work;

use super::document::{self, remove_if_there};
use super::error::Result;
use super::{LOCK_SUFFIX, LOCK_WAIT_MAX, file_names};

/// Directory below the cache's root.
const LAYERS_DIR: &str = "layers";
const PREFIX: &str = "sha256-";
const PARTIAL_SUFFIX: &str = "partial";

/// The layers below one cache root. Cheap to make; any number of threads and processes may share the directory.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache {
    root: PathBuf,
    dir: PathBuf,
}

/// One file, finished or not, that may be removed.
pub(super) struct CachedLayer {
    pub(super) digest: Digest,
    pub(super) path: PathBuf,
    pub(super) used: SystemTime,
    pub(super) bytes: u64,
}

impl LayerCache {
    pub(super) fn new(cache_root: &Path) -> Self {
        Self { root: cache_root.to_owned(), dir: cache_root.join(LAYERS_DIR) }
    }

    /// The directory of the layers.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until nobody else downloads this layer. Needed for everything but [`open`](Self::open).
    pub(crate) fn lock(&self, digest: &Digest, work: &Work) -> Result<FileLock> {
        private_folder(&self.root)?;
        private_folder(&self.dir)?;
        let waiting = format!("waiting for another process that is downloading layer {digest}");
        Ok(FileLock::acquire(&self.lock_path(digest), LOCK_WAIT_MAX, work, &waiting)?)
    }

    /// `None` while another thread or process downloads this layer.
    pub(crate) fn try_lock(&self, digest: &Digest) -> Result<Option<FileLock>> {
        Ok(FileLock::try_acquire(&self.lock_path(digest))?)
    }

    /// The finished layer, at its start. Counts as use, and keeps it from being pruned while the file is open. It was
    /// verified once; its reader checks the digest again, since disks forget.
    pub(crate) fn open(&self, digest: &Digest) -> Option<File> {
        let path = self.path(digest);
        let file = document::open(&path).ok()?;
        // Pruning locks exclusively, and only to delete: then it is as good as gone.
        file.try_lock_shared().ok()?;
        let named = fs::symlink_metadata(&path).ok()?;
        let ours = file.metadata().ok()?;
        if (named.dev(), named.ino()) != (ours.dev(), ours.ino()) {
            return None;
        }
        // A cache on a read-only file system serves as well.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// The part of the layer that has come so far, or an empty file, for reading and writing, at its start. Under its lock.
    pub(crate) fn partial(&self, digest: &Digest) -> Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(self.partial_path(digest));
        let file = file.and_then(|file| {
            if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
        });
        Ok(file.map_err(vmette_cache::Error::io("a layer cannot be written", &self.dir))?)
    }

    /// Gives the partial file, which the caller has completed and verified, its name. Under its lock.
    pub(crate) fn publish(&self, digest: &Digest, partial: &File) -> Result<()> {
        let failed = |what| vmette_cache::Error::io(what, &self.dir);
        partial.sync_all().map_err(failed("a layer cannot be written out"))?;
        #[cfg(test)]
        super::crash::point("layer synced");
        fs::rename(self.partial_path(digest), self.path(digest))
            .map_err(failed("a layer cannot be renamed"))?;
        Ok(sync_folder(&self.dir).map_err(failed("it cannot be written out"))?)
    }

    /// Forgets the layer, finished or not: it is not what its digest says. Under its lock.
    pub(crate) fn discard(&self, digest: &Digest) -> Result<()> {
        [self.path(digest), self.partial_path(digest)].iter().try_for_each(|path| {
            Ok(remove_if_there(path)
                .map_err(vmette_cache::Error::io("a layer cannot be removed", &self.dir))?)
        })
    }

    /// Files of layers, finished or not, and sweeps locks that nobody holds.
    pub(super) fn list(&self) -> Result<Vec<CachedLayer>> {
        let mut layers = Vec::new();
        for name in file_names(&self.dir)? {
            let path = self.dir.join(&name);
            let stem =
                name.strip_suffix(PARTIAL_SUFFIX).and_then(|rest| rest.strip_suffix('.')).unwrap_or(&name);
            if let Some(digest) = digest_of(stem) {
                // Gone between listing and now: another process prunes too.
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                layers.push(CachedLayer { digest, path, used, bytes: metadata.len() });
            } else if name.ends_with(LOCK_SUFFIX) {
                // Taken and let go: its file goes with it.
                drop(FileLock::try_acquire(&path)?);
            }
        }
        Ok(layers)
    }

    /// Removes the file unless somebody writes or reads it. Returns whether it is gone.
    pub(super) fn remove_unused(&self, layer: &CachedLayer) -> Result<bool> {
        let Some(_lock) = FileLock::try_acquire(&self.lock_path(&layer.digest))? else { return Ok(false) };
        Ok(document::open(&layer.path)
            .is_ok_and(|file| file.try_lock().is_ok() && fs::remove_file(&layer.path).is_ok()))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{PREFIX}{}", digest.hex()))
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.path(digest).with_extension(PARTIAL_SUFFIX)
    }

    fn lock_path(&self, digest: &Digest) -> PathBuf {
        self.path(digest).with_extension(LOCK_SUFFIX)
    }
}

fn digest_of(stem: &str) -> Option<Digest> {
    format!("sha256:{}", stem.strip_prefix(PREFIX)?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{PruneRules, Store};
    use std::io::{Read, Write};

    struct Place {
        root: tempfile::TempDir,
        store: Store,
    }

    fn place() -> Place {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("cache")).unwrap();
        Place { root, store }
    }

    impl Place {
        fn cache(&self) -> LayerCache {
            self.store.layers()
        }

        fn finish(&self, content: &[u8], seconds: u64) -> Digest {
            let (cache, digest) = (self.cache(), Digest::of(content));
            let _lock = cache.lock(&digest, &Work::quiet()).unwrap();
            let mut partial = cache.partial(&digest).unwrap();
            partial.write_all(content).unwrap();
            cache.publish(&digest, &partial).unwrap();
            partial.set_modified(SystemTime::now() - std::time::Duration::from_secs(seconds)).unwrap();
            digest
        }

        fn prune(&self, max_bytes: u64) -> usize {
            let rules = PruneRules { max_bytes, keep: None, recent_too: false };
            self.store.prune(&rules).unwrap().layers
        }
    }

    #[test]
    fn a_partial_is_gone_on_with_and_published() {
        let place = place();
        let (cache, digest) = (place.cache(), Digest::of(b"whole"));
        {
            let _lock = cache.lock(&digest, &Work::quiet()).unwrap();
            cache.partial(&digest).unwrap().write_all(b"who").unwrap();
        }
        assert!(cache.open(&digest).is_none());
        let _lock = cache.lock(&digest, &Work::quiet()).unwrap();
        let mut partial = cache.partial(&digest).unwrap();
        let mut so_far = Vec::new();
        partial.read_to_end(&mut so_far).unwrap();
        assert_eq!(so_far, b"who");
        partial.write_all(b"le").unwrap();
        cache.publish(&digest, &partial).unwrap();
        let mut content = String::new();
        cache.open(&digest).unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, "whole");
        cache.discard(&digest).unwrap();
        cache.discard(&digest).unwrap();
        assert!(cache.open(&digest).is_none());
    }

    #[test]
    fn pruning_takes_the_oldest_that_nobody_uses() {
        let place = place();
        let [read, locked, old, new] = [(&b"read"[..], 900), (b"lock", 800), (b"old!", 700), (b"new!", 100)]
            .map(|(content, seconds)| place.finish(content, seconds));
        let cache = place.cache();
        let reader = cache.open(&read).unwrap();
        reader.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let writer = cache.lock(&locked, &Work::quiet()).unwrap();
        assert_eq!(place.prune(12), 1);
        assert!(cache.open(&old).is_none());
        assert_eq!(place.prune(0), 1);
        drop((reader, writer));
        assert_eq!(place.prune(0), 2);
        assert_eq!(file_names(&cache.dir).unwrap(), [""; 0]);
        assert!(cache.open(&new).is_none() && Store::open(place.store.cache_root()).is_ok());
    }

    #[test]
    fn a_planted_link_is_neither_read_nor_written() {
        let place = place();
        let digest = place.finish(b"x", 0);
        let cache = place.cache();
        let elsewhere = place.root.path().join("elsewhere");
        std::fs::write(&elsewhere, b"y").unwrap();
        cache.discard(&digest).unwrap();
        for path in [cache.path(&digest), cache.partial_path(&digest)] {
            std::os::unix::fs::symlink(&elsewhere, path).unwrap();
        }
        assert!(cache.open(&digest).is_none());
        assert!(cache.partial(&digest).is_err());
    }
}
