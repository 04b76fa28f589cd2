//! A world that differs from the usual one of a test.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use rustix::process::Pid;
use vmette_guest::Hosted;
use vmette_guest::world::{Changing, Place, Purpose, World, WorldError};
use vmette_wire::handshake::ENTROPY_LEN;
use vmette_wire::root::{Attach, Detach};
use vmette_wire::{Boot, Hello, Root, RootName};

/// [`Hosted`], except for the fields that are set.
pub(crate) struct Altered {
    pub(crate) hosted: Hosted,
    pub(crate) crowd: Option<Crowd>,
    pub(crate) door: Option<Door>,
}

/// A control group that takes no more members while the flag is set: a pipe that is full.
pub(crate) struct Crowd {
    pub(crate) full: OwnedFd,
    pub(crate) reader: OwnedFd,
    pub(crate) hold: Arc<AtomicBool>,
}

/// A place where further hosts may come.
pub(crate) struct Door {
    pub(crate) listener: UnixListener,
    /// Told each time that the agent finds its host gone.
    pub(crate) gone: Sender<()>,
}

impl World for Altered {
    fn hello(&mut self, hello: &Hello, entropy: &[u8; ENTROPY_LEN]) -> Result<(), WorldError> {
        self.hosted.hello(hello, entropy)
    }

    fn set_clock(&mut self, realtime_ns: u64) -> Result<(), WorldError> {
        self.hosted.set_clock(realtime_ns)
    }

    fn freeze(&mut self) -> Result<(), WorldError> {
        self.hosted.freeze()
    }

    fn thaw(&mut self) -> Result<(), WorldError> {
        self.hosted.thaw()
    }

    fn boot(&mut self, boot: &Boot) -> Result<Changing, WorldError> {
        self.hosted.boot(boot)
    }

    fn make_root(&mut self, root: &Root, ca_bundle: &[u8]) -> Result<Changing, WorldError> {
        self.hosted.make_root(root, ca_bundle)
    }

    fn attach(&mut self, attach: &Attach, ca_bundle: &[u8]) -> Result<Changing, WorldError> {
        self.hosted.attach(attach, ca_bundle)
    }

    fn detach(&mut self, detach: &Detach) -> Result<Changing, WorldError> {
        self.hosted.detach(detach)
    }

    fn finish(&mut self, report: OwnedFd) -> Result<(), WorldError> {
        self.hosted.finish(report)
    }

    fn place(&self, root: &RootName, purpose: Purpose) -> Result<Place<'_>, WorldError> {
        let holds = |crowd: &&Crowd| crowd.hold.load(Ordering::SeqCst);
        let group = self.crowd.as_ref().filter(holds).map(|crowd| crowd.full.as_fd());
        Ok(Place { group, ..self.hosted.place(root, purpose)? })
    }

    fn init_started(&mut self, root: &RootName, pid: Pid, pidfd: BorrowedFd<'_>) {
        self.hosted.init_started(root, pid, pidfd);
    }

    fn sync(&mut self) -> io::Result<Option<OwnedFd>> {
        self.hosted.sync()
    }

    fn reconnects(&self) -> bool {
        match &self.door {
            Some(door) => {
                // Nobody listens in most of the tests.
                let _ = door.gone.send(());
                true
            }
            None => self.hosted.reconnects(),
        }
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.door.as_ref().map(|door| door.listener.as_fd())
    }

    fn accept(&mut self) -> io::Result<Option<OwnedFd>> {
        match self.door.as_ref().map(|door| door.listener.accept()) {
            Some(Ok((stream, _))) => Ok(Some(stream.into())),
            Some(Err(e)) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            Some(Err(_)) | None => Ok(None),
        }
    }
}
