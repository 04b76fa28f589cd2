//! Layers on their way: from a registry through the layer cache into the conversion.
//!
//! A layer is downloaded by one process at a time, under its lock, and written to the cache while it is converted, so that
//! the next attempt resumes it however this one ends. It gets its name in the cache when its digest has been verified, and
//! is verified again whenever it is taken from there. The disk takes a while for that, which the conversion does not wait
//! for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use sha2::{Digest as _, Sha256};

use vmette_cache::{Digest, FileLock};
use vmette_oci::{Blob, Source, Verified};
use vmette_work::{Item, PROGRESS_STEP, Progress, Work};

use crate::error::{ProviderError, Result};
use crate::read_error::ReadError;
use crate::store::{LayerCache, StoreError};

/// Bytes that are hashed at once.
const CHUNK: usize = 256 << 10;

/// A layer that has come whole and is verified, and still needs its name.
pub(super) struct Complete {
    digest: Digest,
    partial: File,
    /// The digest's lock, released when the layer has its name.
    _lock: FileLock,
}

/// Does `work`, and gives the layers that it completes their names meanwhile. Also fails if a layer cannot be kept.
pub(super) fn publishing<T>(
    cache: &LayerCache,
    work: impl FnOnce(Sender<Complete>) -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        let (completed, queue) = channel::<Complete>();
        let publisher = scope.spawn(move || {
            queue.into_iter().try_for_each(|layer| cache.publish(&layer.digest, &layer.partial))
        });
        let done = work(completed);
        // All that could complete one is gone, so the queue has an end.
        let published = publisher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        published.map_err(Into::into).and(done)
    })
}

/// The layers of one image.
pub(super) struct Downloads<'a> {
    /// The registry, within the current attempt.
    source: RwLock<Arc<dyn Source>>,
    image: Image<'a>,
    /// Receives complete layers.
    completed: Sender<Complete>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked_for: BTreeSet<Digest>,
    /// Layers that are not verified yet, and whether a part of them is from an earlier attempt.
    unverified: BTreeMap<Digest, bool>,
}

/// Facts about an image whose layers are downloaded.
pub(super) struct Image<'a> {
    pub(super) cache: LayerCache,
    /// The caller's name for it, for messages.
    pub(super) name: &'a str,
    /// Number of its layers.
    pub(super) count: usize,
}

impl<'a> Downloads<'a> {
    pub(super) fn new(source: Arc<dyn Source>, image: Image<'a>, completed: Sender<Complete>) -> Self {
        Self { source: RwLock::new(source), image, completed, state: Mutex::default() }
    }

    /// Takes the rest of the layers from another connection: the one before is cancelled.
    pub(super) fn reconnect(&self, source: Arc<dyn Source>) {
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// The layer's compressed bytes, from the cache as far as they are there. Waits while another process downloads
    /// them. The reader's end is their verification.
    pub(super) fn open(
        &'a self,
        blob: &Blob,
        index: usize,
        attempt: &Work,
    ) -> std::result::Result<Box<dyn Read + Send + 'a>, ReadError> {
        let again = !self.state().asked_for.insert(blob.digest);
        // A layer that an image has twice waits for itself, which nobody needs to hear of.
        let silent = Work::new(attempt.cancel().clone());
        let lock = self.image.cache.lock(&blob.digest, if again { &silent } else { attempt })?;
        let item = ItemName { digest: blob.digest.to_string(), index, count: self.image.count };
        if let Some(file) = self.cached(blob, attempt)? {
            attempt.tell(&Progress::Finished { item: item.item(), cached: true });
            return Ok(Box::new(file));
        }
        let failed = |e| self.unwritten(e);
        let partial = self.image.cache.partial(&blob.digest)?;
        let mut there = partial.metadata().map_err(failed)?.len();
        if there > blob.size {
            partial.set_len(0).map_err(failed)?;
            there = 0;
        }
        self.state().unverified.insert(blob.digest, there > 0);
        attempt.tell(&Progress::Started { item: item.item(), done: there, total: Some(blob.size) });
        let download = Download {
            layer: blob.clone(),
            partial,
            there,
            done: 0,
            remote: None,
            told: there,
            item,
            attempt: attempt.clone(),
            downloads: self,
        };
        let what = format!("its layer {}", index + 1);
        let verified = Verified::new(download, self.image.name, &what, blob.clone());
        Ok(Box::new(CachingReader { verified, lock: Some(lock) }))
    }

    /// The finished layer of the cache, if it is still what it was.
    fn cached(&self, blob: &Blob, attempt: &Work) -> std::result::Result<Option<File>, ReadError> {
        let Some(mut file) = self.image.cache.open(&blob.digest) else { return Ok(None) };
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let whole = loop {
            attempt.check()?;
            match file.read(&mut chunk) {
                Ok(0) => break Digest::finish(hasher) == blob.digest,
                Ok(read) => hasher.update(&chunk[..read]),
                // A disk that does not give back what it holds.
                Err(_) => break false,
            }
        };
        if whole && file.seek(SeekFrom::Start(0)).is_ok() {
            return Ok(Some(file));
        }
        attempt.warn(&format!(
            "layer {} in the cache is damaged and is downloaded again; check the disk if this happens more often",
            blob.digest
        ));
        drop(file);
        self.image.cache.discard(&blob.digest)?;
        Ok(None)
    }

    /// After a conversion failed: forgets layers that may be to blame for it. Returns whether another attempt may succeed:
    /// if a part of them came from an earlier attempt, since a crash may have left anything there.
    pub(super) fn forget_doubtful(&self, error: &ProviderError) -> Result<bool> {
        let unverified = std::mem::take(&mut self.state().unverified);
        if !matches!(error, ProviderError::Image { .. } | ProviderError::Layer { .. }) {
            return Ok(false);
        }
        for digest in unverified.keys() {
            // Another holder of the lock resumes the file, and finds out by itself: the error need not wait for that.
            let Some(_lock) = self.image.cache.try_lock(digest)? else { continue };
            // Somebody else may have completed it, and verified it, since.
            if self.image.cache.open(digest).is_none() {
                self.image.cache.discard(digest)?;
            }
        }
        Ok(unverified.values().any(|&resumed| resumed))
    }

    fn unwritten(&self, error: io::Error) -> ReadError {
        let failed = vmette_cache::Error::io("a layer cannot be written to it", self.image.cache.dir());
        StoreError::from(failed(error)).into()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A thread that panicked left a whole set and a whole map.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer's name for [`Item`].
struct ItemName {
    digest: String,
    index: usize,
    count: usize,
}

impl ItemName {
    fn item(&self) -> Item<'_> {
        Item::Layer { digest: &self.digest, index: self.index, count: self.count }
    }
}

/// Reads first the partial file, then the rest from the source, which it appends to the file.
struct Download<'a> {
    layer: Blob,
    partial: File,
    /// Bytes of the partial file when it was opened.
    there: u64,
    /// Bytes read so far.
    done: u64,
    /// The source's rest. Opened when the partial file has been read.
    remote: Option<Box<dyn Read + Send>>,
    /// The last `done` that was told.
    told: u64,
    item: ItemName,
    attempt: Work,
    downloads: &'a Downloads<'a>,
}

impl Download<'_> {
    fn remote(&mut self) -> io::Result<&mut Box<dyn Read + Send>> {
        let remote = match self.remote.take() {
            Some(remote) => remote,
            None => {
                let source =
                    Arc::clone(&self.downloads.source.read().unwrap_or_else(PoisonError::into_inner));
                source.open(&self.layer, self.done)?
            }
        };
        Ok(self.remote.insert(remote))
    }

    fn tell(&mut self) {
        if self.done >= self.told + PROGRESS_STEP {
            self.told = self.done;
            let (item, total) = (self.item.item(), Some(self.layer.size));
            self.attempt.tell(&Progress::Advanced { item, done: self.done, total });
        }
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.attempt.check()?;
        if self.done < self.there {
            let len = usize::try_from(self.there - self.done).unwrap_or(usize::MAX).min(buffer.len());
            let read = self.partial.read(&mut buffer[..len])?;
            self.done += read as u64;
            // Shorter than it was a moment ago: somebody else's hand.
            return if read == 0 && len > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) };
        }
        if self.done == self.layer.size && self.there == self.layer.size {
            return Ok(0);
        }
        let read = self.remote()?.read(buffer)?;
        self.partial.write_all(&buffer[..read]).map_err(|e| self.downloads.unwritten(e))?;
        self.done += read as u64;
        self.tell();
        Ok(read)
    }
}

/// Lets the layer have its name in the cache when it has been verified, and others have the layer.
struct CachingReader<'a> {
    verified: Verified<Download<'a>>,
    /// None when it is complete.
    lock: Option<FileLock>,
}

impl Read for CachingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.verified.read(buffer)?;
        if read == 0
            && !buffer.is_empty()
            && let Some(lock) = self.lock.take()
        {
            let download = self.verified.inner_mut();
            let (digest, downloads) = (download.layer.digest, download.downloads);
            downloads.state().unverified.remove(&digest);
            let complete = Complete { digest, partial: download.partial.try_clone()?, _lock: lock };
            // The receiver has ended only after an error, which `publishing` returns.
            downloads.completed.send(complete).map_err(|_| io::ErrorKind::BrokenPipe)?;
            download.attempt.tell(&Progress::Finished { item: download.item.item(), cached: false });
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use vmette_oci::{ImageError, RawManifest, Which};

    use crate::store::Store;

    /// Has one layer and nothing else.
    #[derive(Clone)]
    struct OneLayer(Vec<u8>);

    impl Source for OneLayer {
        fn manifest(&self, _which: &Which) -> vmette_oci::Result<RawManifest> {
            panic!("nobody asks")
        }

        fn digest_of(&self, _tag: &str) -> vmette_oci::Result<Digest> {
            panic!("nobody asks")
        }

        fn open(&self, _blob: &Blob, offset: u64) -> vmette_oci::Result<Box<dyn Read + Send>> {
            Ok(Box::new(io::Cursor::new(self.0[usize::try_from(offset).unwrap()..].to_vec())))
        }
    }

    struct Place {
        root: tempfile::TempDir,
        store: Store,
        source: OneLayer,
        blob: Blob,
    }

    fn place() -> Place {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("cache")).unwrap();
        let content = b"a layer".to_vec();
        let blob = Blob { digest: Digest::of(&content), size: content.len() as u64 };
        Place { root, store, source: OneLayer(content), blob }
    }

    impl Place {
        fn cache(&self) -> LayerCache {
            self.store.layers()
        }

        fn downloads(&self, completed: Sender<Complete>) -> Downloads<'static> {
            let image = Image { cache: self.cache(), name: "name", count: 1 };
            Downloads::new(Arc::new(self.source.clone()), image, completed)
        }

        /// Reads the layer `times` times, one after the other, with `before_end` before its last read.
        fn download(&self, times: usize, before_end: impl Fn()) -> Result<()> {
            publishing(&self.cache(), |completed| {
                let downloads = self.downloads(completed);
                for _ in 0..times {
                    let mut reader = downloads.open(&self.blob, 0, &Work::quiet())?;
                    let mut content = vec![0; self.source.0.len()];
                    reader.read_exact(&mut content).unwrap();
                    assert_eq!(content, self.source.0);
                    before_end();
                    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
                }
                Ok(())
            })
        }
    }

    #[test]
    fn a_layer_that_was_read_is_in_the_cache_and_free_for_others() {
        let place = place();
        // The second time it waits for the first one's name.
        place.download(2, || {}).unwrap();
        let mut content = Vec::new();
        place.cache().open(&place.blob.digest).unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(content, place.source.0);
        drop(place.cache().lock(&place.blob.digest, &Work::quiet()).unwrap());
    }

    #[test]
    fn what_another_process_goes_on_with_is_neither_waited_for_nor_forgotten() {
        let place = place();
        let cancel = vmette_work::Cancel::new();
        let given_up = cancel.clone();
        // A wait is told, and would last until the test is ended.
        let work = Work::new(cancel).reporting(Arc::new(move |progress| {
            if matches!(progress, Progress::Step(line) if line.starts_with("waiting")) {
                given_up.cancel();
            }
        }));
        let refused = ProviderError::Image { name: "name".to_owned(), source: ImageError::Schema1 };
        let forget = |others: bool| {
            let there = publishing(&place.cache(), |completed| {
                let downloads = place.downloads(completed);
                let mut reader = downloads.open(&place.blob, 0, &work)?;
                assert!(reader.read(&mut [0; 3]).unwrap() > 0);
                drop(reader);
                let _other = others.then(|| place.cache().lock(&place.blob.digest, &Work::quiet()).unwrap());
                downloads.forget_doubtful(&refused)
            });
            there.unwrap();
            place.cache().partial(&place.blob.digest).unwrap().metadata().unwrap().len() > 0
        };
        assert!(forget(true), "it is the other's");
        assert!(!forget(false), "it may be to blame");
    }

    #[test]
    fn a_layer_that_cannot_be_kept_is_an_error_though_all_else_went_well() {
        let place = place();
        let layers = place.root.path().join("cache/layers");
        let take_away = || {
            let names = std::fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().path());
            names.filter(|path| path.extension().is_some_and(|suffix| suffix == "partial")).for_each(
                |path| {
                    std::fs::remove_file(path).unwrap();
                },
            );
        };
        let error = place.download(1, take_away).unwrap_err();
        assert!(matches!(error, ProviderError::Cache { .. }), "{error}");
        place.download(1, || {}).unwrap();
    }
}
