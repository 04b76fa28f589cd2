//! What a machine is made of.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Everything an engine needs to know of a machine. The engine decides how each part gets there: present from power-on,
/// or hot-plugged after a saved state was restored.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Linux kernel: a `bzImage` or an ELF `vmlinux` with a PVH entry.
    pub kernel: PathBuf,
    /// Uncompressed or compressed cpio archive with the guest's `/init`.
    pub initramfs: PathBuf,
    /// Kernel command line; the engine adds what its devices need.
    pub cmdline: String,
    /// Virtual CPUs, 1 or more.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Block device of the rootfs, always read-only. Every machine has the device, so that one saved state serves all
    /// rootfses; without an image it is empty.
    pub rootfs: Option<PathBuf>,
    /// Places for disks and shares that the machine has at least, whether they are taken or not. Part of the machine's
    /// shape: a saved state serves every machine with as many.
    pub slots: usize,
    /// Further block devices, in order.
    pub disks: Vec<Disk>,
    /// Host folders.
    pub shares: Vec<Share>,
    /// Whether there is a vsock device.
    pub vsock: bool,
    /// What network there is.
    pub network: Network,
    /// Where the guest kernel's console goes.
    pub console: Console,
    /// What may execute the guest.
    pub accelerator: AcceleratorChoice,
    /// Whether [`Machine::save`](crate::Machine::save) will be asked for: some engines have to arrange for it when the
    /// machine starts. No part of the machine's shape.
    pub savable: bool,
    /// From power-on or from a saved state.
    pub origin: Origin,
}

impl MachineSpec {
    /// The least that boots: one virtual CPU, 256 MiB of memory, no device but those that every machine has.
    #[must_use]
    pub fn new(kernel: impl Into<PathBuf>, initramfs: impl Into<PathBuf>) -> Self {
        Self {
            kernel: kernel.into(),
            initramfs: initramfs.into(),
            cmdline: String::new(),
            vcpus: 1,
            memory_mib: 256,
            rootfs: None,
            slots: 0,
            disks: Vec::new(),
            shares: Vec::new(),
            vsock: false,
            network: Network::None,
            console: Console::Discard,
            accelerator: AcceleratorChoice::Auto,
            savable: false,
            origin: Origin::Cold,
        }
    }
}

/// A raw image as a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Serial number by which the guest finds it; ASCII letters and digits, up to 20.
    pub serial: String,
    /// The raw image.
    pub path: PathBuf,
    /// Whether the host refuses writes.
    pub read_only: bool,
}

/// A host folder in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// virtio-fs tag: 1 to 36 of ASCII letters, digits, `-`, `_` and `.`, not starting with a dot.
    pub tag: String,
    /// The folder.
    pub path: PathBuf,
    /// Whether the host refuses writes, whatever the guest does.
    pub read_only: bool,
}

/// What network a machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// None, and no device for one.
    #[default]
    None,
    /// One device, with a link address of its own, behind the host's address translation. A DHCP server on the host's
    /// side gives the guest its address.
    Nat,
}

/// Where the guest kernel's messages go.
#[derive(Debug, Clone, Default)]
pub enum Console {
    /// Nowhere; the engine keeps the last lines for its error messages.
    #[default]
    Discard,
    /// To this file, as they come.
    File(Arc<File>),
}

/// What may execute the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceleratorChoice {
    /// The best there is; emulation where there is no better.
    #[default]
    Auto,
    /// Hardware virtualisation or an error.
    Hardware,
    /// KVM, named by the user.
    Kvm,
    /// QEMU's emulation, even where there is better.
    Tcg,
}

impl std::fmt::Display for AcceleratorChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Hardware => "hardware",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// Where a machine's state comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Power-on.
    Cold,
    /// A folder that [`Machine::save`](crate::Machine::save) of a machine with the same
    /// [`fingerprint`](crate::Hypervisor::fingerprint) has written; the caller vouches that its files are still those.
    /// The rootfs, disks and shares are those of this spec. Disks that the machine had when it was saved come first, in
    /// the same order, with what was in them then.
    Snapshot(PathBuf),
}
