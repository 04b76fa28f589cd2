//! What files hold, told apart by digest, whatever disk they were copied to.
//!
//! A digest is of what can be read, and not of where the holes of a sparse file are: zeros are left out of it. Reading
//! a machine's memory takes a fraction of a second, which is too long for each start; a digest is therefore remembered
//! for as long as its file is the same.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vmette_cache::sparse::{self, BLOCK};
use vmette_cache::{CacheRoot, Digest, FileStamp, Key, KeyBuilder};
use vmette_work::Cancel;

const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Digests that are remembered; beyond that all are forgotten, which costs time and nothing else.
const REMEMBERED_MAX: usize = 4096;

/// Folder of the cache for remembered digests.
const SHELF: &str = "digests";

/// Longest note of one digest, in bytes.
const NOTE_MAX: u64 = 4096;

/// The digest of what can be read from the file, as hexadecimal text, unless it is given up.
pub(super) fn digest_of(file: &File, cancel: &Cancel) -> io::Result<String> {
    let mut digest = Sha256::new();
    sparse::for_data(file, |start, part| {
        cancel.check()?;
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
    Ok(Digest::finish(digest).hex())
}

/// A digest and what its file was when it had it, wherever the file is.
#[derive(Serialize, Deserialize)]
struct Note {
    stamp: Key,
    digest: String,
}

/// Remembers digests in the cache, which nobody but the user can write to.
#[derive(Debug, Clone)]
pub(crate) struct Digests {
    folder: PathBuf,
    cancel: Cancel,
}

impl Digests {
    pub(crate) fn in_cache(cache: &CacheRoot) -> Self {
        Self::in_folder(cache.path().join(SHELF))
    }

    pub(super) fn in_folder(folder: PathBuf) -> Self {
        Self { folder, cancel: Cancel::new() }
    }

    /// Reads no further once `cancel` is.
    #[must_use]
    pub(crate) fn until(self, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// The digest of the file at `path`: remembered, else read.
    pub(crate) fn of(&self, path: &Path) -> io::Result<String> {
        let stamp = FileStamp::of(path)?;
        if let Some(known) = self.recall(&stamp) {
            return Ok(known);
        }
        let file = File::open(&stamp.path)?;
        let digest = digest_of(&file, &self.cancel)?;
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
        (note.stamp == key_of(stamp)).then_some(note.digest)
    }

    fn note(&self, stamp: &FileStamp, digest: &str) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        if fs::read_dir(&self.folder)?.count() > REMEMBERED_MAX {
            fs::remove_dir_all(&self.folder)?;
            fs::create_dir_all(&self.folder)?;
        }
        let note = Note { stamp: key_of(stamp), digest: digest.to_owned() };
        vmette_cache::note(&self.place(stamp), &serde_json::to_vec(&note)?)
    }

    fn place(&self, stamp: &FileStamp) -> PathBuf {
        self.folder.join(KeyBuilder::new().inode(stamp).finish().to_string())
    }
}

fn key_of(stamp: &FileStamp) -> Key {
    // A folder that is renamed has the same files.
    KeyBuilder::new().file(&FileStamp { path: PathBuf::new(), ..stamp.clone() }).finish()
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
        let of = |path: &Path| digest_of(&File::open(path).unwrap(), &Cancel::new()).unwrap();
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

    #[test]
    fn a_digest_can_be_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "content").unwrap();
        let digests = Digests::in_folder(dir.path().join("digests"));
        let cancel = Cancel::new();
        cancel.cancel();
        let error = digests.clone().until(&cancel).of(&path).unwrap_err();
        assert!(vmette_work::is_cancelled(&error), "{error}");
        digests.of(&path).unwrap();
    }
}
