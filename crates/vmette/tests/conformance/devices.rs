//! Devices that come and go while a real machine runs.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use vmette::engine_api::{
    Capabilities, ControlStream, Device, DeviceId, Disk, Error, Frames, Hypervisor, Mac, Machine, MachineEnd,
    MachineSpec, Network, Result, SavedState, Share, Slot, Support,
};
use vmette::{ExecOptions, Session, ShareMount, VsockListener, VsockStream, WorkloadStrategy};
use vmette_qemu::Qemu;

use crate::suite::Bench;

const KEEP: usize = 1 << 20;

/// QEMU, whose machines the test may reach. It does not give this device away.
struct Tapped {
    engine: Qemu,
    keeps: Option<DeviceId>,
    last: Arc<Mutex<Option<Arc<dyn Machine>>>>,
}

impl Hypervisor for Tapped {
    fn probe(&self, spec: &MachineSpec) -> Result<Capabilities> {
        self.engine.probe(spec)
    }

    fn try_shares(&self) -> Support {
        self.engine.try_shares()
    }

    fn fingerprint(&self, spec: &MachineSpec) -> Result<String> {
        self.engine.fingerprint(spec)
    }

    fn boot_failed(&self, spec: &MachineSpec, reason: &str) -> Result<()> {
        self.engine.boot_failed(spec, reason)
    }

    fn create(&self, spec: MachineSpec) -> Result<Arc<dyn Machine>> {
        let machine = self.engine.create(spec)?;
        *self.last.lock().unwrap() = Some(machine.clone());
        Ok(match &self.keeps {
            Some(id) => Arc::new(Keeping(machine, id.clone())),
            None => machine,
        })
    }
}

/// A machine that does not let go of one device.
struct Keeping(Arc<dyn Machine>, DeviceId);

impl Machine for Keeping {
    fn start(&self) -> Result<ControlStream> {
        self.0.start()
    }

    fn pause(&self) -> Result<()> {
        self.0.pause()
    }

    fn resume(&self) -> Result<()> {
        self.0.resume()
    }

    fn save(&self, folder: &Path) -> Result<SavedState> {
        self.0.save(folder)
    }

    fn attach(&self, device: Device) -> Result<DeviceId> {
        self.0.attach(device)
    }

    fn detach(&self, id: &DeviceId) -> Result<()> {
        if *id == self.1 {
            return Err(Error::Machine(format!("the guest does not let go of {id}")));
        }
        self.0.detach(id)
    }

    fn vsock_listen(&self, port: u32) -> Result<VsockListener> {
        self.0.vsock_listen(port)
    }

    fn vsock_connect(&self, port: u32) -> Result<VsockStream> {
        self.0.vsock_connect(port)
    }

    fn stop(&self) {
        self.0.stop();
    }

    fn end(&self) -> Arc<Slot<MachineEnd>> {
        self.0.end()
    }

    fn processes(&self) -> Vec<u32> {
        self.0.processes()
    }
}

/// A session whose machine takes devices, and that machine.
fn session(keeps: Option<DeviceId>, shares: Vec<ShareMount>) -> (Session, Arc<dyn Machine>) {
    let last = Arc::new(Mutex::new(None));
    let engine = Tapped { engine: Qemu::discover(), keeps, last: last.clone() };
    let bench = Bench::new(tempfile::tempdir().unwrap(), Some(Arc::new(engine)));
    let shared = Bench::new(tempfile::tempdir().unwrap(), None).config();
    let config = shared.with(|c| {
        c.snapshots.allow = true;
        c.command.workload = WorkloadStrategy::Agent;
        c.grants.shares = shares;
    });
    let session = bench.start(&config).unwrap();
    let machine = last.lock().unwrap().take().unwrap();
    (session, machine)
}

fn say(session: &Session, script: &str) -> String {
    let all = session.exec(&ExecOptions::shell(script)).unwrap().collect(KEEP).unwrap();
    assert_eq!(all.status.code(), 0, "{script}: {}", String::from_utf8_lossy(&all.stderr));
    String::from_utf8(all.stdout).unwrap().trim().to_owned()
}

#[test]
fn shares_disks_and_networks_come_and_go() {
    let (session, machine) = session(None, Vec::new());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("name"), "shared").unwrap();
    let share = Share { tag: "late".into(), path: dir.path().to_owned(), read_only: true, owner: None };
    let before = machine.processes().len();
    for _ in 0..2 {
        let id = machine.attach(Device::Share(share.clone())).unwrap();
        assert_eq!(id, DeviceId::Share("late".into()));
        let again = machine.attach(Device::Share(share.clone())).unwrap_err().to_string();
        assert!(again.contains("share late already"), "{again}");
        let mount = "until mount -t virtiofs late /mnt 2>/dev/null; do :; done; cat /mnt/name; umount /mnt";
        assert_eq!(say(&session, mount), "shared");
        assert!(machine.processes().len() > before);
        machine.detach(&id).unwrap();
        assert!(machine.detach(&id).unwrap_err().to_string().contains("does not have share late"));
        assert_eq!(machine.processes().len(), before, "its server is gone");
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let disk = Disk { serial: "late".into(), path: image.path().to_owned(), read_only: true };
    for _ in 0..2 {
        let id = machine.attach(Device::Disk(disk.clone())).unwrap();
        let sectors = "until d=$(grep -lx late /sys/block/*/serial); do :; done; cat ${d%serial}size";
        assert_eq!(say(&session, sectors), "2048");
        machine.detach(&id).unwrap();
        say(&session, "! grep -lx late /sys/block/*/serial");
    }
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let frames = Frames { socket: Arc::new(socket.into()), mac: Mac([2, 0, 0, 0, 0, 9]) };
    let id = machine.attach(Device::Network(Network::Frames(frames))).unwrap();
    // The class of network devices.
    say(&session, "until grep -qx 0x020000 /sys/bus/pci/devices/*/class; do :; done");
    machine.detach(&id).unwrap();
    say(&session, "! grep -qx 0x020000 /sys/bus/pci/devices/*/class");
    assert!(machine.attach(Device::Network(Network::Nat)).is_err());
    session.ping().unwrap();
}

#[test]
fn a_machine_whose_memory_is_private_takes_no_share_and_says_why() {
    let last = Arc::new(Mutex::new(None));
    let engine = Tapped { engine: Qemu::discover(), keeps: None, last: last.clone() };
    let bench = Bench::new(tempfile::tempdir().unwrap(), Some(Arc::new(engine)));
    let shared = Bench::new(tempfile::tempdir().unwrap(), None).config();
    let config = shared.with(|c| c.command.workload = WorkloadStrategy::Agent);
    let session = bench.start(&config).unwrap();
    let machine = last.lock().unwrap().take().unwrap();
    let share = Share { tag: "late".into(), path: "/".into(), read_only: true, owner: None };
    let error = machine.attach(Device::Share(share)).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { engine: "QEMU", .. }), "{error}");
    session.ping().unwrap();
}

#[test]
fn a_share_that_cannot_be_given_up_costs_the_snapshot_and_none_of_the_shares() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mount = |tag: &str, folder: &tempfile::TempDir| ShareMount {
        target: Some(format!("/{tag}")),
        ..ShareMount::new(tag, folder.path())
    };
    let shares = vec![mount("first", &folders[0]), mount("second", &folders[1])];
    let (session, _machine) = session(Some(DeviceId::Share("second".into())), shares);
    let target = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let error = session.snapshot(target.path().join("snapshot")).unwrap_err().to_string();
    assert!(error.contains("does not let go of share second"), "{error}");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    say(&session, "echo 1 > /first/file; echo 2 > /second/file");
    assert!(folders.iter().all(|folder| folder.path().join("file").exists()));
}
