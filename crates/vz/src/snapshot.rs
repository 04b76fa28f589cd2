//! The folder of a saved machine: `state` (VZ's own file) and `meta.json` (written last).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmette_vmm::{Error, Result};

/// Version of the folder's layout.
const FORMAT: u32 = 1;

/// More than `meta.json` ever has.
const META_MAX: u64 = 64 << 10;

/// More than the identity of a machine has.
const IDENTIFIER_MAX: usize = 4096;

const STATE: &str = "state";
const META: &str = "meta.json";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    fingerprint: String,
    /// VZ restores a state into a machine of the same identity only.
    identifier: Vec<u8>,
    /// The state has the machine's memory and is too large to be read before every start. A file that was cut short is
    /// found by its length; that the rest is what was written is for the caller to know, and for VZ to judge.
    state_len: u64,
}

/// A saved machine that fits.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) dir: PathBuf,
    pub(crate) identifier: Vec<u8>,
}

impl Snapshot {
    /// Checks the folder against the machine that is to be restored from it.
    pub(crate) fn open(dir: &Path, fingerprint: &str) -> Result<Self> {
        let refused = |reason: String| Error::Snapshot { path: dir.to_owned(), reason };
        let dir = std::path::absolute(dir).map_err(|e| refused(e.to_string()))?;
        let meta = read_meta(&dir.join(META)).map_err(|e| refused(format!("{META}: {e}")))?;
        if meta.format != FORMAT {
            return Err(refused(format!("it has format {}, this version knows {FORMAT}", meta.format)));
        }
        if meta.fingerprint != fingerprint {
            return Err(refused(format!(
                "it was saved under {:?}, and this machine is {fingerprint:?}",
                meta.fingerprint
            )));
        }
        if meta.identifier.len() > IDENTIFIER_MAX {
            return Err(refused("the machine's identity is damaged".into()));
        }
        let state = fs::symlink_metadata(dir.join(STATE)).map_err(|e| refused(format!("{STATE}: {e}")))?;
        if !state.is_file() || state.len() != meta.state_len {
            return Err(refused(format!("{STATE} is not the file that was saved")));
        }
        Ok(Self { dir, identifier: meta.identifier })
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join(STATE)
    }
}

fn read_meta(path: &Path) -> io::Result<Meta> {
    let mut text = Vec::new();
    File::open(path)?.take(META_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// A folder that is being filled, under another name. It is gone when it is dropped before it was sealed.
#[derive(Debug)]
pub(crate) struct Writer {
    target: PathBuf,
    staging: PathBuf,
}

impl Writer {
    /// Makes it, beside `dir`, which must not be there.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let error = |source| Error::File { what: "snapshot folder", path: dir.to_owned(), source };
        if dir.symlink_metadata().is_ok() {
            return Err(error(io::ErrorKind::AlreadyExists.into()));
        }
        let target = std::path::absolute(dir).map_err(error)?;
        let staging = target.with_added_extension(format!("{}.partial", std::process::id()));
        DirBuilder::new().mode(0o700).create(&staging).map_err(error)?;
        Ok(Self { target, staging })
    }

    /// The file that VZ is to make.
    pub(crate) fn state(&self) -> PathBuf {
        self.staging.join(STATE)
    }

    /// VZ has written the state: seals the folder and gives it its name.
    pub(crate) fn finish(self, fingerprint: String, identifier: Vec<u8>) -> Result<()> {
        let error = |source| Error::File { what: "snapshot folder", path: self.target.clone(), source };
        let seal = || {
            let state = OpenOptions::new().read(true).open(self.state())?;
            // On the disk before the folder gets its name: after a power failure it is all there or not there.
            state.sync_all()?;
            let state = state.metadata()?;
            let meta = Meta { format: FORMAT, fingerprint, identifier, state_len: state.len() };
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.staging.join(META))?;
            file.write_all(&serde_json::to_vec(&meta)?)?;
            file.sync_all()?;
            fs::rename(&self.staging, &self.target)
        };
        seal().map_err(error)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Not there any more when it was sealed; otherwise whoever sweeps the folder finds it by its name.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(parent: &Path) -> PathBuf {
        let dir = parent.join("saved");
        let writer = Writer::create(&dir).unwrap();
        fs::write(writer.state(), "state").unwrap();
        writer.finish("print".into(), vec![1, 2, 3]).unwrap();
        dir
    }

    #[test]
    fn what_was_saved_is_found_again() {
        let parent = tempfile::tempdir().unwrap();
        let dir = saved(parent.path());
        assert_eq!(Snapshot::open(&dir, "print").unwrap().identifier, [1, 2, 3]);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        assert!(Writer::create(&dir).is_err(), "an old state is not replaced");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let parent = tempfile::tempdir().unwrap();
        let dir = saved(parent.path());
        let refused = |print: &str| Snapshot::open(&dir, print).unwrap_err().to_string();
        let error = refused("another");
        assert!(error.contains("print") && error.contains("another"), "{error}");
        fs::write(dir.join(STATE), "states").unwrap();
        assert!(refused("print").contains("not the file"));
        fs::remove_file(dir.join(STATE)).unwrap();
        assert!(refused("print").contains("state"));
        for damaged in ["", "{}", "[]", "{\"format\":2}"] {
            fs::write(dir.join(META), damaged).unwrap();
            assert!(refused("print").contains(META), "{damaged}");
        }
    }

    #[test]
    fn a_folder_that_was_not_sealed_is_not_there() {
        let parent = tempfile::tempdir().unwrap();
        let writer = Writer::create(&parent.path().join("saved")).unwrap();
        fs::write(writer.state(), "half").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        let unsaved = Writer::create(&parent.path().join("saved")).unwrap();
        assert!(unsaved.finish(String::new(), Vec::new()).is_err(), "VZ has written nothing");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
