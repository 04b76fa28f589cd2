//! The folder of a saved machine: `state` (the devices), `memory` (sparse), `meta.json` (written last).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmette_vmm::{Error, Result, is_shortage};

use crate::digest::sha256;

/// Version of the folder's layout.
const FORMAT: u32 = 2;

/// Largest device state that is read. Real ones have less than a MiB; those of machines with many processors somewhat
/// more.
const STATE_MAX: u64 = 64 << 20;

/// Largest `meta.json`: it names a few disks.
const META_MAX: u64 = 64 << 10;

const STATE: &str = "state";
const MEMORY: &str = "memory";
const META: &str = "meta.json";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    fingerprint: String,
    state_sha256: String,
    /// Serial numbers of the disks that the state knows of, in the order of their ports.
    disks: Vec<String>,
}

/// A folder that is being filled.
#[derive(Debug)]
pub(crate) struct Writer {
    dir: PathBuf,
    pub(crate) state: File,
    pub(crate) memory: File,
}

impl Writer {
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let create = |name: &str| {
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(dir.join(name))
        };
        Ok(Self { dir: dir.to_owned(), state: create(STATE)?, memory: create(MEMORY)? })
    }

    /// Everything is written: seals it.
    pub(crate) fn finish(mut self, fingerprint: &str, disks: &[String]) -> io::Result<()> {
        // On the disk before the folder gets its name: after a power failure it is all there or not there.
        self.state.sync_all()?;
        self.memory.sync_all()?;
        self.state.rewind()?;
        let meta = Meta {
            format: FORMAT,
            fingerprint: fingerprint.to_owned(),
            state_sha256: sha256(&mut self.state)?,
            disks: disks.to_vec(),
        };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.dir.join(META))?;
        file.write_all(&serde_json::to_vec(&meta)?)?;
        file.sync_all()
    }
}

/// A saved machine. That its memory, which is too large to be read before every start, is what was written is for the
/// caller to know; the rest is verified.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) dir: PathBuf,
    /// The device state, to be read from its beginning.
    pub(crate) state: File,
    pub(crate) memory: File,
    /// How many disks the state knows of.
    pub(crate) disks: usize,
}

impl Snapshot {
    /// Opens a folder and checks that it was made by this user for such a machine, with these disks first.
    pub(crate) fn open(dir: &Path, fingerprint: &str, memory_size: u64, disks: &[&str]) -> Result<Self> {
        let dir = std::path::absolute(dir).map_err(Error::io("make a path absolute"))?;
        Self::verify(&dir, fingerprint, memory_size, disks).map_err(|refusal| match refusal {
            Refusal::Host(source) => Error::Io { what: "open a saved machine", source },
            Refusal::Snapshot(reason) => Error::Snapshot { path: dir, reason },
        })
    }

    fn verify(
        dir: &Path,
        fingerprint: &str,
        memory_size: u64,
        disks: &[&str],
    ) -> std::result::Result<Self, Refusal> {
        let refused = |reason: String| Err(Refusal::Snapshot(reason));
        owned(dir, &fs::symlink_metadata(dir).map_err(Refusal::of(""))?)?;
        let text = match File::open(dir.join(META)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return refused("it has no meta.json: it is not a saved machine".into());
            }
            file => read_text(&file.map_err(Refusal::of("meta.json: "))?)?,
        };
        let meta: Meta = serde_json::from_str(&text)
            .map_err(|e| Refusal::Snapshot(format!("meta.json is damaged: {e}")))?;
        if meta.format != FORMAT {
            return refused(format!("it has format {}, this engine reads {FORMAT}", meta.format));
        }
        if meta.fingerprint != fingerprint {
            return refused(format!(
                "it was saved by another engine or host, or is another kind of machine: saved as `{}`, wanted is `{fingerprint}`",
                meta.fingerprint
            ));
        }
        if !disks.iter().take(meta.disks.len()).eq(meta.disks.iter()) {
            return refused(format!("it was saved with the disks {:?}, wanted are {disks:?}", meta.disks));
        }
        // QEMU opens the memory for writing even where it maps it privately.
        let (memory, metadata) = open(dir, MEMORY, true).map_err(Refusal::of("memory: "))?;
        owned(Path::new(MEMORY), &metadata)?;
        if metadata.len() != memory_size {
            return refused(format!("its memory has {} bytes instead of {memory_size}", metadata.len()));
        }
        let (mut state, metadata) = open(dir, STATE, false).map_err(Refusal::of("state: "))?;
        owned(Path::new(STATE), &metadata)?;
        if metadata.len() > STATE_MAX {
            return refused(format!("its device state has more than {STATE_MAX} bytes"));
        }
        let sum = sha256(&mut (&mut state).take(STATE_MAX)).map_err(Refusal::of("device state: "))?;
        if sum != meta.state_sha256 {
            return refused("its device state is damaged".into());
        }
        state.rewind().map_err(Refusal::of("device state: "))?;
        Ok(Self { dir: dir.to_owned(), state, memory, disks: meta.disks.len() })
    }
}

/// Why a folder was not opened.
#[derive(Debug)]
enum Refusal {
    /// Another time it may be.
    Host(io::Error),
    /// It is not a machine that may be restored here.
    Snapshot(String),
}

impl Refusal {
    /// For `map_err`, with what the text begins with.
    fn of(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |e| if is_shortage(&e) { Self::Host(e) } else { Self::Snapshot(format!("{what}{e}")) }
    }
}

fn open(dir: &Path, name: &str, write: bool) -> io::Result<(File, fs::Metadata)> {
    let file = OpenOptions::new().read(true).write(write).open(dir.join(name))?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

fn read_text(file: &File) -> std::result::Result<String, Refusal> {
    let mut text = String::new();
    file.take(META_MAX).read_to_string(&mut text).map_err(Refusal::of("meta.json: "))?;
    Ok(text)
}

/// A device state is a program for QEMU's parsers, a memory image is the guest's kernel: neither is taken from anyone
/// but this user.
fn owned(path: &Path, meta: &fs::Metadata) -> std::result::Result<(), Refusal> {
    const OTHERS_WRITE: u32 = 0o022;
    let refused = |reason: String| Err(Refusal::Snapshot(reason));
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return refused(format!("{} belongs to user {}, not to you", path.display(), meta.uid()));
    }
    if meta.mode() & OTHERS_WRITE != 0 {
        return refused(format!(
            "{} may be written by others (mode {:o})",
            path.display(),
            meta.mode() & 0o7777
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const SIZE: u64 = 1 << 20;

    fn saved() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(dir.path()).unwrap();
        writer.state.write_all(b"devices").unwrap();
        writer.memory.set_len(SIZE).unwrap();
        writer.finish("engine 1", &["scratch".into()]).unwrap();
        dir
    }

    fn refused(dir: &Path, word: &str) {
        let error = Snapshot::open(dir, "engine 1", SIZE, &["scratch", "more"]).unwrap_err();
        assert!(matches!(error, Error::Snapshot { .. }));
        assert!(error.to_string().contains(word), "{error}");
    }

    #[test]
    fn what_was_saved_can_be_opened_and_read_from_the_beginning() {
        let dir = saved();
        let mut snapshot = Snapshot::open(dir.path(), "engine 1", SIZE, &["scratch", "more"]).unwrap();
        let mut text = String::new();
        snapshot.state.read_to_string(&mut text).unwrap();
        assert_eq!(text, "devices");
        assert_eq!(snapshot.memory.metadata().unwrap().len(), SIZE);
    }

    #[test]
    fn a_foreign_one_is_refused() {
        let dir = saved();
        let error = Snapshot::open(dir.path(), "engine 2", SIZE, &["scratch"]).unwrap_err().to_string();
        assert!(error.contains("engine 1") && error.contains("engine 2"), "{error}");
        let error = Snapshot::open(dir.path(), "engine 1", SIZE * 2, &["scratch"]).unwrap_err().to_string();
        assert!(error.contains("bytes instead of"), "{error}");
    }

    #[test]
    fn damage_is_noticed() {
        let dir = saved();
        fs::write(dir.path().join(STATE), b"Devices").unwrap();
        refused(dir.path(), "device state is damaged");
        fs::write(dir.path().join(STATE), b"").unwrap();
        refused(dir.path(), "device state is damaged");
        let dir = saved();
        fs::remove_file(dir.path().join(STATE)).unwrap();
        refused(dir.path(), "state: ");
        let dir = saved();
        fs::write(dir.path().join(META), b"{").unwrap();
        refused(dir.path(), "meta.json is damaged");
        fs::remove_file(dir.path().join(META)).unwrap();
        refused(dir.path(), "not a saved machine");
        refused(&dir.path().join("none"), "No such file");
    }

    #[test]
    fn other_disks_than_it_was_saved_with_are_refused() {
        let dir = saved();
        for disks in [&[][..], &["other"], &["other", "scratch"]] {
            let error = Snapshot::open(dir.path(), "engine 1", SIZE, disks).unwrap_err().to_string();
            assert!(error.contains("[\"scratch\"]"), "{error}");
        }
        assert_eq!(Snapshot::open(dir.path(), "engine 1", SIZE, &["scratch", "a"]).unwrap().disks, 1);
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let dir = saved();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        refused(dir.path(), "may be written by others");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(dir.path().join(STATE), fs::Permissions::from_mode(0o666)).unwrap();
        refused(dir.path(), "state may be written by others");
    }
}
