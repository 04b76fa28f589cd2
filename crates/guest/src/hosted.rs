//! The agent without a machine: commands run on the host as they are, files lie below a given folder. It isolates
//! nothing, and exists for test suites.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use vmette_wire::agent::{Attach, Boot, ENTROPY_LEN, Hello, Share};

use crate::world::{Booting, Place, Purpose, World, WorldError};

/// What a [`Hosted`] agent was told.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The last `hello`.
    pub hello: Option<Hello>,
    /// The `boot`.
    pub boot: Option<Boot>,
    /// The certificates that came with it.
    pub ca_bundle: Vec<u8>,
    /// Whether the host has its processes stopped. They run all the same.
    pub frozen: bool,
    /// Shares that came later and have not gone.
    pub attached: Vec<Share>,
}

/// The world of an agent in a thread of the host.
#[derive(Debug)]
pub struct Hosted {
    root: OwnedFd,
    root_path: String,
    record: Arc<Mutex<Record>>,
    booted: bool,
    init_used: bool,
}

impl Hosted {
    /// A world whose files lie below `root`.
    ///
    /// # Errors
    /// `root` cannot be opened, or its path is not UTF-8.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let path = root.into().canonicalize()?;
        let root_path = path.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        Ok(Self {
            root: File::open(&path)?.into(),
            root_path,
            record: Arc::default(),
            booted: false,
            init_used: false,
        })
    }

    /// What the agent was told, also while and after it serves.
    #[must_use]
    pub fn record(&self) -> Arc<Mutex<Record>> {
        self.record.clone()
    }

    fn recorded(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
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

    fn boot(&mut self, boot: &Boot, ca_bundle: &[u8]) -> Result<Booting, WorldError> {
        if self.booted {
            return Err(WorldError::Order("the workload's root is there already: boot comes once"));
        }
        self.booted = true;
        self.recorded(|record| {
            record.boot = Some(boot.clone());
            record.ca_bundle = ca_bundle.to_vec();
        });
        Ok(Booting::Done)
    }

    fn attach(&mut self, attach: &Attach, ca_bundle: &[u8]) -> Result<Booting, WorldError> {
        self.recorded(|record| {
            record.attached.extend_from_slice(&attach.shares);
            if !ca_bundle.is_empty() {
                record.ca_bundle = ca_bundle.to_vec();
            }
        });
        Ok(Booting::Done)
    }

    fn detach(&mut self, shares: &[Share]) -> Result<Booting, WorldError> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if !shares.iter().all(|share| record.attached.contains(share)) {
            return Err(WorldError::Order("a share that is not there cannot be taken away"));
        }
        record.attached.retain(|known| !shares.contains(known));
        Ok(Booting::Done)
    }

    fn boot_finished(&mut self, _report: OwnedFd) -> Result<(), WorldError> {
        Err(WorldError::Order("there is no boot under way"))
    }

    fn place(&self, purpose: Purpose) -> Result<Place<'_>, WorldError> {
        if !self.booted {
            return Err(WorldError::Order("there is no root yet: boot comes first"));
        }
        if purpose == Purpose::Init {
            let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            if !record.boot.as_ref().is_some_and(|boot| boot.switch_root) {
                return Err(WorldError::Order("an init command needs a boot with switch_root"));
            }
            if self.init_used {
                return Err(WorldError::Order("the workload's PID 1 runs already: init comes once"));
            }
        }
        Ok(Place {
            root: self.root.as_fd(),
            mount_ns: None,
            group: None,
            scripts: "/",
            scripts_seen: &self.root_path,
            env: &[],
            descriptor_limit: None,
            oom_protected: false,
        })
    }

    fn init_started(&mut self, _pid: u32) {
        self.init_used = true;
    }

    fn init_ended(&mut self) {}

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
