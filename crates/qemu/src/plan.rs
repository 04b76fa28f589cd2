//! The parts of a machine of this engine, decided before anything is started.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vmette_vmm::{
    Accelerator, Device, DeviceId, Disk, Error, Mac, MachineSpec, Network, Origin, Result, SavedState,
};

/// Changes whenever the command line changes in a way that a saved state would notice.
const LAYOUT: &str = "layout=2";

/// PCI Express root ports, each a place for one disk, share, vsock or network device. A machine has the least of these
/// that is enough: in a restored machine each port costs 0.8 ms and 0.8 MiB, but their number is part of the shape that
/// a saved state depends on, so there are few different ones.
const PORT_COUNTS: [usize; 4] = [4, 8, 16, 32];

/// The processor that is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The host's: a guest of another architecture is not run.
    pub(crate) fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }
}

/// A machine, complete except for the descriptors that it inherits.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) arch: Arch,
    pub(crate) accelerator: Accelerator,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) cmdline: String,
    /// QEMU's own system call filter is there to be switched on.
    pub(crate) seccomp: bool,
    pub(crate) ports: usize,
    /// A saved state follows.
    pub(crate) restores: bool,
    pub(crate) rootfs: Value,
    /// Link address of the network device, if there is one.
    pub(crate) network: Option<Mac>,
    /// Devices in root ports that are there when the machine starts, or when its saved state is loaded.
    pub(crate) at_start: Vec<Plugged>,
    /// Devices that are plugged in once the saved state is loaded, which knows nothing of them.
    pub(crate) later: Vec<Plugged>,
}

/// Number of ports that a machine has.
pub(crate) fn ports(spec: &MachineSpec) -> Result<usize> {
    ports_for(spec.slots.max(spec.disks.len() + spec.shares.len() + usize::from(spec.vsock)))
}

fn ports_for(devices: usize) -> Result<usize> {
    PORT_COUNTS.into_iter().find(|&count| devices <= count).ok_or_else(|| {
        Error::InvalidSpec(format!(
            "a machine takes at most {} shares, disks and vsock devices together, not {devices}",
            PORT_COUNTS[PORT_COUNTS.len() - 1]
        ))
    })
}

/// Everything about the machine's shape that a saved state depends on.
pub(crate) fn shape(spec: &MachineSpec, accelerator: Accelerator) -> Result<String> {
    let MachineSpec { vcpus, memory_mib, network, .. } = spec;
    let (arch, ports) = (Arch::host(), ports(spec)?);
    let network = if matches!(network, Network::None) { "" } else { " network" };
    Ok(format!("{arch:?} {LAYOUT} {accelerator} vcpus={vcpus} memory={memory_mib}M ports={ports}{network}"))
}

impl Plan {
    /// The plan for a checked spec.
    pub(crate) fn new(spec: &MachineSpec, accelerator: Accelerator) -> Result<Self> {
        let ports = ports(spec)?;
        let state = match &spec.origin {
            Origin::Cold => None,
            Origin::Saved(saved) => {
                let refused = |reason| Error::Snapshot { path: saved.folder.clone(), reason };
                check_places(&saved.state, &spec.disks, ports).map_err(refused)?;
                Some(&saved.state)
            }
        };
        let (at_start, later) = plugged(spec, state, ports);
        Ok(Self {
            arch: Arch::host(),
            accelerator,
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            kernel: spec.kernel.clone(),
            initramfs: spec.initramfs.clone(),
            cmdline: spec.cmdline.clone(),
            seccomp: cfg!(target_os = "linux"),
            ports,
            restores: state.is_some(),
            rootfs: rootfs_blockdev(spec.rootfs.as_deref()),
            network: match &spec.network {
                Network::Frames(frames) => Some(frames.mac),
                Network::None | Network::Nat => None,
            },
            at_start,
            later,
        })
    }

    /// All devices in root ports.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &Plugged> {
        self.at_start.iter().chain(&self.later)
    }
}

/// A saved state knows of disks, each in its place: the machine must have exactly these there.
fn check_places(state: &SavedState, disks: &[Disk], ports: usize) -> std::result::Result<(), String> {
    let wanted: Vec<&str> = disks.iter().map(|disk| disk.serial.as_str()).collect();
    if !state.disks.keys().all(|serial| wanted.contains(&serial.as_str())) {
        let saved: Vec<&str> = state.disks.keys().map(String::as_str).collect();
        let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(format!("it was saved with other disks: {}; wanted: {}", list(&saved), list(&wanted)));
    }
    let mut places: Vec<usize> = state.disks.values().copied().collect();
    places.sort_unstable();
    places.dedup();
    if places.len() < state.disks.len() || places.last().is_some_and(|last| *last >= ports) {
        return Err("its notes on its disks contradict each other".into());
    }
    Ok(())
}

/// The devices of a spec in their ports: those that are there from the start, and those that come after a saved state.
fn plugged(spec: &MachineSpec, state: Option<&SavedState>, ports: usize) -> (Vec<Plugged>, Vec<Plugged>) {
    let known = |serial: &str| state.and_then(|state| state.disks.get(serial).copied());
    let taken = |port: &usize| state.is_some_and(|state| state.disks.values().any(|place| place == port));
    let mut free = (0..ports).filter(|port| !taken(port));
    let disks = spec.disks.iter().cloned().map(Device::Disk);
    let shares = spec.shares.iter().cloned().map(Device::Share);
    let vsock = spec.vsock.then_some(Device::Vsock);
    let (mut at_start, mut later) = (Vec::new(), Vec::new());
    for device in disks.chain(shares).chain(vsock) {
        let place = match &device {
            Device::Disk(disk) => known(&disk.serial),
            _ => None,
        };
        let list = if place.is_some() || state.is_none() { &mut at_start } else { &mut later };
        // There are enough ports for all devices.
        list.extend(place.or_else(|| free.next()).map(|port| Plugged::new(device, port)));
    }
    (at_start, later)
}

/// A device in a root port.
#[derive(Debug, Clone)]
pub(crate) struct Plugged {
    pub(crate) device: Device,
    pub(crate) port: usize,
}

impl Plugged {
    pub(crate) fn new(device: Device, port: usize) -> Self {
        Self { device, port }
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.device.id()
    }

    /// Name of the back end: a block node, a character device or a network back end.
    pub(crate) fn backend(&self) -> String {
        let kind = match self.device {
            Device::Share(_) => "share",
            Device::Disk(_) => "disk",
            Device::Vsock => "vsock",
            Device::Network(_) => "net",
        };
        format!("{kind}{}", self.port)
    }

    /// Name of the device, as `device_del` wants it.
    pub(crate) fn name(&self) -> String {
        format!("{}-device", self.backend())
    }

    /// The block device behind a disk, as QMP wants it; the command line takes the same.
    pub(crate) fn blockdev(&self) -> Option<Value> {
        match &self.device {
            Device::Disk(disk) => Some(image_blockdev(&self.backend(), &disk.path, disk.read_only)),
            _ => None,
        }
    }

    /// The device, as QMP wants it; the command line takes the same.
    pub(crate) fn front(&self) -> Value {
        let backend = self.backend();
        let mut device = match &self.device {
            // On an error of the host's (no space) the guest gets it; by default the machine would stand still instead.
            Device::Disk(disk) => json!({
                "driver": "virtio-blk-pci", "drive": backend, "serial": disk.serial,
                "werror": "report", "rerror": "report",
            }),
            Device::Share(share) => json!({
                "driver": "vhost-user-fs-pci", "chardev": backend, "tag": share.tag, "queue-size": 1024,
            }),
            Device::Vsock => json!({ "driver": "vhost-user-vsock-pci", "chardev": backend }),
            Device::Network(network) => {
                let mac = match network {
                    Network::Frames(frames) => json!(frames.mac.to_string()),
                    Network::None | Network::Nat => Value::Null,
                };
                json!({ "driver": "virtio-net-pci", "netdev": backend, "mac": mac, "romfile": "" })
            }
        };
        device["id"] = json!(self.name());
        device["bus"] = json!(format!("port{}", self.port));
        device
    }
}

/// The guest sees this size in every machine, whatever image is behind: a state that was saved with one image is
/// restored with another.
const PLACEHOLDER_SIZE: u64 = 1 << 40;

fn rootfs_blockdev(image: Option<&Path>) -> Value {
    match image {
        Some(path) => image_blockdev("rootfs", path, true),
        None => json!({
            "driver": "null-co", "node-name": "rootfs", "size": PLACEHOLDER_SIZE, "read-zeroes": true,
            "read-only": true,
        }),
    }
}

fn image_blockdev(node: &str, path: &Path, read_only: bool) -> Value {
    use std::os::unix::fs::FileTypeExt;
    let device = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device());
    json!({
        "driver": "raw", "node-name": node, "read-only": read_only, "discard": "unmap",
        "file": {
            "driver": if device { "host_device" } else { "file" },
            "filename": path.to_string_lossy(), "read-only": read_only, "discard": "unmap",
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use vmette_vmm::{Saved, Share};

    #[test]
    fn there_are_enough_ports_or_a_limit_is_named() {
        assert_eq!(ports_for(0).unwrap(), 4);
        assert_eq!(ports_for(4).unwrap(), 4);
        assert_eq!(ports_for(5).unwrap(), 8);
        assert_eq!(ports_for(32).unwrap(), 32);
        let error = ports_for(33).unwrap_err().to_string();
        assert!(error.contains("32") && error.contains("33"), "{error}");
    }

    fn restored(disks: &[&str], known: &[(&str, usize)]) -> Result<Plan> {
        let disk = |serial: &&str| Disk { serial: (*serial).into(), path: "/d".into(), read_only: false };
        let known: BTreeMap<String, usize> = known.iter().map(|(name, at)| ((*name).into(), *at)).collect();
        let state = SavedState { disks: known, ..SavedState::default() };
        let spec = MachineSpec {
            disks: disks.iter().map(disk).collect(),
            shares: vec![Share { tag: "a".into(), path: "/s".into(), read_only: true, owner: None }],
            origin: Origin::Saved(Saved { folder: "/saved".into(), state }),
            ..MachineSpec::new("/k", "/i")
        };
        Plan::new(&spec, Accelerator::Tcg)
    }

    #[test]
    fn a_disk_that_the_state_knows_is_in_its_place_before_it_and_everything_else_comes_later() {
        let plan = restored(&["new", "scratch"], &[("scratch", 0)]).unwrap();
        let places = |list: &[Plugged]| -> Vec<String> { list.iter().map(Plugged::backend).collect() };
        assert_eq!(places(&plan.at_start), ["disk0"]);
        assert_eq!(places(&plan.later), ["disk1", "share2"]);
        let plan = restored(&["scratch"], &[("scratch", 2)]).unwrap();
        assert_eq!(
            (places(&plan.at_start), places(&plan.later)),
            (vec!["disk2".into()], vec!["share0".into()])
        );
    }

    #[test]
    fn other_disks_than_the_state_knows_are_refused() {
        for disks in [&[][..], &["other"]] {
            let error = restored(disks, &[("scratch", 0)]).unwrap_err();
            assert!(matches!(error, Error::Snapshot { .. }));
            assert!(error.to_string().contains("other disks: scratch"), "{error}");
        }
        for places in [&[("a", 1), ("b", 1)], &[("a", 0), ("b", 4)]] {
            let error = restored(&["a", "b"], places).unwrap_err().to_string();
            assert!(error.contains("contradict"), "{error}");
        }
    }
}
