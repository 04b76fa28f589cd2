//! What a machine of this engine consists of, decided before anything is started.

use std::path::PathBuf;

use serde_json::{Value, json};
use vmette_vmm::{Accelerator, Disk, Error, MachineSpec, Result};

/// PCI Express root ports, each a place where one disk or share may be plugged in. A machine has the least of these
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

/// A machine, complete but for what it inherits.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) arch: Arch,
    pub(crate) accelerator: Accelerator,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) cmdline: String,
    /// Whether QEMU's own system call filter is there to be switched on.
    pub(crate) seccomp: bool,
    pub(crate) ports: usize,
    /// How many disks a saved state that follows knows of; those that come after them, and shares, are plugged in once it
    /// was loaded. `None`: power-on.
    pub(crate) restore: Option<usize>,
    pub(crate) rootfs: Value,
    pub(crate) disks: Vec<Plugged>,
    pub(crate) shares: Vec<Plugged>,
    pub(crate) vsock: Option<Plugged>,
}

/// A device in a root port, as QMP wants it; the command line takes the same.
#[derive(Debug, Clone)]
pub(crate) struct Plugged {
    /// The block device behind it, if any.
    pub(crate) blockdev: Option<Value>,
    pub(crate) device: Value,
}

/// How many ports a machine has.
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

impl Plan {
    /// The plan for a checked spec, from power-on.
    pub(crate) fn new(spec: &MachineSpec, accelerator: Accelerator) -> Result<Self> {
        let disks = spec.disks.iter().enumerate().map(|(i, disk)| disk_device(disk, i));
        let shares = spec.shares.iter().enumerate();
        let shares = shares.map(|(i, share)| share_device(&share.tag, i, spec.disks.len() + i));
        let vsock = spec.vsock.then(|| vsock_device(spec.disks.len() + spec.shares.len()));
        Ok(Self {
            arch: Arch::host(),
            accelerator,
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            kernel: spec.kernel.clone(),
            initramfs: spec.initramfs.clone(),
            cmdline: spec.cmdline.clone(),
            seccomp: cfg!(target_os = "linux"),
            ports: ports(spec)?,
            restore: None,
            rootfs: rootfs_blockdev(spec.rootfs.as_deref()),
            disks: disks.collect(),
            shares: shares.collect(),
            vsock,
        })
    }

    /// The devices that are there from the start, and those that come after a saved state.
    pub(crate) fn devices(&self) -> (impl Iterator<Item = &Plugged>, impl Iterator<Item = &Plugged>) {
        let first = self.restore.map_or(self.disks.len(), |saved| saved.min(self.disks.len()));
        let (known, later) = self.disks.split_at(first);
        let served = || self.shares.iter().chain(&self.vsock);
        let restores = self.restore.is_some();
        let with = served().take(if restores { 0 } else { usize::MAX });
        let after = served().take(if restores { usize::MAX } else { 0 });
        (known.iter().chain(with), later.iter().chain(after))
    }

    /// Everything about the machine's shape that a saved state depends on.
    pub(crate) fn shape(&self) -> String {
        let Self { arch, accelerator, vcpus, memory_mib, ports, .. } = self;
        format!(
            "{arch:?} {} {accelerator} vcpus={vcpus} memory={memory_mib}M ports={ports}",
            crate::args::LAYOUT
        )
    }
}

/// The guest sees this size in every machine, whatever image is behind: a state that was saved with one image is
/// restored with another.
const PLACEHOLDER_SIZE: u64 = 1 << 40;

fn rootfs_blockdev(image: Option<&std::path::Path>) -> Value {
    match image {
        Some(path) => image_blockdev("rootfs", path, true),
        None => json!({
            "driver": "null-co", "node-name": "rootfs", "size": PLACEHOLDER_SIZE, "read-zeroes": true,
            "read-only": true,
        }),
    }
}

fn image_blockdev(node: &str, path: &std::path::Path, read_only: bool) -> Value {
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

fn disk_device(disk: &Disk, number: usize) -> Plugged {
    let node = format!("disk{number}");
    Plugged {
        blockdev: Some(image_blockdev(&node, &disk.path, disk.read_only)),
        // On an error of the host's (no space) the guest gets it; by default the machine would stand still instead.
        device: json!({
            "driver": "virtio-blk-pci", "id": format!("{node}-device"), "bus": format!("port{number}"),
            "drive": node, "serial": disk.serial, "werror": "report", "rerror": "report",
        }),
    }
}

fn share_device(tag: &str, number: usize, port: usize) -> Plugged {
    Plugged {
        blockdev: None,
        device: json!({
            "driver": "vhost-user-fs-pci", "id": format!("share{number}-device"), "bus": format!("port{port}"),
            "chardev": format!("share{number}"), "tag": tag, "queue-size": 1024,
        }),
    }
}

fn vsock_device(port: usize) -> Plugged {
    Plugged {
        blockdev: None,
        device: json!({
            "driver": "vhost-user-vsock-pci", "id": "vsock-device", "bus": format!("port{port}"), "chardev": "vsock",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_enough_ports_or_a_limit_is_named() {
        assert_eq!(ports_for(0).unwrap(), 4);
        assert_eq!(ports_for(4).unwrap(), 4);
        assert_eq!(ports_for(5).unwrap(), 8);
        assert_eq!(ports_for(32).unwrap(), 32);
        let error = ports_for(33).unwrap_err().to_string();
        assert!(error.contains("32") && error.contains("33"), "{error}");
    }
}
