//! The devices in a machine's root ports. They come and go while it runs, and a share or a vsock device has a process
//! that serves it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use vmette_vmm::console::LastLines;
use vmette_vmm::{Device, DeviceId, Error, Network, Result};

use crate::ENGINE;
use crate::locate::Programs;
use crate::plan::Plugged;
use crate::qmp::{Qmp, QmpError, failed};
use crate::servers::{self, Server};
use crate::vsock::Vsock;

/// Time for the guest to let go of a device.
const DETACH_LIMIT: Duration = Duration::from_secs(30);

/// Time for QEMU to release the back end of a device that is gone, and the pause between two attempts.
const TIDY_LIMIT: Duration = Duration::from_secs(5);
const TIDY_PAUSE: Duration = Duration::from_millis(5);

/// Time for a server to notice that its connection is gone. A share server is two processes, and killing the one that is
/// known here would leave the other to die a moment later.
const SERVER_LIMIT: Duration = Duration::from_secs(1);

/// A device in its port, with the process that serves it.
#[derive(Debug, Clone)]
pub(crate) struct Present {
    pub(crate) plugged: Plugged,
    pub(crate) server: Option<Arc<Server>>,
    pub(crate) vsock: Option<Arc<Vsock>>,
}

/// The devices of one machine.
#[derive(Debug)]
pub(crate) struct Devices {
    programs: Programs,
    /// The machine has a network device outside of the ports.
    has_network: bool,
    /// The guest's memory can be reached by other processes.
    memory_shared: bool,
    /// Held during a change: one at a time, so that each event is that of one device.
    changing: Mutex<()>,
    ports: Mutex<Vec<Option<Present>>>,
}

impl Devices {
    /// The devices that a machine with so many ports has from its start, or gets when its state is loaded.
    pub(crate) fn new(
        programs: Programs,
        ports: usize,
        present: Vec<Present>,
        has_network: bool,
        memory_shared: bool,
    ) -> Self {
        let mut all: Vec<Option<Present>> = vec![None; ports];
        for one in present {
            let port = one.plugged.port;
            all[port] = Some(one);
        }
        Self { programs, has_network, memory_shared, changing: Mutex::default(), ports: Mutex::new(all) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Present>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Present> {
        self.lock().iter().flatten().cloned().collect()
    }

    /// The servers of all devices.
    pub(crate) fn servers(&self) -> Vec<Arc<Server>> {
        self.all().into_iter().filter_map(|present| present.server).collect()
    }

    /// True while the server's device is in the machine.
    pub(crate) fn need(&self, server: &Arc<Server>) -> bool {
        self.all().iter().any(|present| present.server.as_ref().is_some_and(|own| Arc::ptr_eq(own, server)))
    }

    /// The vsock device.
    pub(crate) fn vsock(&self) -> Result<Arc<Vsock>> {
        self.all().into_iter().find_map(|present| present.vsock).ok_or_else(|| Error::Unsupported {
            engine: ENGINE,
            operation: "vsock",
            reason: "this machine has no vsock device".into(),
        })
    }

    /// A device whose state QEMU cannot save.
    pub(crate) fn unsavable(&self) -> Option<DeviceId> {
        self.servers().first().map(|server| server.of.clone())
    }

    /// The disks and their ports.
    pub(crate) fn disks(&self) -> BTreeMap<String, usize> {
        let place = |present: Present| match present.plugged.device {
            Device::Disk(disk) => Some((disk.serial, present.plugged.port)),
            _ => None,
        };
        self.all().into_iter().filter_map(place).collect()
    }

    /// Attaches a checked device. Returns its server, if it has one, for the caller to look after.
    pub(crate) fn attach(&self, qmp: &Qmp, device: Device) -> Result<Option<Arc<Server>>> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Device::Network(Network::None | Network::Nat) = device {
            let reason = "only a network whose frames go through a socket can be attached".into();
            return Err(Error::Unsupported { engine: ENGINE, operation: "attaching a network", reason });
        }
        let plugged = Plugged::new(device, 0);
        let plugged = Plugged { port: self.free_port(&plugged.id())?, ..plugged };
        if !self.memory_shared && matches!(plugged.device, Device::Share(_) | Device::Vsock) {
            return Err(Error::Unsupported {
                engine: ENGINE,
                operation: "attaching a share or a vsock device",
                reason:
                    "the machine was not started to be saved or extended, and its memory is private to it"
                        .into(),
            });
        }
        let started = servers::start(&self.programs, &plugged.device, || {
            let (errors, end) = io::pipe().map_err(Error::io("create a pipe"))?;
            Ok((end.into(), LastLines::follow("complaints", errors, None)?))
        })?;
        let front = add_backend(qmp, &plugged, started.as_ref().map(|started| started.connection.as_fd()))
            .and_then(|()| {
                qmp.execute("device_add", plugged.front()).map(drop).inspect_err(|_| {
                    // The first failure is the one to tell of; a back end without a device harms nobody.
                    let _ = remove_backend(qmp, &plugged);
                })
            });
        front.map_err(|e| failed(name_image(e, &plugged)))?;
        let (server, vsock) = started.map_or((None, None), |started| (Some(started.server), started.vsock));
        let port = plugged.port;
        self.lock()[port] = Some(Present { plugged, server: server.clone(), vsock });
        Ok(server)
    }

    fn free_port(&self, id: &DeviceId) -> Result<usize> {
        let ports = self.lock();
        let there = ports.iter().flatten().any(|present| present.plugged.id() == *id);
        if there || (self.has_network && *id == DeviceId::Network) {
            return Err(Error::InvalidSpec(format!("the machine has {id} already")));
        }
        ports.iter().position(Option::is_none).ok_or_else(|| {
            Error::InvalidSpec(format!("no place for {id}: all {} of the machine are taken", ports.len()))
        })
    }

    /// Detaches a device, once the guest has let go of it, and ends its server.
    pub(crate) fn detach(&self, qmp: &Qmp, id: &DeviceId) -> Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(present) = self.all().into_iter().find(|present| present.plugged.id() == *id) else {
            return Err(match (id, self.has_network) {
                (DeviceId::Network, true) => Error::Unsupported {
                    engine: ENGINE,
                    operation: "detaching a network",
                    reason: "it is part of the machine's shape".into(),
                },
                _ => Error::InvalidSpec(format!("the machine does not have {id}")),
            });
        };
        let plugged = &present.plugged;
        remove_front(qmp, &plugged.name())
            .map_err(|e| Error::Machine(format!("the guest does not let go of {id}: {e}")))?;
        self.lock()[plugged.port] = None;
        // The server ends with its connection.
        let removed = remove_backend(qmp, plugged).map_err(failed);
        if let Some(server) = &present.server {
            let _ = server.process.wait_or_kill(Instant::now() + SERVER_LIMIT);
        }
        removed
    }

    /// Ends all servers, with a machine that has ended.
    pub(crate) fn end_servers(&self, deadline: Instant) {
        for server in self.servers() {
            let _ = server.process.wait_or_kill(deadline);
        }
    }
}

/// Takes the device out of the guest's sight, as soon as the guest agrees. An earlier attempt may have run out of time, and
/// the guest may have agreed since, or may be about to.
fn remove_front(qmp: &Qmp, name: &str) -> std::result::Result<(), QmpError> {
    qmp.forget("DEVICE_DELETED");
    match qmp.execute("device_del", json!({ "id": name })) {
        Err(QmpError::Refused { message, .. }) if message.contains("not found") => return Ok(()),
        Err(QmpError::Refused { message, .. }) if message.contains("in the process of unplug") => {}
        answer => drop(answer?),
    }
    qmp.wait_event("DEVICE_DELETED", DETACH_LIMIT, |event| (event["device"] == name).then_some(()))
}

fn add_backend(
    qmp: &Qmp,
    plugged: &Plugged,
    connection: Option<std::os::fd::BorrowedFd<'_>>,
) -> std::result::Result<(), QmpError> {
    let name = plugged.backend();
    let address = json!({ "type": "fd", "str": name });
    if let Some(connection) = connection {
        qmp.wait(qmp.send_fd(&name, connection)?)?;
        let address = json!({ "type": "fd", "data": { "str": name } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        qmp.execute("chardev-add", json!({ "id": name, "backend": backend }))?;
    } else if let Device::Network(Network::Frames(frames)) = &plugged.device {
        qmp.wait(qmp.send_fd(&name, frames.socket.as_fd())?)?;
        qmp.execute("netdev_add", json!({ "type": "stream", "id": name, "server": false, "addr": address }))?;
    } else if let Some(blockdev) = plugged.blockdev() {
        qmp.execute("blockdev-add", blockdev)?;
    }
    Ok(())
}

/// QEMU may still have to tidy up behind a device that is gone, and no event tells when that is done.
fn remove_backend(qmp: &Qmp, plugged: &Plugged) -> std::result::Result<(), QmpError> {
    let name = plugged.backend();
    let (command, arguments) = match plugged.device {
        Device::Share(_) | Device::Vsock => ("chardev-remove", json!({ "id": name })),
        Device::Disk(_) => ("blockdev-del", json!({ "node-name": name })),
        Device::Network(_) => ("netdev_del", json!({ "id": name })),
    };
    let deadline = Instant::now() + TIDY_LIMIT;
    loop {
        match qmp.execute(command, arguments.clone()) {
            Err(QmpError::Refused { message, .. })
                if (message.contains("busy") || message.contains("in use")) && Instant::now() < deadline =>
            {
                std::thread::sleep(TIDY_PAUSE);
            }
            answer => return answer.map(drop),
        }
    }
}

/// QEMU refuses an image that another machine writes to without saying which image.
pub(crate) fn name_image(error: QmpError, plugged: &Plugged) -> QmpError {
    match (error, &plugged.device) {
        (QmpError::Refused { command, message }, Device::Disk(disk)) => {
            let path = disk.path.display();
            let message = format!("{message} (disk image {path}; is another machine using it?)");
            QmpError::Refused { command, message }
        }
        (error, _) => error,
    }
}
