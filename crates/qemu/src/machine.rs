//! A machine from its making to its end.

use std::fs;
use std::io;
use std::mem;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmette_vmm::{
    ControlStream, Device, DeviceId, Error, Machine, MachineEnd, Result, SavedState, Slot, VsockListener,
    VsockStream, checks,
};

use crate::boot::{self, Prepared, Running};
use crate::qmp::failed;
use crate::save;
use crate::servers::Server;

/// Time to wait for the last words of a process that has ended: they are in a buffer already.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Time for the servers to notice that their machine is gone: one may hang in a file system of the host's that does not
/// answer.
const SERVERS_LIMIT: Duration = Duration::from_secs(1);

pub(crate) struct QemuMachine {
    phase: Mutex<Phase>,
    end: Arc<Slot<MachineEnd>>,
}

enum Phase {
    Created(Box<Prepared>),
    Running(Arc<Running>),
    /// It never got as far as to have processes.
    Over,
}

impl QemuMachine {
    pub(crate) fn new(prepared: Prepared) -> Self {
        Self { phase: Mutex::new(Phase::Created(Box::new(prepared))), end: Arc::new(Slot::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Result<Arc<Running>> {
        match (&*self.lock(), self.end.get()) {
            (_, Some(end)) => Err(Error::Machine(format!("the machine has ended: {}", describe(&end)))),
            (Phase::Running(running), None) => Ok(running.clone()),
            _ => Err(Error::Machine("the machine was not started".into())),
        }
    }

    /// Starts the processes, under the lock, so that a `stop` of another thread comes before or after them.
    fn spawn(&self) -> Result<(Arc<Running>, ControlStream)> {
        let mut phase = self.lock();
        let prepared = match mem::replace(&mut *phase, Phase::Over) {
            Phase::Created(prepared) => prepared,
            other => {
                *phase = other;
                return Err(Error::Machine("the machine was started or stopped before".into()));
            }
        };
        let spawned = boot::spawn(*prepared).and_then(|(running, stream)| {
            let running = Arc::new(running);
            look_after(&running, &self.end, |name, watch| {
                thread::Builder::new().name(name.into()).spawn(watch).map(drop)
            })
            .map_err(Error::io("start a thread"))?;
            Ok((running, stream))
        });
        match spawned {
            Ok((running, stream)) => {
                *phase = Phase::Running(running.clone());
                Ok((running, stream))
            }
            Err(error) => {
                self.end.set(MachineEnd::Failed(error.to_string()));
                Err(error)
            }
        }
    }
}

impl Machine for QemuMachine {
    fn start(&self) -> Result<ControlStream> {
        let (running, stream) = self.spawn()?;
        let Err(error) = running.bring_up() else { return Ok(stream) };
        // When QEMU ended by itself its own words are the cause, not the connection that broke.
        let own_end = self.end.wait_until(Instant::now() + LAST_WORDS / 4);
        running.verdict.set(MachineEnd::Failed(error.to_string()));
        running.qemu.kill();
        self.end.wait();
        Err(match (error, own_end) {
            (error @ Error::Snapshot { .. }, _) => error,
            (_, Some(MachineEnd::Failed(cause))) => Error::Machine(cause),
            (_, Some(MachineEnd::Stopped)) => {
                Error::Machine("the machine was stopped while it started".into())
            }
            (error, _) => error,
        })
    }

    fn pause(&self) -> Result<()> {
        self.running()?.qmp.execute("stop", Value::Null).map(drop).map_err(failed)
    }

    fn resume(&self) -> Result<()> {
        self.running()?.qmp.execute("cont", Value::Null).map(drop).map_err(failed)
    }

    fn save(&self, folder: &Path) -> Result<SavedState> {
        save::save(&*self.running()?, folder)
    }

    fn attach(&self, device: Device) -> Result<DeviceId> {
        let device = checks::checked_device(device)?;
        let id = device.id();
        let running = self.running()?;
        if let Some(server) = running.devices.attach(&running.qmp, device)? {
            look_after_server(&running, &server, |watch| {
                thread::Builder::new().name("machine-server".into()).spawn(watch).map(drop)
            })
            .map_err(Error::io("start a thread"))?;
        }
        Ok(id)
    }

    fn detach(&self, id: &DeviceId) -> Result<()> {
        let running = self.running()?;
        running.devices.detach(&running.qmp, id)
    }

    fn vsock_listen(&self, port: u32) -> Result<VsockListener> {
        self.running()?.devices.vsock()?.listen(port)
    }

    fn vsock_connect(&self, port: u32) -> Result<VsockStream> {
        self.running()?.devices.vsock()?.connect(port)
    }

    fn stop(&self) {
        let mut phase = self.lock();
        if let Phase::Running(running) = &*phase {
            let running = running.clone();
            drop(phase);
            running.verdict.set(MachineEnd::Stopped);
            running.qemu.kill();
            self.end.wait();
        } else {
            *phase = Phase::Over;
            self.end.set(MachineEnd::Stopped);
        }
    }

    fn end(&self) -> Arc<Slot<MachineEnd>> {
        self.end.clone()
    }

    fn processes(&self) -> Vec<u32> {
        let Ok(running) = self.running() else { return Vec::new() };
        let servers = running.devices.servers();
        let own =
            std::iter::once(running.qemu.pid()).chain(servers.iter().map(|server| server.process.pid()));
        own.flat_map(|pid| std::iter::once(pid).chain(children(pid))).collect()
    }
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A share server is two processes, one that waits and one in the namespaces that serves.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Starts the threads that wait for the processes' ends. The one that owns the machine comes last: when one cannot be
/// started, the processes end with the caller's handle on them.
fn look_after(
    running: &Arc<Running>,
    end: &Arc<Slot<MachineEnd>>,
    mut start_thread: impl FnMut(&str, Box<dyn FnOnce() + Send>) -> io::Result<()>,
) -> io::Result<()> {
    for server in running.devices.servers() {
        look_after_server(running, &server, |watch| start_thread("machine-server", watch))?;
    }
    let (watched, end) = (running.clone(), end.clone());
    start_thread("machine-end", Box::new(move || watch(watched, &end)))
}

fn look_after_server(
    running: &Arc<Running>,
    server: &Arc<Server>,
    start_thread: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>,
) -> io::Result<()> {
    let (watched, exit) = (Arc::downgrade(running), server.process.exit());
    let server = Arc::downgrade(server);
    start_thread(Box::new(move || watch_server(&watched, &server, &exit)))
}

/// Waits for QEMU's end, ends its servers, and reports the machine's end.
fn watch(running: Arc<Running>, end: &Slot<MachineEnd>) {
    let status = running.qemu.exit().wait();
    // The servers end with their connection to QEMU. Each is two processes, and killing the one that is known here would
    // leave the other to die a moment later, when nobody looks any more.
    let deadline = Instant::now() + SERVERS_LIMIT;
    running.devices.end_servers(deadline);
    let how = running.verdict.get().unwrap_or_else(|| classify(&running, status));
    // Its connections and threads go with it, unless someone is in the middle of a call.
    drop(running);
    end.set(how);
}

/// A guest whose server is gone would wait for its answers for ever: the machine ends with the server.
fn watch_server(running: &Weak<Running>, server: &Weak<Server>, exit: &Slot<ExitStatus>) {
    let status = exit.wait();
    let (Some(running), Some(server)) = (running.upgrade(), server.upgrade()) else { return };
    // As a rule the server ends because QEMU has ended, which is known a moment later.
    if !running.devices.need(&server) || running.qemu.exit().wait_until(Instant::now() + LAST_WORDS).is_some()
    {
        return;
    }
    let complaints = server.complaints.tail();
    running
        .verdict
        .set(MachineEnd::Failed(format!("the server of {} ended ({status}){complaints}", server.of)));
    running.qemu.kill();
}

/// Explains the end of a QEMU that nobody here has ended.
fn classify(running: &Running, status: ExitStatus) -> MachineEnd {
    running.console.wait_closed(LAST_WORDS);
    running.complaints.wait_closed(LAST_WORDS);
    let complaints = running.complaints.tail();
    let console = match running.console.tail() {
        lines if lines.is_empty() => lines,
        lines => format!("\nlast lines of the guest's console:{lines}"),
    };
    if let Some(signal) = status.signal() {
        return MachineEnd::Failed(format!("QEMU was killed by signal {signal}{complaints}{console}"));
    }
    if !status.success() {
        let code = status.code().unwrap_or_default();
        return MachineEnd::Failed(format!("QEMU failed with exit code {code}{complaints}{console}"));
    }
    // The event was read before the connection ended, or there is none.
    let shutdown = running.qmp.wait_event("SHUTDOWN", LAST_WORDS, |event| Some(event["reason"].clone()));
    if shutdown.is_ok_and(|reason| reason == "host-signal") {
        return MachineEnd::Failed(format!("QEMU was told to end by a signal{complaints}"));
    }
    match running.console.panic() {
        Some(line) => MachineEnd::Failed(format!("the guest's kernel gave up: {line}{console}")),
        None => MachineEnd::PoweredOff,
    }
}

fn describe(end: &MachineEnd) -> &str {
    match end {
        MachineEnd::Stopped => "it was stopped",
        MachineEnd::PoweredOff => "it powered off",
        MachineEnd::Failed(cause) => cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    use vmette_vmm::{Accelerator, MachineSpec, Share};

    use crate::locate::Programs;
    use crate::plan::Plan;

    /// A machine of two processes, neither of which ends by itself.
    fn running(dir: &Path) -> Running {
        let program = dir.join("program");
        fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let share = Share { tag: "a".into(), path: dir.to_owned(), read_only: true, owner: None };
        let spec = MachineSpec { shares: vec![share], ..MachineSpec::new("/bin/sh", "/bin/sh") };
        let prepared = Prepared {
            binary: program.clone(),
            programs: Programs { virtiofsd: Some(program), ..Programs::default() },
            fingerprint: String::new(),
            plan: Plan::new(&spec, Accelerator::Tcg).unwrap(),
            spec,
            snapshot: None,
        };
        boot::spawn(prepared).unwrap().0
    }

    #[test]
    fn processes_that_no_thread_can_look_after_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        for threads in [0, 1] {
            let running = Arc::new(running(dir.path()));
            let (qemu, server) = (running.qemu.exit(), running.devices.servers()[0].process.exit());
            let mut left = threads;
            let looked_after = look_after(&running, &Arc::new(Slot::new()), |_, watch| {
                if left == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                left -= 1;
                thread::Builder::new().spawn(watch).map(drop)
            });
            assert_eq!(looked_after.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            drop(running);
            assert!(qemu.get().is_some() && server.get().is_some(), "with {threads} threads");
        }
    }
}
