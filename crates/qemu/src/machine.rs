//! A machine from its making to its end.

use std::fs;
use std::mem;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmette_vmm::{ControlStream, Error, Machine, MachineEnd, Result, Slot, VsockListener, VsockStream};

use crate::boot::{self, Prepared, Running, failed};
use crate::save;

/// How long to wait for the last words of a process that has ended: they are in a buffer already.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long the servers may take to notice that their machine is gone: one may hang in a file system of the
/// host's that does not answer.
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
            let (watched, end) = (running.clone(), self.end.clone());
            thread::Builder::new()
                .name("machine-end".into())
                .spawn(move || watch(watched, &end))
                .map_err(Error::io("start a thread"))?;
            for (index, server) in running.servers.iter().enumerate() {
                let (watched, exit) = (Arc::downgrade(&running), server.exit());
                thread::Builder::new()
                    .name("machine-share".into())
                    .spawn(move || watch_server(&watched, index, &exit))
                    .map_err(Error::io("start a thread"))?;
            }
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

    fn save(&self, dir: &Path) -> Result<()> {
        save::save(&*self.running()?, dir)
    }

    fn vsock_listen(&self, port: u32) -> Result<VsockListener> {
        self.running()?.vsock()?.listen(port)
    }

    fn vsock_connect(&self, port: u32) -> Result<VsockStream> {
        self.running()?.vsock()?.connect(port)
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
        let own = running.servers.iter().map(crate::process::Process::pid);
        let own: Vec<u32> = std::iter::once(running.qemu.pid()).chain(own).collect();
        own.into_iter().flat_map(|pid| std::iter::once(pid).chain(children(pid))).collect()
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

/// Waits for QEMU's end, ends what served it, and says what happened.
fn watch(running: Arc<Running>, end: &Slot<MachineEnd>) {
    let status = running.qemu.exit().wait();
    // The servers end with their connection to QEMU. Each is two processes, and killing the one that is known here would
    // leave the other to die a moment later, when nobody looks any more.
    let deadline = Instant::now() + SERVERS_LIMIT;
    for server in &running.servers {
        server.wait_or_kill(deadline);
    }
    let how = running.verdict.get().unwrap_or_else(|| classify(&running, status));
    // Its connections and threads go with it, unless someone is in the middle of a call.
    drop(running);
    end.set(how);
}

/// A guest whose server is gone would wait for its answers for ever: the machine ends with the server.
fn watch_server(running: &Weak<Running>, index: usize, exit: &Slot<ExitStatus>) {
    let status = exit.wait();
    let Some(running) = running.upgrade() else { return };
    // As a rule the server ends because QEMU has ended, which is known a moment later.
    if running.qemu.exit().wait_until(Instant::now() + LAST_WORDS).is_some() {
        return;
    }
    let what = &running.served[index];
    let complaints = running.complaints.tail();
    running.verdict.set(MachineEnd::Failed(format!("the server of {what} ended ({status}){complaints}")));
    running.qemu.kill();
}

/// What a QEMU that nobody here has ended means.
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
