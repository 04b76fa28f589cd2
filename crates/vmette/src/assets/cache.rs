//! Where derived and downloaded files live, and how a file gets there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::AssetError;

/// Prefix of files and folders that are being made. Whoever holds the lock may remove those of a dead process.
const STAGING: &str = ".staging-";

/// Derived files that nobody rebuilt for this long are removed when another one of their kind is made.
const KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A size note holds one decimal number.
const SIZE_NOTE: &str = "size";

/// The folder that all of vmette's kept files live under: ours alone, for whoever can write to it chooses the kernel
/// of every guest. Never relative to the current folder, which may be a stranger's checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRoot {
    path: PathBuf,
}

impl CacheRoot {
    /// The folder that this process's environment asks for: `$VMETTE_CACHE_DIR`, else `$XDG_CACHE_HOME/vmette`, else
    /// `~/.cache/vmette` (on macOS `~/Library/Caches/vmette`). It is not touched yet.
    pub fn from_env() -> Result<Self, AssetError> {
        Self::from_variables(|name| std::env::var_os(name), cfg!(target_os = "macos"))
    }

    /// The same over any environment.
    fn from_variables(env: impl Fn(&str) -> Option<OsString>, macos: bool) -> Result<Self, AssetError> {
        let folder = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = folder("VMETTE_CACHE_DIR") {
            return if path.is_absolute() {
                Ok(Self { path })
            } else {
                Err(AssetError::Relative { variable: "VMETTE_CACHE_DIR", path })
            };
        }
        if macos {
            return Ok(Self { path: home(folder("HOME"))?.join("Library/Caches/vmette") });
        }
        // The XDG specification says that a relative path is to be ignored.
        let base = match folder("XDG_CACHE_HOME").filter(|path| path.is_absolute()) {
            Some(base) => base,
            None => home(folder("HOME"))?.join(".cache"),
        };
        Ok(Self { path: base.join("vmette") })
    }

    /// A given folder, which must be absolute.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder if it is not there, and checks that nobody else can write to it.
    pub fn ensure(&self) -> Result<(), AssetError> {
        private_folder(&self.path)?;
        let meta = fs::metadata(&self.path).map_err(AssetError::cache(&self.path))?;
        let us = rustix::process::geteuid().as_raw();
        if meta.uid() != us {
            return Err(AssetError::CacheOwner { path: self.path.clone(), owner: meta.uid(), us });
        }
        let mode = meta.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(AssetError::CacheMode { path: self.path.clone(), mode });
        }
        Ok(())
    }

    /// The folder of one kind of files, made and checked.
    pub(super) fn shelf(&self, kind: &'static str) -> Result<Shelf, AssetError> {
        self.ensure()?;
        let path = self.path.join(kind);
        private_folder(&path)?;
        Ok(Shelf { path })
    }
}

fn home(home: Option<PathBuf>) -> Result<PathBuf, AssetError> {
    match home {
        Some(path) if path.is_absolute() => Ok(path),
        Some(path) => Err(AssetError::Relative { variable: "HOME", path }),
        None => Err(AssetError::NoHome),
    }
}

fn private_folder(path: &Path) -> Result<(), AssetError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(AssetError::cache(path))
}

/// One kind of files in the cache.
pub(super) struct Shelf {
    path: PathBuf,
}

impl Shelf {
    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Holds the shelf for one writer, across threads and processes, until the guard is dropped. A dead holder lets
    /// go by itself. What such a one left half done is removed.
    pub(super) fn lock(&self, progress: &dyn Fn(&str)) -> Result<ShelfLock<'_>, AssetError> {
        let path = self.path.join(".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(AssetError::cache(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress("waiting for another vmette that prepares the same files");
                file.lock().map_err(AssetError::cache(&path))?;
            }
            Err(TryLockError::Error(source)) => return Err(AssetError::Cache { path, source }),
        }
        let lock = ShelfLock { shelf: self, _file: file };
        lock.sweep().map_err(AssetError::cache(&self.path))?;
        Ok(lock)
    }

    /// The file of that name, made by `build` if it is not there or not as long as it was when it was made. Two
    /// callers at once make it once.
    pub(super) fn file(
        &self,
        name: &str,
        progress: &dyn Fn(&str),
        build: impl FnOnce(&mut BufWriter<&File>) -> Result<(), AssetError>,
    ) -> Result<PathBuf, AssetError> {
        let path = self.path.join(name);
        if self.is_whole(&path) {
            return Ok(path);
        }
        let lock = self.lock(progress)?;
        if self.is_whole(&path) {
            return Ok(path);
        }
        let staged = tempfile::Builder::new()
            .prefix(STAGING)
            .tempfile_in(&self.path)
            .map_err(AssetError::cache(&self.path))?;
        let mut writer = BufWriter::new(staged.as_file());
        build(&mut writer)?;
        writer.flush().map_err(AssetError::cache(&path))?;
        drop(writer);
        let size = staged
            .as_file()
            .sync_all()
            .and_then(|()| staged.as_file().metadata())
            .map_err(AssetError::cache(&path))?
            .len();
        staged
            .persist(&path)
            .map_err(|error| AssetError::Cache { path: path.clone(), source: error.error })?;
        let note = size_note(&path);
        fs::write(&note, size.to_string()).map_err(AssetError::cache(&note))?;
        lock.prune(&path).map_err(AssetError::cache(&self.path))?;
        Ok(path)
    }

    /// Whether the file has the length that was noted after it was published. A full disk, a crash of the host or a
    /// hand in the cache can leave a shorter one, which would boot to a panic.
    fn is_whole(&self, path: &Path) -> bool {
        let noted = fs::read_to_string(size_note(path)).ok().and_then(|text| text.parse::<u64>().ok());
        let is = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|meta| meta.len());
        noted.is_some() && noted == is
    }
}

/// Where the length of a published file is noted.
fn size_note(path: &Path) -> PathBuf {
    path.with_added_extension(SIZE_NOTE)
}

/// The right to write to a shelf.
pub(super) struct ShelfLock<'a> {
    shelf: &'a Shelf,
    /// Open for as long as the lock is held.
    _file: File,
}

impl ShelfLock<'_> {
    /// A folder to prepare something in, gone with its guard.
    pub(super) fn staging(&self) -> Result<tempfile::TempDir, AssetError> {
        tempfile::Builder::new()
            .prefix(STAGING)
            .tempdir_in(&self.shelf.path)
            .map_err(AssetError::cache(&self.shelf.path))
    }

    /// Makes a prepared folder visible under its name, all of it at once, in the place of a damaged one.
    pub(super) fn publish(&self, prepared: &Path, name: &str) -> Result<PathBuf, AssetError> {
        let path = self.shelf.path.join(name);
        if let Err(source) = fs::remove_dir_all(&path)
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(AssetError::Cache { path, source });
        }
        fs::rename(prepared, &path).map_err(AssetError::cache(&path))?;
        Ok(path)
    }

    /// Removes what a writer that died has left: nobody else writes while we hold the lock.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.shelf.path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(STAGING.as_bytes()) {
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Removes files that were made long ago for kernels and guests of old; if one is still wanted, it is made again.
    fn prune(&self, keep: &Path) -> io::Result<()> {
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.shelf.path)? {
            let path = entry?.path();
            if path == keep || path == size_note(keep) || path.file_name().is_some_and(|name| name == ".lock")
            {
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
#[path = "cache_tests.rs"]
mod tests;
