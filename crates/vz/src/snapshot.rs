//! The one file of a saved machine: `state`, in VZ's own form.

use std::path::{Path, PathBuf};

use vmette_vmm::{Error, Result, Saved};

/// More than the identity of a machine has, in bytes.
const IDENTIFIER_MAX: usize = 4096;

/// A saved machine that fits.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) folder: PathBuf,
    pub(crate) identifier: Vec<u8>,
}

impl Snapshot {
    /// Checks a saved machine against the one that is to be restored from it. Its owner vouches for the file.
    pub(crate) fn open(saved: &Saved, fingerprint: &str) -> Result<Self> {
        let refused = |reason: String| Error::Snapshot { path: saved.folder.clone(), reason };
        let folder = std::path::absolute(&saved.folder).map_err(|e| refused(e.to_string()))?;
        if saved.state.fingerprint != fingerprint {
            return Err(refused(format!(
                "it was saved under {:?}, and this machine is {fingerprint:?}",
                saved.state.fingerprint
            )));
        }
        if saved.state.identity.len() > IDENTIFIER_MAX {
            return Err(refused("the machine's identity is damaged".into()));
        }
        if !state_in(&folder).is_file() {
            return Err(refused("its state is missing".into()));
        }
        Ok(Self { folder, identifier: saved.state.identity.clone() })
    }

    pub(crate) fn state(&self) -> PathBuf {
        state_in(&self.folder)
    }
}

/// The file in which VZ writes a machine to this folder.
pub(crate) fn state_in(folder: &Path) -> PathBuf {
    folder.join("state")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmette_vmm::SavedState;

    fn saved(folder: &Path) -> Saved {
        std::fs::write(state_in(folder), "state").unwrap();
        let state =
            SavedState { fingerprint: "print".into(), identity: vec![1, 2, 3], ..SavedState::default() };
        Saved { folder: folder.to_owned(), state }
    }

    #[test]
    fn a_saved_machine_keeps_its_identity_and_one_that_does_not_fit_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let mut saved = saved(dir.path());
        assert_eq!(Snapshot::open(&saved, "print").unwrap().identifier, [1, 2, 3]);
        let refused = |saved: &Saved, print: &str| Snapshot::open(saved, print).unwrap_err().to_string();
        let error = refused(&saved, "another");
        assert!(error.contains("print") && error.contains("another"), "{error}");
        saved.state.identity = vec![0; IDENTIFIER_MAX + 1];
        assert!(refused(&saved, "print").contains("identity"));
        saved.state.identity.clear();
        std::fs::remove_file(state_in(dir.path())).unwrap();
        assert!(refused(&saved, "print").contains("state is missing"));
    }
}
