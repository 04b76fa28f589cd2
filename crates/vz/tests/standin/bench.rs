//! A machine of the stand-in's, and what it is made of.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmette_vmm::{Hypervisor, Machine, MachineEnd, MachineSpec};
use vmette_vz::Vz;

/// Longer than anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A folder for one machine and what it is made of.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) engine: Vz,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("initramfs"), "x").unwrap();
        fs::write(dir.path().join("image"), vec![0; 4096]).unwrap();
        let engine = Vz::new(dir.path().join("cache"));
        Self { dir, engine }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new empty folder.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    pub(crate) fn spec(&self, words: &str) -> MachineSpec {
        MachineSpec {
            cmdline: format!("root={} {words}", self.path("root").display()).trim_end().to_owned(),
            vcpus: 2,
            savable: true,
            ..MachineSpec::new(guest(), self.path("initramfs"))
        }
    }

    pub(crate) fn machine(&self, words: &str) -> Arc<dyn Machine> {
        self.engine.create(self.spec(words)).unwrap()
    }

    /// Why a machine like that does not start, and how it ended.
    pub(crate) fn fails(&self, words: &str) -> (String, MachineEnd) {
        let machine = self.machine(words);
        let error = machine.start().expect_err("it does not start").to_string();
        (error, machine.end().wait_until(Instant::now() + LIMIT).expect("it has ended"))
    }

    /// What the guest was given, a line each.
    pub(crate) fn given(&self) -> Vec<String> {
        fs::read_to_string(self.path("root/machine")).unwrap().lines().map(str::to_owned).collect()
    }
}

/// Built beside the tests.
fn guest() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let guest = deps.parent().and_then(Path::parent).unwrap().join("examples/standin_guest");
    assert!(guest.is_file(), "{} is built with the tests of this crate", guest.display());
    guest
}

pub(crate) fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until the other end is closed.
pub(crate) fn wait_closed(mut stream: impl Read) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut rest);
}

/// The agent answers a `ping`.
pub(crate) fn assert_answers(stream: &UnixStream) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let header = br#"{"machine":"ping"}"#;
    let mut frame = 7u32.to_le_bytes().to_vec();
    // Without a payload.
    for len in [u32::try_from(header.len()).unwrap(), 0] {
        frame.extend(len.to_le_bytes());
    }
    frame.extend(header);
    (&*stream).write_all(&frame).unwrap();
    let mut id = [0; 4];
    (&*stream).read_exact(&mut id).unwrap();
    assert_eq!(u32::from_le_bytes(id), 7);
}
