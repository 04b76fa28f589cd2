//! A machine, as the seam has it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use vmette_vmm::console::LastLines;
use vmette_vmm::{
    Console, ControlStream, Device, DeviceId, Error, Machine, MachineEnd, MachineSpec, Result, SavedState,
    Slot, VsockListener, VsockStream, checks,
};

use crate::ENGINE;
use crate::config::Plan;
use crate::confined::{Confined, Queue};
use crate::objects::{Change, Objects};
use crate::running::{Running, STOP_LIMIT, refused};
use crate::snapshot::{Snapshot, state_in};
use crate::vsock::{AGENT_PORT, BACKLOG};

/// Time for VZ to look at a configuration and to make objects of it; its service may have to start.
const SETUP_LIMIT: Duration = Duration::from_secs(30);

/// The reason why devices neither come nor go.
const NO_HOT_PLUG: &str = "a machine has all its devices from its start";

/// Everything that was decided and checked before a machine is made.
pub(crate) struct Prepared {
    pub(crate) spec: MachineSpec,
    /// The image behind the rootfs's device.
    pub(crate) rootfs: PathBuf,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) fingerprint: String,
    /// The reason why this machine cannot be saved, where one is known.
    pub(crate) no_snapshots: Option<String>,
}

pub(crate) struct VzMachine {
    phase: Mutex<Phase>,
    snapshot: Option<Snapshot>,
    fingerprint: String,
    no_snapshots: Option<String>,
    has_vsock: bool,
    running: Arc<Running>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Created,
    Started,
    /// It was stopped before it was started.
    Over,
}

impl VzMachine {
    pub(crate) fn new(prepared: Prepared) -> Result<Self> {
        let Prepared { spec, rootfs, snapshot, fingerprint, no_snapshots } = prepared;
        let (reader, writer) = io::pipe().map_err(Error::io("create a pipe"))?;
        let copy = match &spec.console {
            Console::Discard => None,
            Console::File(file) => Some(file.clone()),
        };
        let console = LastLines::follow("console", reader, copy)?;
        let has_vsock = spec.vsock;
        let identifier = snapshot.as_ref().map(|snapshot| snapshot.identifier.clone());
        let plan = Plan { spec, rootfs, console: OwnedFd::from(writer), identifier };
        let verdict = Arc::new(Slot::new());
        let queue = Queue::new("vmette.machine", verdict.clone());
        let (on, told) = (queue.clone(), verdict.clone());
        let objects = Confined::new(queue, SETUP_LIMIT, move || Objects::new(plan, &on, told))?;
        let running = Arc::new(Running::new(objects, console, verdict));
        Ok(Self {
            phase: Mutex::new(Phase::Created),
            snapshot,
            fingerprint,
            no_snapshots,
            has_vsock,
            running,
        })
    }

    /// Under the lock, so that a `stop` of another thread comes before or after it.
    fn enter_started(&self) -> Result<()> {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase != Phase::Created {
            return Err(Error::Machine("the machine was started or stopped before".into()));
        }
        let running = self.running.clone();
        thread::Builder::new()
            .name("machine-end".into())
            .spawn(move || running.watch())
            .map_err(Error::io("start a thread"))?;
        *phase = Phase::Started;
        Ok(())
    }

    fn check_running(&self) -> Result<()> {
        let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.running.verdict.get(), phase) {
            (Some(MachineEnd::Failed(cause)), _) => Err(Error::Machine(cause)),
            (Some(MachineEnd::PoweredOff), _) => Err(Error::Machine("the guest has powered off".into())),
            (Some(MachineEnd::Stopped), _) | (None, Phase::Over) => {
                Err(Error::Machine("the machine was stopped".into()))
            }
            (None, Phase::Created) => Err(Error::Machine("the machine was not started".into())),
            (None, Phase::Started) => Ok(()),
        }
    }

    fn check_vsock(&self) -> Result<()> {
        if self.has_vsock {
            return self.check_running();
        }
        Err(unsupported("vsock", "the machine was made without a vsock device".into()))
    }

    /// Returns the machine's identity, if VZ can save it.
    fn check_saveable(&self) -> Result<Vec<u8>> {
        if let Some(reason) = &self.no_snapshots {
            return Err(unsupported("save", reason.clone()));
        }
        let answer = self.ask(|objects| objects.check_saveable().map(|()| objects.identifier.clone()))?;
        answer.map_err(|failure| unsupported("save", failure.text().into()))
    }

    /// Asks something on the machine's queue.
    fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut Objects) -> T + Send + 'static) -> Result<T> {
        let (sender, answer) = sync_channel(1);
        self.running.objects.with(move |objects| drop(sender.try_send(question(objects))));
        answer.recv_timeout(STOP_LIMIT).map_err(|e| match e {
            RecvTimeoutError::Timeout => {
                Error::Timeout { operation: "asking a machine", seconds: STOP_LIMIT.as_secs() }
            }
            RecvTimeoutError::Disconnected => Error::Machine("the machine has ended".into()),
        })
    }
}

fn unsupported(operation: &'static str, reason: String) -> Error {
    Error::Unsupported { engine: ENGINE, operation, reason }
}

impl Machine for VzMachine {
    fn start(&self) -> Result<ControlStream> {
        self.enter_started()?;
        let up = match &self.snapshot {
            None => self.running.boot(),
            Some(snapshot) => self.running.restore(snapshot),
        };
        let error = match up {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        // Whoever has set the verdict before knows the cause better.
        let first = self.running.verdict.set(MachineEnd::Failed(error.to_string()));
        match (first, self.running.wait_end()) {
            (false, Some(MachineEnd::Failed(cause))) => Err(Error::Machine(cause)),
            (false, Some(MachineEnd::PoweredOff)) => {
                Err(Error::Machine("the guest powered off before its agent had connected".into()))
            }
            (false, Some(MachineEnd::Stopped)) => {
                Err(Error::Machine("the machine was stopped while it started".into()))
            }
            _ => Err(error),
        }
    }

    fn pause(&self) -> Result<()> {
        self.check_running()?;
        self.running.change(Change::Pause)
    }

    fn resume(&self) -> Result<()> {
        self.check_running()?;
        self.running.change(Change::Resume)
    }

    fn save(&self, folder: &Path) -> Result<SavedState> {
        self.check_running()?;
        let identity = self.check_saveable()?;
        let folder = std::path::absolute(folder).map_err(Error::io("make a path absolute"))?;
        self.running.change(Change::Save(state_in(&folder)))?;
        Ok(SavedState { fingerprint: self.fingerprint.clone(), disks: BTreeMap::new(), identity })
    }

    fn attach(&self, _device: Device) -> Result<DeviceId> {
        Err(unsupported("attaching a device", NO_HOT_PLUG.into()))
    }

    fn detach(&self, _id: &DeviceId) -> Result<()> {
        Err(unsupported("detaching a device", NO_HOT_PLUG.into()))
    }

    fn vsock_listen(&self, port: u32) -> Result<VsockListener> {
        self.check_vsock()?;
        checks::vsock_port(port)?;
        let incoming = match port {
            AGENT_PORT => None,
            _ => self.ask(move |objects| objects.ports.open(port, BACKLOG))?,
        };
        let incoming = incoming.ok_or_else(|| {
            let taken = format!("port {port} is open in this machine already");
            Error::io("listen on a vsock port")(io::Error::new(ErrorKind::AddrInUse, taken))
        })?;
        let open = OpenPort { running: Arc::downgrade(&self.running), port };
        Ok(VsockListener::new(port, incoming, open))
    }

    fn vsock_connect(&self, port: u32) -> Result<VsockStream> {
        self.check_vsock()?;
        checks::vsock_port(port)?;
        if port == AGENT_PORT {
            // Whoever connects there is the next host, and the session would be theirs.
            return Err(refused(port, "it is the agent's"));
        }
        self.running.connect(port)
    }

    fn stop(&self) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        self.running.verdict.set(MachineEnd::Stopped);
        match *phase {
            Phase::Created => {
                *phase = Phase::Over;
                self.running.objects.close(STOP_LIMIT);
                self.running.end.set(MachineEnd::Stopped);
            }
            Phase::Started => {
                drop(phase);
                // A machine that does not end in time is VZ's, and nothing more can be done about it.
                let _ = self.running.wait_end();
            }
            Phase::Over => {}
        }
    }

    fn end(&self) -> Arc<Slot<MachineEnd>> {
        self.running.end.clone()
    }

    fn processes(&self) -> Vec<u32> {
        // VZ runs each machine in a process of the system's, and does not say which.
        Vec::new()
    }
}

impl Drop for VzMachine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Closes a port of the host when it is dropped.
struct OpenPort {
    running: Weak<Running>,
    port: u32,
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        let port = self.port;
        if let Some(running) = self.running.upgrade() {
            running.objects.with(move |objects| objects.ports.close(port));
        }
    }
}

#[cfg(all(test, not(target_vendor = "apple")))]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn an_end_before_the_start_has_begun_waits_for_nothing() {
        // Whoever ends the machine looks before the start does, and after it.
        for looked in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let file = |name| dir.path().join(name);
            for name in ["kernel", "initramfs", "image"] {
                std::fs::write(file(name), vec![0; 4096]).unwrap();
            }
            let machine = VzMachine::new(Prepared {
                spec: MachineSpec::new(file("kernel"), file("initramfs")),
                rootfs: file("image"),
                snapshot: None,
                fingerprint: String::new(),
                no_snapshots: None,
            })
            .unwrap();
            machine.running.verdict.set(MachineEnd::Stopped);
            if looked {
                machine.running.change(Change::Start).unwrap_err();
            }
            let ended = Instant::now();
            machine.enter_started().unwrap();
            assert_eq!(machine.running.wait_end(), Some(MachineEnd::Stopped));
            assert!(ended.elapsed() < STOP_LIMIT, "looked: {looked}");
        }
    }
}
