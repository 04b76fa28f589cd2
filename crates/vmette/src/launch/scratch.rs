//! The scratch disk's file, gone with the machine however that ends. It lies in the cache, because a folder for temporary
//! files may well be memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use vmette_cache::{CacheRoot, Error as CacheError, OwnedFolder, sparse};
use vmette_work::{Cancel, Work};

use crate::Error;

/// The folder of disks in the cache.
const FOLDER: &str = "scratch";

/// A disk's name in a folder of its own.
const NAME: &str = "disk";

/// A disk that the machine may open by [`Scratch::path`] as long as this is kept.
pub(super) enum Scratch {
    /// A file without a name, from its first moment: it is gone with the processes that have it open.
    Nameless(File),
    /// Where a file cannot be opened without its name, it has one, in a folder that goes with this process: leftovers of
    /// a killed one are found by the next.
    Named(File, OwnedFolder),
}

impl Scratch {
    /// A new disk.
    pub(super) fn make(cache: &CacheRoot, mib: u64, work: &Work) -> Result<Self, Error> {
        let (folder, disk) = Self::empty(cache)?;
        vmette_image::format_scratch(&disk.file()?, &disk.path(), mib, &folder, work)?;
        Ok(disk)
    }

    /// A disk with the content of `source`, unless it is given up meanwhile.
    pub(super) fn copy_of(cache: &CacheRoot, source: &File, cancel: &Cancel) -> Result<Self, Error> {
        let (folder, disk) = Self::empty(cache)?;
        sparse::duplicate(source, &disk.file()?, || Ok(cancel.check()?)).map_err(|e| {
            match cancel.check() {
                Ok(()) => Error::from(failed(&folder)(e)),
                Err(_) => e.into(),
            }
        })?;
        Ok(disk)
    }

    /// An empty file for this user alone, and the folder of disks.
    fn empty(cache: &CacheRoot) -> Result<(PathBuf, Self), Error> {
        let folder = cache.folder(FOLDER)?;
        let disk = if cfg!(target_os = "linux") {
            Self::Nameless(tempfile::tempfile_in(&folder).map_err(failed(&folder))?)
        } else {
            let own = OwnedFolder::new_in(&folder, FOLDER).map_err(failed(&folder))?;
            let options = File::options().read(true).write(true).create_new(true).clone();
            Self::Named(options.open(own.path().join(NAME)).map_err(failed(&folder))?, own)
        };
        Ok((folder, disk))
    }

    /// A handle of its content.
    pub(super) fn file(&self) -> std::io::Result<File> {
        let (Self::Nameless(file) | Self::Named(file, _)) = self;
        file.try_clone()
    }

    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Nameless(file) => format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into(),
            Self::Named(_, own) => own.path().join(NAME),
        }
    }
}

fn failed(folder: &Path) -> impl FnOnce(io::Error) -> CacheError {
    CacheError::io("no scratch disk can be made there", folder)
}
