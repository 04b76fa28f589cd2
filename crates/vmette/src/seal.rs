//! Telling without reading them that the files of a folder are still those that were written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vmette_cache::own;
use vmette_vmm::{SavedState, is_shortage};

use crate::assets::{FileStamp, Key};
use crate::error::{Error, RestoreError};

/// A seal is a small text; a saved machine is a handful of files.
const SEAL_MAX: u64 = 64 << 10;

/// The stamps of a saved machine's files, and the engine's notes on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seal {
    files: BTreeMap<String, String>,
    state: SavedState,
}

impl Seal {
    /// Flushes the folder's files to the disk and takes their stamps. There are no folders in it.
    pub(crate) fn of(folder: &Path, state: SavedState) -> io::Result<Self> {
        let files = stamps(folder, |path| fs::File::open(path)?.sync_all())?;
        fs::File::open(folder)?.sync_all()?;
        Ok(Self { files, state })
    }

    /// Writes it to a file, outside of the folder.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec(self)?)?;
        fs::File::open(path)?.sync_all()
    }

    /// Checks the folder against its seal, the file at `path`, and returns the engine's notes.
    ///
    /// # Errors
    /// [`Error::RestoreFailed`] with the difference. [`Error::Io`] if the host lacks the means to find out.
    pub(crate) fn check(path: &Path, folder: &Path) -> Result<SavedState, Error> {
        let broken = |reason: String| Error::from(RestoreError::Changed(reason));
        let failed = |path: &Path, e: io::Error| match is_shortage(&e) {
            true => Error::Io(e),
            false => broken(format!("{}: {e}", path.display())),
        };
        let examine = |path: &Path| fs::symlink_metadata(path).map_err(|e| failed(path, e));
        if examine(path)?.len() > SEAL_MAX {
            return Err(broken("its seal is damaged".into()));
        }
        // A state is a program for the engine's parsers, and a memory image is the guest's kernel: neither is taken from
        // anyone but this user.
        for place in [folder, path] {
            own(place, &examine(place)?).map_err(|e| broken(e.to_string()))?;
        }
        let text = fs::read(path).map_err(|e| failed(path, e))?;
        let sealed: Self = serde_json::from_slice(&text).map_err(|_| broken("its seal is damaged".into()))?;
        let owned = |path: &Path| own(path, &fs::symlink_metadata(path)?).map_err(io::Error::other);
        let found = stamps(folder, owned).map_err(|e| failed(folder, e))?;
        let names = sealed.files.keys().chain(found.keys());
        match names.into_iter().find(|name| sealed.files.get(*name) != found.get(*name)) {
            Some(name) => {
                Err(broken(format!("its {name} was changed, or copied from elsewhere, after it was saved")))
            }
            None => Ok(sealed.state),
        }
    }
}

/// The stamps of all files of a folder, each taken after `before`.
fn stamps(folder: &Path, before: impl Fn(&Path) -> io::Result<()>) -> io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_file() {
            return Err(io::Error::other(format!("{name} is no file")));
        }
        before(&entry.path())?;
        // Wherever the folder is: it may be renamed once it is sealed.
        let stamp = FileStamp { path: name.clone().into(), ..FileStamp::of(&entry.path())? };
        files.insert(name, Key::new().file(&stamp).hex());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn sealed() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let machine = dir.path().join("machine");
        fs::create_dir(&machine).unwrap();
        fs::write(machine.join("memory"), "memory").unwrap();
        fs::write(machine.join("state"), "state").unwrap();
        Seal::of(&machine, SavedState::default()).unwrap().write(&dir.path().join("seal")).unwrap();
        dir
    }

    fn check(dir: &Path) -> Result<(), String> {
        Seal::check(&dir.join("seal"), &dir.join("machine")).map(drop).map_err(|e| match e {
            Error::RestoreFailed(RestoreError::Changed(reason)) => reason,
            other => panic!("{other}"),
        })
    }

    #[test]
    fn a_renamed_folder_is_still_the_one_that_was_sealed() {
        let dir = sealed();
        check(dir.path()).unwrap();
        let moved = dir.path().join("moved");
        fs::create_dir(&moved).unwrap();
        fs::rename(dir.path().join("machine"), moved.join("machine")).unwrap();
        fs::rename(dir.path().join("seal"), moved.join("seal")).unwrap();
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
            let dir = sealed();
            damage(&dir.path().join("machine"));
            let reason = check(dir.path()).unwrap_err();
            assert!(reason.contains(name), "{name}: {reason}");
        }
        for place in ["machine", "machine/state", "seal"] {
            let dir = sealed();
            fs::set_permissions(dir.path().join(place), fs::Permissions::from_mode(0o777)).unwrap();
            let reason = check(dir.path()).unwrap_err();
            assert!(reason.contains(place) && reason.contains("writable by others"), "{reason}");
        }
        let dir = sealed();
        fs::write(dir.path().join("seal"), "{").unwrap();
        assert!(check(dir.path()).unwrap_err().contains("seal is damaged"));
    }
}
