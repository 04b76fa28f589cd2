//! Files that appear whole under their name, or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Between a file's name and the random end of the name under which it is made.
const STAGING: &str = ".staging-";

/// A file that is being written beside the place where it is to appear. Removed with its guard unless it was published;
/// a killed process leaves `<name>.staging-<random>`, for this user alone (mode 0600).
#[derive(Debug)]
pub struct StagedFile {
    file: NamedTempFile,
    target: PathBuf,
}

impl StagedFile {
    /// Begins to make the file `target`, in its folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn beside(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut prefix = name.to_owned();
        prefix.push(STAGING);
        let file = tempfile::Builder::new().prefix(&prefix).tempfile_in(folder_of(target))?;
        Ok(Self { file, target: target.to_owned() })
    }

    /// The name of the file whose staging this file name is.
    #[must_use]
    pub fn target_of(staging: &str) -> Option<&str> {
        staging.rsplit_once(STAGING).map(|(target, _)| target)
    }

    /// The file that is being written.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Its path until it is published, for a program that writes it.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Gives the file its name, in the place of an older one, once its content is on the disk. A reader, and the next
    /// process after a crash, sees the old file or the new one.
    ///
    /// # Errors
    /// The file cannot be flushed or renamed; the old one is still there then.
    pub fn publish(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.target).map_err(|e| e.error)?;
        sync_folder(folder_of(&self.target))
    }
}

/// Writes a small file whole, in the place of an older one.
///
/// # Errors
/// The folder cannot be written; an older file is still there then.
pub fn replace(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = StagedFile::beside(target)?;
    staged.file().write_all(bytes)?;
    staged.publish()
}

/// Writes a small file whole, and does not wait for the disk: for a note whose loss costs time and nothing else.
///
/// # Errors
/// The folder cannot be written; an older file is still there then.
pub fn note(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut staged = StagedFile::beside(target)?;
    staged.file.write_all(bytes)?;
    staged.file.persist(&staged.target).map(drop).map_err(|e| e.error)
}

/// Makes renames and removals in the folder survive a crash of the host.
///
/// # Errors
/// The folder cannot be opened or flushed.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes a file, a link, or a folder with all that is in it. No link is followed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("file");
        replace(&target, b"old").unwrap();
        let mut staged = StagedFile::beside(&target).unwrap();
        staged.file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        let name = staged.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(StagedFile::target_of(&name), Some("file"));
        drop(staged);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "what was given up is gone");
        replace(&target, b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_published_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("folder");
        fs::create_dir_all(target.join("in use")).unwrap();
        assert!(replace(&target, b"x").is_err());
        assert!(target.join("in use").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(Path::new("/"), b"x").is_err());
    }
}
