//! One kind of derived files, each made once.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use vmette_work::Work;

use crate::publish::{StagedFile, remove};
use crate::{Error, FileLock, Result};

/// Prefix of folders that are being made. The lock's holder may remove those of a dead process.
const STAGING: &str = ".staging-";

/// Name of the lock.
const LOCK: &str = ".lock";

/// Derived files that nobody rebuilt for this long are removed when another one of their kind is made.
const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Ending of the file that holds another one's length, one decimal number.
const SIZE_NOTE: &str = "size";

/// How long another process may take: it may be fetching packages over a slow line. One that died has lost its lock, so
/// only one that hangs or was stopped makes anybody wait this long.
const WAIT_MAX: Duration = Duration::from_secs(30 * 60);

/// A folder of files of one kind, which one process at a time writes to.
#[derive(Debug)]
pub struct Shelf {
    path: PathBuf,
}

impl Shelf {
    /// The shelf in this folder, which is there and private.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Holds the shelf for one writer, across threads and processes, until the guard is dropped. A dead holder lets go by
    /// itself, and its leftovers are removed.
    ///
    /// # Errors
    /// See [`FileLock::acquire`]; the limit is 30 minutes here.
    pub fn lock(&self, work: &Work) -> Result<ShelfLock<'_>> {
        let waiting = "waiting for another vmette that prepares the same files";
        let lock = FileLock::acquire(&self.path.join(LOCK), WAIT_MAX, work, waiting)?;
        let lock = ShelfLock { shelf: self, _lock: lock };
        lock.sweep().map_err(Error::io("leftovers cannot be removed", &self.path))?;
        Ok(lock)
    }

    /// The file of that name, made by `build` if it is not there or not as long as it was when it was made. Two
    /// callers at once make it once.
    ///
    /// # Errors
    /// Those of `build`, and of the cache.
    pub fn file<E: From<Error>>(
        &self,
        name: &str,
        work: &Work,
        build: impl FnOnce(&mut BufWriter<&File>) -> std::result::Result<(), E>,
    ) -> std::result::Result<PathBuf, E> {
        let path = self.path.join(name);
        if self.is_whole(&path) {
            return Ok(path);
        }
        let lock = self.lock(work)?;
        if self.is_whole(&path) {
            return Ok(path);
        }
        let written = |e| Error::io("it cannot be written", &path)(e);
        let staged = StagedFile::beside(&path).map_err(written)?;
        let mut writer = BufWriter::new(staged.file());
        build(&mut writer)?;
        writer.flush().map_err(written)?;
        drop(writer);
        let size = staged.file().metadata().map_err(written)?.len();
        staged.publish().map_err(written)?;
        fs::write(size_note(&path), size.to_string()).map_err(written)?;
        lock.prune(&path).map_err(Error::io("old files cannot be removed", &self.path))?;
        Ok(path)
    }

    /// Names of the folders and files, read from the disk; none when there is no folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn names(path: &Path) -> Result<Vec<String>> {
        match fs::read_dir(path) {
            Ok(entries) => {
                Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Error::io("it cannot be read", path)(e)),
        }
    }

    /// True if the file has the length that was noted after it was published. A full disk, a crash of the host or a
    /// hand in the cache can leave a shorter one, which would boot to a panic.
    fn is_whole(&self, path: &Path) -> bool {
        let noted = fs::read_to_string(size_note(path)).ok().and_then(|text| text.parse::<u64>().ok());
        let is = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
        noted.is_some() && noted == is
    }
}

/// The file that holds the length of a published one.
fn size_note(path: &Path) -> PathBuf {
    path.with_added_extension(SIZE_NOTE)
}

/// The right to write to a shelf.
#[derive(Debug)]
pub struct ShelfLock<'a> {
    shelf: &'a Shelf,
    _lock: FileLock,
}

impl ShelfLock<'_> {
    /// A folder to prepare something in, gone with its guard.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn staging(&self) -> Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix(STAGING)
            .tempdir_in(&self.shelf.path)
            .map_err(Error::io("nothing can be prepared there", &self.shelf.path))
    }

    /// Makes a prepared folder visible under its name, all of it at once, in the place of a damaged one. Its files must be
    /// on the disk already.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn publish(&self, prepared: &Path, name: &str) -> Result<PathBuf> {
        let path = self.shelf.path.join(name);
        match remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("a damaged one cannot be removed", &path)(e));
            }
            _ => {}
        }
        fs::rename(prepared, &path).map_err(Error::io("it cannot be renamed", &path))?;
        Ok(path)
    }

    /// Removes what a writer that died has left: nobody else writes while we hold the lock.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.shelf.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(STAGING) || StagedFile::target_of(&name).is_some() {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes files that were made long ago for kernels and guests of old; if one is still wanted, it is made again.
    fn prune(&self, keep: &Path) -> io::Result<()> {
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.shelf.path)? {
            let path = entry?.path();
            if path == keep || path == size_note(keep) || path.file_name().is_some_and(|name| name == LOCK) {
                continue;
            }
            let meta = fs::symlink_metadata(&path)?;
            let old = now.duration_since(meta.modified()?).is_ok_and(|age| age > KEEP);
            if meta.is_file() && old {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
