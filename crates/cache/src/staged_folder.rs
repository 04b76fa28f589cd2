//! A folder that is being filled and gets its name when it is complete.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::lock::is_named;
use crate::publish::{folder_of, remove, sync_folder};
use crate::{Error, own};

/// Behind the name of the folder that is being made. There is one for each name, so that leftovers of a killed process
/// are found.
const SUFFIX: &str = ".partial";

/// A saved machine's memory is for nobody else to read.
const PRIVATE: u32 = 0o700;

/// How often a folder may vanish before it is locked.
const ATTEMPTS: usize = 100;

/// Why a folder cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagingError {
    /// Something has its name.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// Another thread or process is making it.
    #[error("{} is being made already", .0.display())]
    Busy(PathBuf),
    /// Something that is not this user's private folder is where it is to be made.
    #[error("{}, where it is made: {reason}", path.display())]
    Foreign {
        /// The folder in which it would be made.
        path: PathBuf,
        /// The defect.
        reason: String,
    },
    /// The place cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder that was to be made.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}

impl StagingError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    fn foreign(path: &Path, reason: impl ToString) -> Self {
        Self::Foreign { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// A folder `.NAME.partial` that is locked while this lives, and removed with it unless it got its name.
#[derive(Debug)]
pub struct StagedFolder {
    target: PathBuf,
    path: PathBuf,
    /// The folder at the path, if any, belongs to the next one by then.
    published: bool,
    _lock: File,
}

impl StagedFolder {
    /// Begins to make `target`, which must not exist; its parent must. Leftovers of a killed process are removed.
    ///
    /// # Errors
    /// [`StagingError`].
    pub fn begin(target: &Path) -> Result<Self, StagingError> {
        let target = std::path::absolute(target).map_err(StagingError::io(target))?;
        if target.symlink_metadata().is_ok() {
            return Err(StagingError::Exists(target));
        }
        let Some(name) = target.file_name() else {
            return Err(StagingError::io(&target)(io::ErrorKind::InvalidInput.into()));
        };
        let mut staged = OsString::from(".");
        staged.push(name);
        staged.push(SUFFIX);
        let path = target.with_file_name(staged);
        let Some(lock) = locked(&path)? else { return Err(StagingError::Busy(target)) };
        let staging = Self { target, path, published: false, _lock: lock };
        staging.clear().map_err(StagingError::io(&staging.path))?;
        Ok(staging)
    }

    /// Empties the folder, which stays: it is the lock.
    fn clear(&self) -> io::Result<()> {
        fs::read_dir(&self.path)?.try_for_each(|entry| remove(&entry?.path()))
    }

    /// The folder to fill.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the complete folder its name. Nobody else's folder of that name is replaced. The files in it must be on the
    /// disk already.
    ///
    /// # Errors
    /// Something has the name by now, or the folder cannot be renamed.
    pub fn publish(mut self) -> io::Result<PathBuf> {
        sync_folder(&self.path)?;
        rename_to_new(&self.path, &self.target)?;
        self.published = true;
        // The new name, too, should survive a power failure; without it the folder is merely not there.
        let _ = sync_folder(folder_of(&self.target));
        Ok(self.target.clone())
    }
}

/// Makes the folder or finds it, and locks it. `None`: another thread or process has it.
///
/// Other users who may write beside the target may have put something there under this very name: a link to a folder
/// that would be emptied, or a folder whose owner reads along. Only this user's own private folder is taken.
fn locked(path: &Path) -> Result<Option<File>, StagingError> {
    let failed = StagingError::io;
    for _ in 0..ATTEMPTS {
        match DirBuilder::new().mode(PRIVATE).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(path)(e)),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(folder) => File::from(folder),
            // Its maker has just ended.
            Err(Errno::NOENT) => continue,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(StagingError::foreign(path, "something else than a folder is there"));
            }
            Err(e) => return Err(failed(path)(e.into())),
        };
        let found = folder.metadata().map_err(failed(path))?;
        own(path, &found).map_err(|e| match e {
            Error::Owner { owner, us, .. } => {
                StagingError::foreign(path, format!("the folder belongs to user {owner}, not to {us}"))
            }
            Error::Writable { .. } => StagingError::foreign(path, "the folder may be written by others"),
            other => StagingError::foreign(path, other),
        })?;
        folder.set_permissions(Permissions::from_mode(PRIVATE)).map_err(failed(path))?;
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(failed(path)(e)),
        }
        // Its maker may have removed it between our opening and our locking.
        if is_named(path, &folder) {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

#[cfg(target_os = "linux")]
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system does not know the flag; a plain rename replaces nothing but an empty folder.
        Err(Errno::INVAL) => fs::rename(from, to),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        if !self.published {
            // A folder that cannot be removed now is removed by the next one that makes the same.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn it_appears_complete_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("snapshot");
        let staging = StagedFolder::begin(&target).unwrap();
        fs::write(staging.path().join("file"), "x").unwrap();
        assert!(!target.exists());
        let busy = StagedFolder::begin(&target).unwrap_err().to_string();
        assert!(busy.contains("being made"), "{busy}");
        drop(staging);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let staging = StagedFolder::begin(&target).unwrap();
        fs::write(staging.path().join("file"), "x").unwrap();
        assert_eq!(staging.publish().unwrap(), target);
        assert!(target.join("file").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let there = StagedFolder::begin(&target).unwrap_err().to_string();
        assert!(there.contains("exists already"), "{there}");
    }

    #[test]
    fn leftovers_of_a_killed_process_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(".snapshot.partial");
        fs::create_dir_all(left.join("machine")).unwrap();
        fs::write(left.join("manifest.json"), "{}").unwrap();
        let staging = StagedFolder::begin(&dir.path().join("snapshot")).unwrap();
        assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0);
    }

    #[test]
    fn things_that_others_have_put_there_are_neither_followed_nor_used() {
        let dir = tempfile::tempdir().unwrap();
        let (target, staged) = (dir.path().join("snapshot"), dir.path().join(".snapshot.partial"));
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("file"), "dear").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &staged).unwrap();
        let refused = || StagedFolder::begin(&target).unwrap_err().to_string();
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
        let staging = StagedFolder::begin(&target).unwrap();
        assert_eq!(fs::metadata(staging.publish().unwrap()).unwrap().mode() & 0o777, PRIVATE);
    }

    #[test]
    fn the_next_one_of_the_same_name_survives_the_guard_of_a_published_one() {
        let dir = tempfile::tempdir().unwrap();
        let (target, moved) = (dir.path().join("snapshot"), dir.path().join("moved"));
        let mut first = StagedFolder::begin(&target).unwrap();
        // Does what `publish` does, and keeps the guard.
        rename_to_new(first.path(), &target).unwrap();
        first.published = true;
        fs::rename(&target, &moved).unwrap();
        let next = StagedFolder::begin(&target).unwrap();
        drop(first);
        assert!(next.path().exists());
        assert_eq!(next.publish().unwrap(), target);
    }

    #[test]
    fn a_lock_on_a_folder_that_was_replaced_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        // Open, so that its inode's number is not given to another one.
        let opened = File::open(&path).unwrap();
        assert!(is_named(&path, &opened));
        fs::remove_dir(&path).unwrap();
        assert!(!is_named(&path, &opened));
        fs::create_dir(&path).unwrap();
        assert!(!is_named(&path, &opened));
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
                        let Ok(staging) = StagedFolder::begin(&target) else { continue };
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
        let staging = StagedFolder::begin(&target).unwrap();
        fs::create_dir(&target).unwrap();
        assert!(staging.publish().is_err());
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
}
