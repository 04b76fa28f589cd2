//! The scratch disk's file, gone with the machine however that ends. It lies in the cache, because a folder for temporary
//! files may well be memory.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::process::{Pid, test_kill_process};
use tempfile::NamedTempFile;
use vmette_work::Work;

use crate::assets::CacheRoot;
use crate::{Error, snapshot};

/// A disk that the machine may open by [`Scratch::path`] as long as this is kept.
pub(super) enum Scratch {
    /// A file without a name, from its first moment: it is gone with the processes that have it open.
    Nameless(File),
    /// Where a file cannot be opened without its name, it has one, in a folder named after this process: what a killed
    /// one has left is found by the next.
    Named(NamedTempFile),
}

impl Scratch {
    /// A new disk.
    pub(super) fn make(cache: &CacheRoot, mib: u64, work: &Work) -> Result<Self, Error> {
        let (folder, disk) = Self::empty(cache)?;
        vmette_image::format_scratch(&disk.file()?, &disk.path(), mib, &folder, work)?;
        Ok(disk)
    }

    /// A disk with what is in `source`, unless `cancelled` is set meanwhile.
    pub(super) fn copy_of(cache: &CacheRoot, source: &File, cancelled: &AtomicBool) -> Result<Self, Error> {
        let (_, disk) = Self::empty(cache)?;
        snapshot::copy_until(source, &disk.file()?, cancelled)?;
        Ok(disk)
    }

    /// An empty file for this user alone, and its folder.
    fn empty(cache: &CacheRoot) -> io::Result<(PathBuf, Self)> {
        let folder = folder(cache)?;
        let disk = if cfg!(target_os = "linux") {
            Self::Nameless(tempfile::tempfile_in(&folder)?)
        } else {
            Self::Named(NamedTempFile::new_in(&folder)?)
        };
        Ok((folder, disk))
    }

    /// A handle of its content.
    pub(super) fn file(&self) -> io::Result<File> {
        match self {
            Self::Nameless(file) => file.try_clone(),
            Self::Named(file) => file.reopen(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Nameless(file) => format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into(),
            Self::Named(file) => file.path().to_owned(),
        }
    }
}

/// Where disks are made.
fn folder(cache: &CacheRoot) -> io::Result<PathBuf> {
    let folder = cache.path().join("scratch");
    if cfg!(target_os = "linux") {
        fs::create_dir_all(&folder)?;
        return Ok(folder);
    }
    sweep(&folder)?;
    let own = folder.join(std::process::id().to_string());
    fs::create_dir_all(&own)?;
    Ok(own)
}

/// Removes what processes that are no more have left.
fn sweep(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let owner = path.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
        let gone = owner.is_some_and(|owner| test_kill_process(owner) == Err(rustix::io::Errno::SRCH));
        match if gone { fs::remove_dir_all(&path) } else { Ok(()) } {
            // Another one sweeps as well.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_have_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let (dead, own) =
            (dir.path().join(child.id().to_string()), dir.path().join(std::process::id().to_string()));
        for folder in [&dead, &own, &dir.path().join("other")] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("scratch-x.img"), "x").unwrap();
        }
        sweep(dir.path()).unwrap();
        assert!(!dead.exists() && own.exists() && dir.path().join("other").exists());
        sweep(&dir.path().join("missing")).unwrap();
    }
}
