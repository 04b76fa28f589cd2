//! Telling without reading them that the files of a folder are still those that were written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vmette_cache::{FileStamp, Key, KeyBuilder};
use vmette_vmm::is_shortage;

use crate::error::{Error, RestoreError};

/// Bytes of the stamps' file: a saved machine is a handful of files.
const LEN_MAX: u64 = 64 << 10;

/// The stamp of each file of a folder, as it was when the folder was finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FolderStamps(BTreeMap<String, Key>);

impl FolderStamps {
    /// Stamps all files of the folder, which has no folders in it.
    pub(crate) fn of(folder: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type()?.is_file() {
                return Err(io::Error::other(format!("{name} is no file")));
            }
            // Without the folder's path: it is renamed once it is finished.
            let stamp = FileStamp { path: name.clone().into(), ..FileStamp::of(&entry.path())? };
            files.insert(name, KeyBuilder::new().file(&stamp).finish());
        }
        Ok(Self(files))
    }

    /// Writes them to a file outside of the folder.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec(self)?)?;
        fs::File::open(path)?.sync_all()
    }

    /// Checks that the folder's files have the stamps in the file at `path`.
    ///
    /// # Errors
    /// [`Error::RestoreFailed`]: one has not, and which. [`Error::Io`]: the host is short of memory or descriptors to find out.
    pub(crate) fn check(path: &Path, folder: &Path) -> Result<(), Error> {
        let broken = |reason: String| Error::from(RestoreError::Changed(reason));
        let failed = |path: &Path, e: io::Error| match is_shortage(&e) {
            true => Error::Io(e),
            false => broken(format!("{}: {e}", path.display())),
        };
        if fs::symlink_metadata(path).map_err(|e| failed(path, e))?.len() > LEN_MAX {
            return Err(broken("its stamps are damaged".into()));
        }
        let text = fs::read(path).map_err(|e| failed(path, e))?;
        let saved: Self =
            serde_json::from_slice(&text).map_err(|_| broken("its stamps are damaged".into()))?;
        let found = Self::of(folder).map_err(|e| failed(folder, e))?;
        let names = saved.0.keys().chain(found.0.keys());
        match names.into_iter().find(|name| saved.0.get(*name) != found.0.get(*name)) {
            Some(name) => {
                Err(broken(format!("its {name} was changed, or copied from elsewhere, after it was saved")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let machine = dir.path().join("machine");
        fs::create_dir(&machine).unwrap();
        fs::write(machine.join("memory"), "memory").unwrap();
        fs::write(machine.join("state"), "state").unwrap();
        FolderStamps::of(&machine).unwrap().write(&dir.path().join("stamps")).unwrap();
        dir
    }

    fn check(dir: &Path) -> Result<(), String> {
        FolderStamps::check(&dir.join("stamps"), &dir.join("machine")).map_err(|e| match e {
            Error::RestoreFailed(RestoreError::Changed(reason)) => reason,
            other => panic!("{other}"),
        })
    }

    #[test]
    fn a_renamed_folder_is_still_the_one_that_was_stamped() {
        let dir = stamped();
        check(dir.path()).unwrap();
        let moved = dir.path().join("moved");
        fs::create_dir(&moved).unwrap();
        fs::rename(dir.path().join("machine"), moved.join("machine")).unwrap();
        fs::rename(dir.path().join("stamps"), moved.join("stamps")).unwrap();
        check(&moved).unwrap();
    }

    #[test]
    fn changed_copied_missing_and_added_files_are_named() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 4] = [
            ("memory", |dir| fs::write(dir.join("memory"), "Memory").unwrap()),
            ("state", |dir| {
                fs::copy(dir.join("state"), dir.join("../copy")).unwrap();
                fs::rename(dir.join("../copy"), dir.join("state")).unwrap();
            }),
            ("memory", |dir| fs::remove_file(dir.join("memory")).unwrap()),
            ("more", |dir| fs::write(dir.join("more"), "").unwrap()),
        ];
        for (name, damage) in damages {
            let dir = stamped();
            damage(&dir.path().join("machine"));
            let reason = check(dir.path()).unwrap_err();
            assert!(reason.contains(name), "{name}: {reason}");
        }
        let dir = stamped();
        fs::write(dir.path().join("stamps"), "{").unwrap();
        assert!(check(dir.path()).unwrap_err().contains("stamps are damaged"));
    }
}
