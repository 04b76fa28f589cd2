//! Digests of files, the same whatever disk a file was copied to.
//!
//! A digest covers the bytes that can be read, and not the places of a sparse file's holes: zeros are left out of it. Reading
//! a machine's memory takes a fraction of a second, which is too long for each start; a digest is therefore remembered
//! for as long as its file is the same.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vmette_cache::sparse::{self, BLOCK};
use vmette_cache::{FileStamp, KeyBuilder, replace};

use crate::assets::CacheRoot;

/// A part that is left out of a digest.
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Digests that are remembered; beyond that all are forgotten, which costs time and nothing else.
const REMEMBERED_MAX: usize = 4096;

/// Folder of the cache for remembered digests.
const SHELF: &str = "digests";

/// Longest note of one digest, in bytes.
const NOTE_MAX: u64 = 4096;

/// Calls `each` for the parts of a file that hold data, until `cancelled` is set: a file may have many gigabytes.
pub(super) fn for_data_until(
    file: &File,
    cancelled: &AtomicBool,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    sparse::for_data(file, |start, part| {
        if cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("called off"));
        }
        each(start, part)
    })
}

/// The digest of what can be read from the file, as hexadecimal text.
pub(super) fn digest_of(file: &File) -> io::Result<String> {
    digest_until(file, &AtomicBool::new(false))
}

fn digest_until(file: &File, cancelled: &AtomicBool) -> io::Result<String> {
    let mut digest = Sha256::new();
    for_data_until(file, cancelled, |start, part| {
        for (i, block) in part.chunks(BLOCK).enumerate() {
            if *block != ZEROS[..block.len()] {
                digest.update((start + (i * BLOCK) as u64).to_le_bytes());
                digest.update((block.len() as u64).to_le_bytes());
                digest.update(block);
            }
        }
        Ok(())
    })?;
    digest.update(file.metadata()?.len().to_le_bytes());
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A digest and its file's stamp, wherever the file is.
#[derive(Serialize, Deserialize)]
struct Note {
    stamp: String,
    digest: String,
}

/// Remembers digests in the cache, which nobody but the user can write to.
#[derive(Debug, Clone)]
pub(crate) struct Digests {
    folder: PathBuf,
    cancelled: Arc<AtomicBool>,
}

impl Digests {
    pub(crate) fn in_cache(cache: &CacheRoot) -> Self {
        Self::in_folder(cache.path().join(SHELF))
    }

    pub(super) fn in_folder(folder: PathBuf) -> Self {
        Self { folder, cancelled: Arc::default() }
    }

    /// Reads no further once `cancelled` is set.
    #[must_use]
    pub(crate) fn until(mut self, cancelled: Arc<AtomicBool>) -> Self {
        self.cancelled = cancelled;
        self
    }

    /// Returns the digest of the file at `path`: remembered, else read.
    pub(crate) fn of(&self, path: &Path) -> io::Result<String> {
        let stamp = FileStamp::of(path)?;
        if let Some(known) = self.recall(&stamp) {
            return Ok(known);
        }
        let file = File::open(&stamp.path)?;
        let digest = digest_until(&file, &self.cancelled)?;
        // One that was written to meanwhile is not remembered, and neither is one in a cache that cannot be written.
        if FileStamp::of(path).is_ok_and(|now| now == stamp) {
            let _ = self.note(&stamp, &digest);
        }
        Ok(digest)
    }

    /// Takes note of a digest that is known to be that of the file at `path`.
    pub(crate) fn remember(&self, path: &Path, digest: &str) {
        // It is a matter of time only.
        let _ = FileStamp::of(path).and_then(|stamp| self.note(&stamp, digest));
    }

    fn recall(&self, stamp: &FileStamp) -> Option<String> {
        let path = self.place(stamp);
        if fs::symlink_metadata(&path).ok()?.len() > NOTE_MAX {
            return None;
        }
        let note: Note = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (note.stamp == text_of(stamp)).then_some(note.digest)
    }

    fn note(&self, stamp: &FileStamp, digest: &str) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        if fs::read_dir(&self.folder)?.count() > REMEMBERED_MAX {
            fs::remove_dir_all(&self.folder)?;
            fs::create_dir_all(&self.folder)?;
        }
        let note = Note { stamp: text_of(stamp), digest: digest.to_owned() };
        replace(&self.place(stamp), &serde_json::to_vec(&note)?)
    }

    fn place(&self, stamp: &FileStamp) -> PathBuf {
        let (dev, ino) = stamp.stamp.place();
        let key = KeyBuilder::new().bytes(&dev.to_le_bytes()).bytes(&ino.to_le_bytes());
        self.folder.join(key.finish().to_string())
    }
}

fn text_of(stamp: &FileStamp) -> String {
    // A folder that is renamed has the same files.
    KeyBuilder::new().file(&FileStamp { path: PathBuf::new(), ..stamp.clone() }).finish().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_digest_is_of_the_contents_wherever_the_holes_are() {
        let dir = tempfile::tempdir().unwrap();
        let (sparse, dense) = (dir.path().join("sparse"), dir.path().join("dense"));
        let file = File::create(&sparse).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"data", 300_000).unwrap();
        let mut contents = vec![0; 1 << 20];
        contents[300_000..300_004].copy_from_slice(b"data");
        fs::write(&dense, &contents).unwrap();
        let of = |path: &Path| digest_of(&File::open(path).unwrap()).unwrap();
        assert_eq!(of(&sparse), of(&dense));
        contents[300_004] = 1;
        fs::write(&dense, &contents).unwrap();
        assert_ne!(of(&sparse), of(&dense));
        let before = of(&sparse);
        file.set_len((1 << 20) + 1).unwrap();
        assert_ne!(of(&sparse), before);
        file.set_len(0).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"data", 300_000 + BLOCK as u64).unwrap();
        assert_ne!(of(&sparse), before, "the same bytes elsewhere");
    }

    #[test]
    fn what_is_remembered_is_the_file_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let digests = Digests::in_folder(dir.path().join("digests"));
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let one = digests.of(&path).unwrap();
        // A lie shows that it is not read again.
        digests.remember(&path, "a lie");
        assert_eq!(digests.of(&path).unwrap(), "a lie");
        fs::create_dir(dir.path().join("sub")).unwrap();
        let moved = dir.path().join("moved/file");
        fs::write(dir.path().join("sub/file"), "three").unwrap();
        digests.remember(&dir.path().join("sub/file"), "a lie");
        fs::rename(dir.path().join("sub"), dir.path().join("moved")).unwrap();
        assert_eq!(digests.of(&moved).unwrap(), "a lie");
        fs::write(dir.path().join("other"), "two").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        let two = digests.of(&path).unwrap();
        assert!(two != one && two != "a lie");
        assert!(digests.of(&dir.path().join("none")).is_err());
    }
}
