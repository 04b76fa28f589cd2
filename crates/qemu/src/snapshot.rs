//! The files of a saved machine: `state` (the devices) and `memory` (sparse).

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use vmette_vmm::{Error, Result, Saved, is_shortage};

/// Largest device state that is read. Real ones have less than a MiB; those of machines with many processors somewhat
/// more.
pub(crate) const STATE_MAX: u64 = 64 << 20;

pub(crate) const STATE: &str = "state";
pub(crate) const MEMORY: &str = "memory";

/// A saved machine that fits. Its owner vouches for the files' content; their sizes are verified.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The device state, to be read from its beginning.
    pub(crate) state: File,
    pub(crate) memory: File,
}

impl Snapshot {
    /// Opens a saved machine, if it is of that fingerprint and has as much memory.
    pub(crate) fn open(saved: &Saved, fingerprint: &str, memory_size: u64) -> Result<Self> {
        let refused = |reason: String| Error::Snapshot { path: saved.folder.clone(), reason };
        if saved.state.fingerprint != fingerprint {
            return Err(refused(format!(
                "it was saved by another engine or host, or is another kind of machine: saved as `{}`, wanted is `{fingerprint}`",
                saved.state.fingerprint
            )));
        }
        let opened = |name: &str, write| match open(&saved.folder.join(name), write) {
            Ok(opened) => Ok(opened),
            // Another time it may be there.
            Err(source) if is_shortage(&source) => Err(Error::Io { what: "open a saved machine", source }),
            Err(e) => Err(refused(format!("{name}: {e}"))),
        };
        // QEMU opens the memory for writing even where it maps it privately.
        let (memory, size) = opened(MEMORY, true)?;
        if size != memory_size {
            return Err(refused(format!("its memory has {size} bytes instead of {memory_size}")));
        }
        let (state, size) = opened(STATE, false)?;
        if size > STATE_MAX {
            return Err(refused(format!("its device state has more than {STATE_MAX} bytes")));
        }
        Ok(Self { state, memory })
    }
}

fn open(path: &Path, write: bool) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().read(true).write(write).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;

    use vmette_vmm::SavedState;

    const SIZE: u64 = 1 << 20;

    fn saved(dir: &Path) -> Saved {
        fs::write(dir.join(STATE), "devices").unwrap();
        File::create(dir.join(MEMORY)).unwrap().set_len(SIZE).unwrap();
        let state = SavedState { fingerprint: "engine 1".into(), ..SavedState::default() };
        Saved { folder: dir.to_owned(), state }
    }

    fn refused(saved: &Saved, fingerprint: &str, size: u64) -> String {
        let error = Snapshot::open(saved, fingerprint, size).unwrap_err();
        assert!(matches!(error, Error::Snapshot { .. }), "{error}");
        error.to_string()
    }

    #[test]
    fn a_saved_machine_that_fits_is_read_from_the_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let mut snapshot = Snapshot::open(&saved(dir.path()), "engine 1", SIZE).unwrap();
        let mut text = String::new();
        snapshot.state.read_to_string(&mut text).unwrap();
        assert_eq!(text, "devices");
        assert_eq!(snapshot.memory.metadata().unwrap().len(), SIZE);
    }

    #[test]
    fn a_foreign_one_and_one_that_is_not_whole_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let saved = saved(dir.path());
        let error = refused(&saved, "engine 2", SIZE);
        assert!(error.contains("engine 1") && error.contains("engine 2"), "{error}");
        assert!(refused(&saved, "engine 1", SIZE * 2).contains("bytes instead of"));
        File::create(dir.path().join(STATE)).unwrap().set_len(STATE_MAX + 1).unwrap();
        assert!(refused(&saved, "engine 1", SIZE).contains("more than"));
        for name in [STATE, MEMORY] {
            fs::remove_file(dir.path().join(name)).unwrap();
            assert!(refused(&saved, "engine 1", SIZE).contains(name));
        }
    }
}
