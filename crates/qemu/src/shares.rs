//! The devices of a machine's shares, which have to be gone while it is saved: QEMU cannot write their state.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use vmette_vmm::{Error, Result, Share};

use crate::boot::failed;
use crate::plan::Plugged;
use crate::process::Process;
use crate::qmp::{Qmp, QmpError};
use crate::share;
use vmette_vmm::console::LastLines;

/// How long the guest may take to let go of a device.
const UNPLUG_LIMIT: Duration = Duration::from_secs(30);

/// How long QEMU may take to release the connection of a device that is gone, and how often it is asked.
const TIDY_LIMIT: Duration = Duration::from_secs(5);
const TIDY_PAUSE: Duration = Duration::from_millis(5);

/// How long a server may take to notice that its connection is gone. It is two processes, and killing the one that is
/// known here would leave the other to die a moment later.
const SERVER_LIMIT: Duration = Duration::from_secs(1);

/// The devices, and what serves those that were taken out and put back.
#[derive(Debug)]
pub(crate) struct Shares {
    /// The program that serves them.
    program: Option<PathBuf>,
    shares: Vec<(Share, Plugged)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many of the devices the machine has, from the first on.
    plugged: usize,
    /// How often each was taken out.
    turns: Vec<u32>,
    /// Servers of those that were put back; the first ones are the machine's own.
    servers: Vec<Arc<Server>>,
}

/// A server that came later than its machine.
#[derive(Debug)]
pub(crate) struct Server {
    index: usize,
    turn: u32,
    pub(crate) process: Process,
    pub(crate) complaints: Arc<LastLines>,
}

impl Shares {
    /// All of them in the machine, or about to be.
    pub(crate) fn new(program: Option<PathBuf>, shares: Vec<Share>, devices: Vec<Plugged>) -> Self {
        let state = State { plugged: devices.len(), turns: vec![0; devices.len()], servers: Vec::new() };
        Self { program, shares: shares.into_iter().zip(devices).collect(), state: Mutex::new(state) }
    }

    pub(crate) fn are_plugged(&self) -> bool {
        self.lock().plugged > 0
    }

    /// Whether the share's first server was sent away.
    pub(crate) fn has_left(&self, index: usize) -> bool {
        self.lock().turns.get(index).is_some_and(|turns| *turns > 0)
    }

    /// The servers that came later.
    pub(crate) fn servers(&self) -> Vec<Arc<Server>> {
        self.lock().servers.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes them out, one after the other, each when the guest has let go of it, and sends their servers away.
    pub(crate) fn unplug(&self, qmp: &Qmp) -> Result<()> {
        let mut state = self.lock();
        while let Some(index) = state.plugged.checked_sub(1) {
            let id = &self.shares[index].1.device["id"];
            qmp.forget("DEVICE_DELETED");
            qmp.execute("device_del", json!({ "id": id })).map_err(failed)?;
            qmp.wait_event("DEVICE_DELETED", UNPLUG_LIMIT, |event| (event["device"] == *id).then_some(()))
                .map_err(|e| Error::Machine(format!("the guest does not let go of its shares: {e}")))?;
            state.plugged = index;
            state.turns[index] += 1;
            // The server ends with its connection.
            disconnect(qmp, index)?;
            for server in state.servers.extract_if(.., |server| server.index == index) {
                server.process.wait_or_kill(Instant::now() + SERVER_LIMIT);
            }
        }
        Ok(())
    }

    /// Puts them back, each with a server of its own, and returns those.
    pub(crate) fn plug(&self, qmp: &Qmp) -> Result<Vec<Arc<Server>>> {
        let Some(program) = &self.program else { return Ok(Vec::new()) };
        let mut state = self.lock();
        let mut begun = Vec::new();
        while let Some((share, part)) = self.shares.get(state.plugged) {
            let index = state.plugged;
            let (errors, errors_end) = std::io::pipe().map_err(Error::io("create a pipe"))?;
            let served = share::serve(program, share, errors_end.into())?;
            let complaints = LastLines::follow("complaints", errors, None)?;
            let chardev = format!("share{index}");
            qmp.wait(qmp.send_fd(&chardev, served.connection.as_fd()).map_err(failed)?).map_err(failed)?;
            let address = json!({ "type": "fd", "data": { "str": chardev } });
            let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
            qmp.execute("chardev-add", json!({ "id": chardev, "backend": backend })).map_err(failed)?;
            qmp.execute("device_add", part.device.clone()).map_err(failed)?;
            state.plugged += 1;
            let turn = state.turns[index];
            let server = Arc::new(Server { index, turn, process: served.server, complaints });
            state.servers.push(server.clone());
            begun.push(server);
        }
        Ok(begun)
    }

    /// Whether the server serves a device of the machine.
    pub(crate) fn is_needed(&self, server: &Server) -> bool {
        self.lock().turns.get(server.index) == Some(&server.turn)
    }

    /// Ends the servers that came later, with a machine that has ended.
    pub(crate) fn end_servers(&self, deadline: Instant) {
        for server in self.servers() {
            server.process.wait_or_kill(deadline);
        }
    }
}

/// Ends the connection of a device that is gone. QEMU may still have to tidy up behind it, and no event tells when that
/// is done.
fn disconnect(qmp: &Qmp, index: usize) -> Result<()> {
    let deadline = Instant::now() + TIDY_LIMIT;
    loop {
        match qmp.execute("chardev-remove", json!({ "id": format!("share{index}") })) {
            Ok(_) => return Ok(()),
            Err(QmpError::Refused { message, .. })
                if message.contains("busy") && Instant::now() < deadline =>
            {
                std::thread::sleep(TIDY_PAUSE);
            }
            Err(e) => return Err(failed(e)),
        }
    }
}

impl Server {
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}
