//! The agent without a machine: commands run on the host as they are, files lie below a given folder. It isolates
//! nothing, and exists for test suites.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Pid;
use vmette_wire::devices::Share;
use vmette_wire::handshake::ENTROPY_LEN;
use vmette_wire::root::{Attach, Detach};
use vmette_wire::{Boot, Hello, Root, RootName};

use crate::world::{
    self, BOOTED, Changing, INIT_TWICE, NO_INIT, NOT_BOOTED, Place, Purpose, World, WorldError,
};

/// The requests that a [`Hosted`] agent has had.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The last `hello`.
    pub hello: Option<Hello>,
    /// The `boot`.
    pub boot: Option<Boot>,
    /// The roots, in the order in which they were made.
    pub roots: Vec<Root>,
    /// The last certificates.
    pub ca_bundle: Vec<u8>,
    /// The host has its processes stopped. They run all the same.
    pub frozen: bool,
    /// Shares that came later and have not gone.
    pub attached: Vec<Share>,
}

/// The world of an agent in a thread of the host.
#[derive(Debug)]
pub struct Hosted {
    path: PathBuf,
    record: Arc<Mutex<Record>>,
    roots: BTreeMap<RootName, Folder>,
}

/// A root of a [`Hosted`] agent.
#[derive(Debug)]
struct Folder {
    fd: OwnedFd,
    path: String,
    switch_root: bool,
    init_started: bool,
}

impl Hosted {
    /// A world whose first root is the folder `root`; each further one is a folder in it of the root's name.
    ///
    /// # Errors
    /// `root` cannot be opened.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        Ok(Self { path: root.into().canonicalize()?, record: Arc::default(), roots: BTreeMap::new() })
    }

    /// The requests that the agent has had, also while and after it serves.
    #[must_use]
    pub fn record(&self) -> Arc<Mutex<Record>> {
        self.record.clone()
    }

    fn recorded<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn root(&self, name: &RootName) -> Result<&Folder, WorldError> {
        self.roots.get(name).ok_or_else(|| WorldError::NoRoot(name.clone()))
    }

    fn open(&self, root: &Root) -> io::Result<Folder> {
        let first = self.roots.is_empty();
        let path = if first { self.path.clone() } else { self.path.join(root.name.as_str()) };
        fs::create_dir_all(&path)?;
        let fd = File::open(&path)?.into();
        let path = path.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        Ok(Folder { fd, path, switch_root: root.switch_root, init_started: false })
    }
}

impl World for Hosted {
    fn hello(&mut self, hello: &Hello, _entropy: &[u8; ENTROPY_LEN]) -> Result<(), WorldError> {
        self.recorded(|record| record.hello = Some(hello.clone()));
        Ok(())
    }

    /// The clock is the host's.
    fn set_clock(&mut self, _realtime_ns: u64) -> Result<(), WorldError> {
        Ok(())
    }

    fn freeze(&mut self) -> Result<(), WorldError> {
        self.recorded(|record| record.frozen = true);
        Ok(())
    }

    fn thaw(&mut self) -> Result<(), WorldError> {
        self.recorded(|record| record.frozen = false);
        Ok(())
    }

    fn boot(&mut self, boot: &Boot) -> Result<Changing, WorldError> {
        match self.recorded(|record| record.boot.replace(boot.clone())) {
            Some(_) => Err(BOOTED),
            None => Ok(Changing::Done),
        }
    }

    fn make_root(&mut self, root: &Root, ca_bundle: &[u8]) -> Result<Changing, WorldError> {
        if self.recorded(|record| record.boot.is_none()) {
            return Err(NOT_BOOTED);
        }
        world::check_room(self.roots.keys(), &root.name)?;
        let folder = self.open(root).map_err(WorldError::io(format!("open the root {}", root.name)))?;
        self.roots.insert(root.name.clone(), folder);
        self.recorded(|record| {
            record.roots.push(root.clone());
            record.ca_bundle = ca_bundle.to_vec();
        });
        Ok(Changing::Done)
    }

    fn attach(&mut self, attach: &Attach, ca_bundle: &[u8]) -> Result<Changing, WorldError> {
        self.root(&attach.root)?;
        self.recorded(|record| {
            record.attached.extend_from_slice(&attach.shares);
            if !ca_bundle.is_empty() {
                record.ca_bundle = ca_bundle.to_vec();
            }
        });
        Ok(Changing::Done)
    }

    fn detach(&mut self, detach: &Detach) -> Result<Changing, WorldError> {
        self.root(&detach.root)?;
        self.recorded(|record| {
            if !detach.shares.iter().all(|share| record.attached.contains(share)) {
                return Err(WorldError::Order("a share that is not there cannot be taken away"));
            }
            record.attached.retain(|known| !detach.shares.contains(known));
            Ok(Changing::Done)
        })
    }

    fn finish(&mut self, _report: OwnedFd) -> Result<(), WorldError> {
        Err(WorldError::Order("there is no change under way"))
    }

    fn place(&self, root: &RootName, purpose: Purpose) -> Result<Place<'_>, WorldError> {
        let folder = self.root(root)?;
        if purpose == Purpose::Init {
            match (folder.switch_root, folder.init_started) {
                (false, _) => return Err(NO_INIT),
                (true, true) => return Err(INIT_TWICE),
                (true, false) => {}
            }
        }
        Ok(Place {
            root: folder.fd.as_fd(),
            mount_ns: None,
            pid_ns: None,
            group: None,
            scripts: "/",
            scripts_seen: &folder.path,
            env: &[],
            descriptor_limit: None,
            oom_protected: false,
        })
    }

    fn init_started(&mut self, root: &RootName, _pid: Pid, _pidfd: BorrowedFd<'_>) {
        if let Some(folder) = self.roots.get_mut(root) {
            folder.init_started = true;
        }
    }

    /// The host's dirty data is the host's business.
    fn sync(&mut self) -> io::Result<Option<OwnedFd>> {
        Ok(None)
    }

    fn reconnects(&self) -> bool {
        false
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn accept(&mut self) -> io::Result<Option<OwnedFd>> {
        Ok(None)
    }
}
