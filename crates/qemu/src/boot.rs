//! Starting a machine: the processes, then the way to a running guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use vmette_vmm::console::LastLines;
use vmette_vmm::{Console, ControlStream, Error, MachineEnd, MachineSpec, Result, Slot};

use crate::ENGINE;
use crate::args::{self, Fds};
use crate::memory;
use crate::plan::{Plan, Plugged};
use crate::process::{Process, Spawn, number};
use crate::qmp::{Qmp, QmpError};
use crate::share;
use crate::shares::Shares;
use crate::snapshot::Snapshot;
use crate::vsock::{self, Vsock};

/// How long the loading of a device state may take.
const RESTORE_LIMIT: Duration = Duration::from_secs(60);

/// Everything that was decided and checked before a machine starts.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) binary: PathBuf,
    /// Named when there are shares.
    pub(crate) share_server: Option<PathBuf>,
    /// Named when there is vsock.
    pub(crate) vsock_server: Option<PathBuf>,
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
    /// Serial numbers of its disks, in the order of their ports.
    pub(crate) disks: Vec<String>,
    /// The devices of its shares.
    pub(crate) shares: Shares,
    pub(crate) console: Arc<LastLines>,
    /// What QEMU and the servers printed.
    pub(crate) complaints: Arc<LastLines>,
    pub(crate) servers: Vec<Process>,
    /// What they serve, in the same order.
    pub(crate) served: Vec<String>,
    pub(crate) vsock: Option<Vsock>,
    pub(crate) qemu: Process,
    /// How the machine ended, where that is known better here than from the way that QEMU ended.
    pub(crate) verdict: Slot<MachineEnd>,
    restore: Mutex<Option<Restore>>,
}

/// What is to be restored once QEMU answers.
#[derive(Debug)]
struct Restore {
    dir: PathBuf,
    state: File,
    /// Fills the machine's own memory while QEMU starts.
    copy: Option<JoinHandle<io::Result<()>>>,
    plugged: Vec<Plugged>,
}

/// A machine's memory: the descriptor for QEMU, and for us if we may look at it.
struct Memory {
    fd: OwnedFd,
    own: Option<File>,
    copy: Option<JoinHandle<io::Result<()>>>,
}

/// Starts the processes. QEMU runs when this returns, but may not have looked at its arguments yet.
pub(crate) fn spawn(prepared: Prepared) -> Result<(Running, ControlStream)> {
    let Prepared { binary, share_server, vsock_server, fingerprint, spec, plan, snapshot } = prepared;
    let (agent, agent_end) = pair()?;
    let (qmp, qmp_end) = pair()?;
    let (console, console_end) = pair()?;
    let (errors, errors_end) = io::pipe().map_err(Error::io("create a pipe"))?;
    let errors_end = OwnedFd::from(errors_end);

    let mut servers = Vec::new();
    let mut connections = Vec::new();
    if let Some(program) = &share_server {
        for share in &spec.shares {
            let stderr = errors_end.try_clone().map_err(Error::io("duplicate a pipe"))?;
            let served = share::serve(program, share, stderr)?;
            servers.push(served.server);
            connections.push(served.connection);
        }
    }
    let mut served: Vec<String> = spec.shares.iter().map(|share| format!("share {}", share.tag)).collect();
    let mut vsock = None;
    let mut vsock_fd = None;
    if let Some(program) = vsock_server {
        let stderr = errors_end.try_clone().map_err(Error::io("duplicate a pipe"))?;
        let device = vsock::serve(&program, stderr)?;
        servers.push(device.server);
        served.push("the vsock device".into());
        vsock_fd = Some(number(&device.connection));
        connections.push(device.connection);
        vsock = Some(device.vsock);
    }
    let memory = memory_for(&spec, snapshot.as_ref())?;
    let fds = Fds {
        memory: number(&memory.fd),
        memory_shared: memory.own.is_some(),
        agent: number(&agent_end),
        console: number(&console_end),
        qmp: number(&qmp_end),
        shares: connections.iter().take(spec.shares.len()).map(number).collect(),
        vsock: vsock_fd,
    };
    let mut inherit = vec![memory.fd, agent_end, console_end, qmp_end];
    inherit.append(&mut connections);
    let args = args::build(&plan, &fds);
    let qemu = Process::spawn(Spawn {
        program: binary,
        args,
        inherit,
        stdin: None,
        stdout: Some(errors_end.try_clone().map_err(Error::io("duplicate a pipe"))?),
        stderr: Some(errors_end),
    })
    .map_err(Error::io("start QEMU"))?;

    let copy = match &spec.console {
        Console::Discard => None,
        Console::File(file) => Some(file.clone()),
    };
    let console = LastLines::follow("console", UnixStream::from(console), copy)?;
    let complaints = LastLines::follow("complaints", errors, None)?;
    let qmp = Qmp::new(UnixStream::from(qmp)).map_err(Error::io("connect to QEMU"))?;
    let restore = snapshot.map(|snapshot| Restore {
        dir: snapshot.dir,
        state: snapshot.state,
        copy: memory.copy,
        plugged: plan.devices().1.cloned().collect(),
    });
    let running = Running {
        qmp,
        memory: memory.own,
        fingerprint,
        disks: spec.disks.into_iter().map(|disk| disk.serial).collect(),
        shares: Shares::new(share_server, spec.shares, plan.shares),
        console,
        complaints,
        servers,
        served,
        vsock,
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

/// Three kinds: new and empty; the saved one, copied on write; a copy of the saved one, because servers, and who saves
/// the machine, reach the guest's memory through the descriptor and would see the saved one otherwise.
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
                let fill = move || memory::copy_data(&saved, &target);
                thread::Builder::new().name("copy-memory".into()).spawn(fill)
            });
            let copy = copy.transpose().map_err(Error::io("start a thread"))?;
            Ok(Memory { fd, own: Some(own), copy })
        }
    }
}

impl Running {
    /// The machine's vsock device.
    pub(crate) fn vsock(&self) -> Result<&Vsock> {
        self.vsock.as_ref().ok_or_else(|| Error::Unsupported {
            engine: ENGINE,
            operation: "vsock",
            reason: "this machine was started without a vsock device".into(),
        })
    }

    /// Waits for QEMU, restores what is to be restored, and lets the guest run.
    pub(crate) fn bring_up(&self) -> Result<()> {
        let restore = self.restore.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(restore) = restore else {
            return self.qmp.execute("qmp_capabilities", Value::Null).map(drop).map_err(failed);
        };
        let plugged = self.load(restore)?;
        // Why a server does not serve is on its standard error.
        self.plug_and_run(&plugged).map_err(|e| match failed(e) {
            Error::Machine(message) => Error::Machine(message + &self.complaints.tail()),
            error => error,
        })
    }

    /// Loads the state. The commands are under way before QEMU reads the first of them. [`Error::Snapshot`] is QEMU's
    /// verdict on the state and nothing else: what may be the host's trouble is told as such.
    fn load(&self, restore: Restore) -> Result<Vec<Plugged>> {
        let Restore { dir, state, copy, plugged } = restore;
        let qmp = &self.qmp;
        let mut sent = vec![
            qmp.send("qmp_capabilities", Value::Null).map_err(failed)?,
            qmp.send("migrate-set-capabilities", capabilities()).map_err(failed)?,
            qmp.send_fd("state", state.as_fd()).map_err(failed)?,
        ];
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
        match loaded {
            Ok(true) => Ok(plugged),
            Ok(false) => Err(self.restore_failure(dir, QmpError::Broken("the state does not load".into()))),
            Err(e) => Err(self.restore_failure(dir, e)),
        }
    }

    /// QEMU says on its standard error why it does not load a state, and exits, or dies of it.
    fn restore_failure(&self, dir: PathBuf, error: QmpError) -> Error {
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
        Error::Snapshot { path: dir, reason }
    }

    fn plug_and_run(&self, plugged: &[Plugged]) -> std::result::Result<(), QmpError> {
        let mut sent = Vec::new();
        for part in plugged {
            if let Some(blockdev) = &part.blockdev {
                sent.push((part, self.qmp.send("blockdev-add", blockdev.clone())?));
            }
            sent.push((part, self.qmp.send("device_add", part.device.clone())?));
        }
        for (part, sent) in sent {
            self.qmp.wait(sent).map_err(|error| name_image(error, part))?;
        }
        self.qmp.execute("cont", Value::Null).map(drop)
    }
}

/// QEMU refuses an image that another machine writes to without saying which image.
fn name_image(error: QmpError, part: &Plugged) -> QmpError {
    let path = part.blockdev.as_ref().and_then(|blockdev| blockdev["file"]["filename"].as_str());
    match (error, path) {
        (QmpError::Refused { command, message }, Some(path)) => {
            let message = format!("{message} (disk image {path}; is another machine using it?)");
            QmpError::Refused { command, message }
        }
        (error, _) => error,
    }
}

/// Shared memory stays out of the state, the events tell when it is written or read.
pub(crate) fn capabilities() -> Value {
    json!({ "capabilities": [
        { "capability": "x-ignore-shared", "state": true },
        { "capability": "events", "state": true },
    ] })
}

/// An error of QEMU's at a time when nothing but the machine is affected.
pub(crate) fn failed(error: QmpError) -> Error {
    match error {
        QmpError::Timeout { command, limit } => {
            Error::Timeout { operation: command, seconds: limit.as_secs() }
        }
        error => Error::Machine(error.to_string()),
    }
}
