//! A folder that is being filled and gets its name when it is complete.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::manifest::own;
use crate::error::{Error, SaveError};

/// Behind the name of what is being made. There is one for each name, so that what a killed process left is found.
const SUFFIX: &str = ".partial";

/// What is in a guest's memory is for nobody else to read.
const PRIVATE: u32 = 0o700;

/// How often a folder may vanish before it is locked.
const ATTEMPTS: usize = 100;

/// Locked while it lives; gone with its guard unless it was given its name.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    path: PathBuf,
    /// Whether it has its name: what is at the path by now, if anything, is somebody else's.
    published: bool,
    _lock: File,
}

impl Staging {
    /// Begins to make `target`, which must not exist; its parent must. What a killed process left of it is removed.
    pub(super) fn begin(target: &Path) -> Result<Self, Error> {
        let failed = SaveError::file(target);
        let target = std::path::absolute(target).map_err(&failed)?;
        if target.symlink_metadata().is_ok() {
            return Err(SaveError::Exists { path: target }.into());
        }
        let name = target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut staged = std::ffi::OsString::from(".");
        staged.push(name);
        staged.push(SUFFIX);
        let path = target.with_file_name(staged);
        let Some(lock) = locked(&path).map_err(SaveError::file(&path))? else {
            return Err(SaveError::BeingMade { path: target }.into());
        };
        let staging = Self { target, path, published: false, _lock: lock };
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
    pub(super) fn publish(mut self) -> io::Result<PathBuf> {
        File::open(&self.path)?.sync_all()?;
        self.give_name()?;
        if let Some(parent) = self.target.parent() {
            // The new name, too, should survive a power failure; without it the folder is merely not there.
            let _ = File::open(parent).and_then(|parent| parent.sync_all());
        }
        Ok(self.target.clone())
    }

    /// From here on the staging folder's path is free for the next one that makes a snapshot of the same name.
    fn give_name(&mut self) -> io::Result<()> {
        rename_to_new(&self.path, &self.target)?;
        self.published = true;
        Ok(())
    }
}

/// Makes the folder or finds it, and locks it. `None`: somebody else has.
///
/// Whoever may put things beside the target may also have put something there under this very name: a link to a folder
/// that would be emptied, a folder whose owner reads along. It is taken from nobody but this user.
fn locked(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..ATTEMPTS {
        match DirBuilder::new().mode(PRIVATE).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(folder) => File::from(folder),
            // Whoever made it has just ended.
            Err(Errno::NOENT) => continue,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(io::Error::other("something else than a folder is there"));
            }
            Err(e) => return Err(e.into()),
        };
        let meta = folder.metadata()?;
        own(&meta, "the folder").map_err(io::Error::other)?;
        folder.set_permissions(Permissions::from_mode(PRIVATE))?;
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // The one before may have removed it between our opening and our locking.
        if is_at(path, &meta) {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

/// Whether that folder is still what the path leads to.
fn is_at(path: &Path, folder: &fs::Metadata) -> bool {
    fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (folder.dev(), folder.ino()))
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
        if !self.published {
            // What cannot be removed is, by the next one that makes the same.
            let _ = fs::remove_dir_all(&self.path);
        }
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
    fn what_others_have_put_there_is_neither_followed_nor_used() {
        let dir = tempfile::tempdir().unwrap();
        let (target, staged) = (dir.path().join("snapshot"), dir.path().join(".snapshot.partial"));
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("file"), "dear").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &staged).unwrap();
        let refused = || Staging::begin(&target).unwrap_err().to_string();
        assert!(refused().contains("something else than a folder"), "{}", refused());
        assert!(refused().contains(".snapshot.partial"), "{}", refused());
        assert!(elsewhere.join("file").exists());
        fs::remove_file(&staged).unwrap();
        fs::write(&staged, "").unwrap();
        assert!(refused().contains("something else than a folder"));
        fs::remove_file(&staged).unwrap();
        fs::create_dir(&staged).unwrap();
        fs::set_permissions(&staged, Permissions::from_mode(0o777)).unwrap();
        assert!(refused().contains("may be written by others"));
        fs::set_permissions(&staged, Permissions::from_mode(0o755)).unwrap();
        let staging = Staging::begin(&target).unwrap();
        assert_eq!(fs::metadata(staging.publish().unwrap()).unwrap().mode() & 0o777, PRIVATE);
    }

    #[test]
    fn the_next_one_keeps_its_folder_when_the_one_before_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("snapshot");
        let mut first = Staging::begin(&target).unwrap();
        first.give_name().unwrap();
        fs::rename(&target, dir.path().join("moved")).unwrap();
        let next = Staging::begin(&target).unwrap();
        drop(first);
        assert!(next.path().exists());
        next.publish().unwrap();
    }

    #[test]
    fn a_lock_on_a_folder_that_was_replaced_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        // Open, so that its number is not given to another one.
        let opened = File::open(&path).unwrap();
        assert!(is_at(&path, &opened.metadata().unwrap()));
        fs::remove_dir(&path).unwrap();
        assert!(!is_at(&path, &opened.metadata().unwrap()));
        fs::create_dir(&path).unwrap();
        assert!(!is_at(&path, &opened.metadata().unwrap()));
    }

    #[test]
    fn of_many_who_begin_at_once_one_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("snapshot");
        let holders = std::sync::atomic::AtomicUsize::new(0);
        let count = |by: usize| holders.fetch_add(by, std::sync::atomic::Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Ok(staging) = Staging::begin(&target) else { continue };
                        assert_eq!(count(1), 0, "two have it");
                        fs::write(staging.path().join("file"), "x").unwrap();
                        assert!(staging.path().join("file").exists());
                        count(usize::MAX);
                    }
                });
            }
        });
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
