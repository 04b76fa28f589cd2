//! The parts of a machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Disk, Network, Share};

/// Everything an engine needs to know of a machine. The engine decides how each part gets there: present from power-on,
/// or hot-plugged after a saved state was restored.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Linux kernel: a `bzImage`, or an ELF `vmlinux` with a PVH entry where the engine
    /// [takes one](crate::Capabilities::boots_elf).
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
    /// Least number of places for disks, shares and a vsock device, taken or not. Part of the machine's shape: a saved
    /// state serves every machine with as many.
    pub slots: usize,
    /// Further block devices, in order.
    pub disks: Vec<Disk>,
    /// Host folders.
    pub shares: Vec<Share>,
    /// True for a machine with a vsock device.
    pub vsock: bool,
    /// The network. Its presence is part of the machine's shape.
    pub network: Network,
    /// Destination of the guest kernel's console.
    pub console: Console,
    /// The accelerator asked for.
    pub accelerator: AcceleratorChoice,
    /// True for a machine that will be [saved](crate::Machine::save), or that devices will be
    /// [attached](crate::Machine::attach) to: some engines have to arrange for it when the machine starts. No part of the
    /// machine's shape.
    pub savable: bool,
    /// Power-on or a saved state.
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

/// Destination of the guest kernel's messages.
#[derive(Debug, Clone, Default)]
pub enum Console {
    /// Nowhere; the engine keeps the last lines for its error messages.
    #[default]
    Discard,
    /// This file, as they come.
    File(Arc<File>),
}

/// The accelerator that a caller asks for.
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

/// Source of a machine's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Power-on.
    Cold,
    /// A saved machine of the same [`fingerprint`](crate::Hypervisor::fingerprint). The rootfs, disks and shares are
    /// those of this spec; disks that the state knows of must be among them, with the content that they had then.
    Saved(Saved),
}

/// A saved machine. Its owner vouches that the folder's files are those that were saved and that nobody else can write to
/// them: a state is a program for the engine's parsers, and a memory image is the guest's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The folder that [`Machine::save`](crate::Machine::save) filled, wherever it is by now.
    pub folder: PathBuf,
    /// Its return value.
    pub state: SavedState,
}

/// The engine's notes on a saved machine, for its owner to keep and to hand back. The rest is in the folder's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedState {
    /// The [`fingerprint`](crate::Hypervisor::fingerprint) under which the state may be restored.
    pub fingerprint: String,
    /// Serial numbers of the disks that the state knows of, and the place of each in the machine.
    pub disks: BTreeMap<String, usize>,
    /// Identity of the machine, for an engine that restores a state only into a machine of the same identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<u8>,
}
