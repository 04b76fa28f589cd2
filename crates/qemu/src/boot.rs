//! Starting a machine: the processes, then the way to a running guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use vmette_cache::sparse;
use vmette_spawn::{Child, Command};
use vmette_vmm::console::LastLines;
use vmette_vmm::{Console, ControlStream, Error, MachineEnd, MachineSpec, Network, Origin, Result, Slot};

use crate::args::{self, Fds};
use crate::devices::{Devices, Present, name_image};
use crate::locate::Programs;
use crate::memory;
use crate::plan::{Plan, Plugged};
use crate::qmp::{self, Qmp, QmpError, failed};
use crate::servers;
use crate::snapshot::Snapshot;
use crate::transfer::Transfer;

/// Time for the loading of a device state.
const RESTORE_LIMIT: Duration = Duration::from_secs(60);

/// Everything that was decided and checked before a machine starts.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) binary: PathBuf,
    pub(crate) programs: Programs,
    pub(crate) fingerprint: String,
    pub(crate) spec: MachineSpec,
    pub(crate) plan: Plan,
    pub(crate) snapshot: Option<Snapshot>,
}

/// A machine's processes and the connections to them.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) qmp: Qmp,
    /// Present when writes to it are the guest's memory; a private copy cannot be read from here.
    pub(crate) memory: Option<File>,
    pub(crate) fingerprint: String,
    pub(crate) devices: Devices,
    pub(crate) console: Arc<LastLines>,
    /// Lines that QEMU and the servers of its first devices printed.
    pub(crate) complaints: Arc<LastLines>,
    pub(crate) qemu: Child,
    /// The machine's end, where it is known better here than from the way that QEMU ended.
    pub(crate) verdict: Slot<MachineEnd>,
    restore: Mutex<Option<Restore>>,
}

/// The work that is left once QEMU answers.
#[derive(Debug)]
struct Restore {
    folder: PathBuf,
    state: File,
    /// Fills the machine's own memory while QEMU starts.
    copy: Option<JoinHandle<io::Result<()>>>,
    later: Vec<Plugged>,
}

/// A machine's memory: the descriptor for QEMU, and for us if we may look at it.
struct Memory {
    fd: OwnedFd,
    own: Option<File>,
    copy: Option<JoinHandle<io::Result<()>>>,
}

/// Starts the processes. QEMU runs when this returns, but may not have looked at its arguments yet.
pub(crate) fn spawn(prepared: Prepared) -> Result<(Running, ControlStream)> {
    let Prepared { binary, programs, fingerprint, spec, plan, snapshot } = prepared;
    let (agent, agent_end) = pair()?;
    let (qmp, qmp_end) = pair()?;
    let (console, console_end) = pair()?;
    let (errors, errors_end) = io::pipe().map_err(Error::io("create a pipe"))?;
    let errors_end = OwnedFd::from(errors_end);
    let complaints = LastLines::follow("complaints", errors, None)?;

    let mut connections = Vec::new();
    let mut present = Vec::new();
    for plugged in plan.devices() {
        let started = servers::start(&programs, &plugged.device, || {
            let stderr = errors_end.try_clone().map_err(Error::io("duplicate a pipe"))?;
            Ok((stderr, complaints.clone()))
        })?;
        let (mut server, mut vsock) = (None, None);
        if let Some(started) = started {
            connections.push((plugged.backend(), started.connection));
            (server, vsock) = (Some(started.server), started.vsock);
        }
        present.push(Present { plugged: plugged.clone(), server, vsock });
    }
    let frames = match &spec.network {
        Network::Frames(frames) => Some(frames.socket.try_clone().map_err(Error::io("duplicate a socket"))?),
        Network::None | Network::Nat => None,
    };
    let memory = memory_for(&spec, snapshot.as_ref())?;
    let memory_shared = memory.own.is_some();
    let fds = Fds {
        memory: memory.fd.as_raw_fd(),
        memory_shared,
        agent: agent_end.as_raw_fd(),
        console: console_end.as_raw_fd(),
        qmp: qmp_end.as_raw_fd(),
        servers: connections.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
        network: frames.as_ref().map(AsRawFd::as_raw_fd),
    };
    let has_network = plan.network.is_some();
    // A QEMU that was named may be a script.
    let mut command = Command::new(binary).pass_on(&["PATH"]).args(args::build(&plan, &fds));
    let inherited = [memory.fd, agent_end, console_end, qmp_end].into_iter();
    for fd in inherited.chain(connections.into_iter().map(|(_, connection)| connection)).chain(frames) {
        command = command.inherit(fd);
    }
    let stdout = errors_end.try_clone().map_err(Error::io("duplicate a pipe"))?;
    let qemu = command.stdout(stdout).stderr(errors_end).spawn().map_err(Error::io("start QEMU"))?;

    let copy = match &spec.console {
        Console::Discard => None,
        Console::File(file) => Some(file.clone()),
    };
    let console = LastLines::follow("console", UnixStream::from(console), copy)?;
    let qmp = Qmp::new(UnixStream::from(qmp)).map_err(Error::io("connect to QEMU"))?;
    let restore = match (snapshot, spec.origin) {
        (Some(snapshot), Origin::Saved(saved)) => Some(Restore {
            folder: saved.folder,
            state: snapshot.state,
            copy: memory.copy,
            later: plan.later,
        }),
        _ => None,
    };
    let running = Running {
        qmp,
        memory: memory.own,
        fingerprint,
        devices: Devices::new(programs, plan.ports, present, has_network, memory_shared),
        console,
        complaints,
        qemu,
        verdict: Slot::new(),
        restore: Mutex::new(restore),
    };
    Ok((running, UnixStream::from(agent)))
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::io("create a socket pair"))?;
    Ok((ours.into(), theirs.into()))
}

/// Memory of one of three kinds: new and empty; the saved one, copied on write; a copy of the saved one, because servers
/// and the saving of the machine reach the guest's memory through the descriptor and would see the saved one otherwise.
fn memory_for(spec: &MachineSpec, snapshot: Option<&Snapshot>) -> Result<Memory> {
    let saved = snapshot.map(|snapshot| snapshot.memory.try_clone()).transpose();
    let saved = saved.map_err(Error::io("duplicate a descriptor"))?;
    match saved {
        Some(saved) if spec.shares.is_empty() && !spec.vsock && !spec.savable => {
            Ok(Memory { fd: saved.into(), own: None, copy: None })
        }
        saved => {
            let fd =
                memory::anonymous(spec.memory_mib << 20).map_err(Error::io("create the guest's memory"))?;
            let own = File::from(fd.try_clone().map_err(Error::io("duplicate a descriptor"))?);
            let target = own.try_clone().map_err(Error::io("duplicate a descriptor"))?;
            let copy = saved.map(|saved| {
                let fill = move || sparse::copy(&saved, &target, || Ok(()));
                thread::Builder::new().name("copy-memory".into()).spawn(fill)
            });
            let copy = copy.transpose().map_err(Error::io("start a thread"))?;
            Ok(Memory { fd, own: Some(own), copy })
        }
    }
}

impl Running {
    /// Waits for QEMU, restores the saved state if there is one, and lets the guest run.
    pub(crate) fn bring_up(&self) -> Result<()> {
        let restore = self.restore.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(restore) = restore else {
            return self.qmp.execute("qmp_capabilities", Value::Null).map(drop).map_err(failed);
        };
        let later = self.load(restore)?;
        // A server that does not serve says why on its standard error.
        self.plug_and_run(&later).map_err(|e| match failed(e) {
            Error::Machine(message) => Error::Machine(message + &self.complaints.tail()),
            error => error,
        })
    }

    /// Loads the state. The commands are under way before QEMU reads the first of them. [`Error::Snapshot`] is QEMU's
    /// verdict on the state and nothing else: trouble that may be the host's is reported as such.
    fn load(&self, restore: Restore) -> Result<Vec<Plugged>> {
        let Restore { folder, state, copy, later } = restore;
        let qmp = &self.qmp;
        let mut transfer = Transfer::from_file(&state).map_err(Error::io("load a saved state"))?;
        let mut sent = vec![
            qmp.send("qmp_capabilities", Value::Null).map_err(failed)?,
            qmp.send("migrate-set-capabilities", qmp::capabilities()).map_err(failed)?,
            qmp.send_fd("state", transfer.end()).map_err(failed)?,
        ];
        transfer.handed_over();
        if let Some(copy) = copy {
            // The devices look into the guest's memory while their state is loaded, so it must be complete by then.
            let copied = copy.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
            copied.map_err(Error::io("copy the saved memory"))?;
        }
        let load = qmp.send("migrate-incoming", json!({ "uri": "fd:state" })).map_err(failed)?;
        for sent in sent.drain(..) {
            qmp.wait(sent).map_err(failed)?;
        }
        let loaded = qmp.wait(load).and_then(|_| {
            qmp.wait_event("MIGRATION", RESTORE_LIMIT, |event| match event["status"].as_str() {
                Some("completed") => Some(true),
                Some("failed") => Some(false),
                _ => None,
            })
        });
        let error = match loaded {
            // What QEMU has read is whole: the state says itself where it ends.
            Ok(true) => return Ok(later),
            Ok(false) => QmpError::Broken("the state does not load".into()),
            Err(e) => e,
        };
        transfer.stop().map_err(Error::io("read a saved state"))?;
        Err(self.restore_failure(folder, error))
    }

    /// QEMU says on its standard error why it does not load a state, and exits, or dies of it.
    fn restore_failure(&self, folder: PathBuf, error: QmpError) -> Error {
        const LAST_WORDS: Duration = Duration::from_secs(2);
        if self.verdict.get().is_some() || matches!(error, QmpError::Timeout { .. }) {
            return failed(error);
        }
        let status = self.qemu.exit().wait_until(std::time::Instant::now() + LAST_WORDS);
        // Somebody has killed it: as a rule the kernel, for want of memory.
        if status.is_some_and(|status| status.signal() == Some(libc::SIGKILL)) {
            return failed(error);
        }
        let reason = format!("it cannot be restored: {error}{}", self.complaints.tail());
        Error::Snapshot { path: folder, reason }
    }

    fn plug_and_run(&self, later: &[Plugged]) -> std::result::Result<(), QmpError> {
        let mut sent = Vec::new();
        for plugged in later {
            if let Some(blockdev) = plugged.blockdev() {
                sent.push((plugged, self.qmp.send("blockdev-add", blockdev)?));
            }
            sent.push((plugged, self.qmp.send("device_add", plugged.front())?));
        }
        for (plugged, sent) in sent {
            self.qmp.wait(sent).map_err(|error| name_image(error, plugged))?;
        }
        self.qmp.execute("cont", Value::Null).map(drop)
    }
}
