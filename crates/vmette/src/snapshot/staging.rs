//! A folder that is being filled and gets its name when it is complete.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// Behind the name of what is being made. There is one for each name, so that what a killed process left is found.
const SUFFIX: &str = ".partial";

/// Locked while it lives; gone with its guard unless it was given its name.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    path: PathBuf,
    _lock: File,
}

impl Staging {
    /// Begins to make `target`, which must not exist; its parent must. What a killed process left of it is removed.
    pub(super) fn begin(target: &Path) -> Result<Self, Error> {
        let failed = |e: io::Error| Error::SaveFailed(format!("{}: {e}", target.display()));
        let target = std::path::absolute(target).map_err(failed)?;
        if target.symlink_metadata().is_ok() {
            return Err(Error::SaveFailed(format!("{} exists already", target.display())));
        }
        let name = target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut staged = std::ffi::OsString::from(".");
        staged.push(name);
        staged.push(SUFFIX);
        let path = target.with_file_name(staged);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
        let lock = File::open(&path).map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::SaveFailed(format!("{} is being made already", target.display())));
        }
        let staging = Self { target, path, _lock: lock };
        staging.clear().map_err(failed)?;
        Ok(staging)
    }

    /// Empties the folder, which stays: it is what is locked.
    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It is complete: gives it its name. Nobody else's folder of that name is replaced.
    pub(super) fn publish(self) -> io::Result<PathBuf> {
        File::open(&self.path)?.sync_all()?;
        rename_to_new(&self.path, &self.target)?;
        if let Some(parent) = self.target.parent() {
            // The new name, too, should survive a power failure; without it the folder is merely not there.
            let _ = File::open(parent).and_then(|parent| parent.sync_all());
        }
        Ok(self.target.clone())
    }
}

#[cfg(target_os = "linux")]
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system does not know the flag; it still replaces nothing but an empty folder.
        Err(rustix::io::Errno::INVAL) => fs::rename(from, to),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Published: not there. What cannot be removed is, by the next one that makes the same.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_appears_complete_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("snapshot");
        let staging = Staging::begin(&target).unwrap();
        fs::write(staging.path().join("file"), "x").unwrap();
        assert!(!target.exists());
        let busy = Staging::begin(&target).unwrap_err().to_string();
        assert!(busy.contains("being made"), "{busy}");
        drop(staging);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let staging = Staging::begin(&target).unwrap();
        fs::write(staging.path().join("file"), "x").unwrap();
        assert_eq!(staging.publish().unwrap(), target);
        assert!(target.join("file").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let there = Staging::begin(&target).unwrap_err().to_string();
        assert!(there.contains("exists already"), "{there}");
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(".snapshot.partial");
        fs::create_dir_all(left.join("machine")).unwrap();
        fs::write(left.join("manifest.json"), "{}").unwrap();
        let staging = Staging::begin(&dir.path().join("snapshot")).unwrap();
        assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_came_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("snapshot");
        let staging = Staging::begin(&target).unwrap();
        fs::create_dir(&target).unwrap();
        assert!(staging.publish().is_err());
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
}
