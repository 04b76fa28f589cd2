//! An engine's abilities on this host, as data.

use serde::Serialize;

use crate::Framing;

/// The executor of the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// Linux KVM on hardware virtualisation.
    Kvm,
    /// QEMU's translator: no hardware boundary, every guest instruction is emulated by a process.
    Tcg,
    /// Apple's Hypervisor.framework.
    Hvf,
    /// No machine at all: the in-process engine of the test suite.
    None,
}

impl Accelerator {
    /// The promise that comes with it.
    #[must_use]
    pub fn isolation(self) -> Isolation {
        match self {
            Self::Kvm | Self::Hvf => Isolation::Hardware,
            Self::Tcg => Isolation::Emulation,
            Self::None => Isolation::None,
        }
    }
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Hvf => "hvf",
            Self::None => "none",
        })
    }
}

/// The barrier between the guest and the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// The processor's virtualisation.
    Hardware,
    /// A software emulator in a restricted process.
    Emulation,
    /// Nothing.
    None,
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hardware => "hardware virtualisation",
            Self::Emulation => "software emulation",
            Self::None => "none",
        })
    }
}

/// An engine's ability to do one thing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Support {
    /// It can.
    Yes,
    /// It cannot: the reason and, where there is one, the remedy.
    No(String),
}

impl Support {
    /// The reason why not, or `None` if the engine can.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Yes => None,
            Self::No(reason) => Some(reason),
        }
    }

    /// `Yes` without a reason why not.
    #[must_use]
    pub fn unless(refusal: Option<String>) -> Self {
        refusal.map_or(Self::Yes, Self::No)
    }
}

/// An engine's abilities on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Name and version of the engine, as people write it: `QEMU 7.2.22`.
    pub engine: String,
    /// The accelerator that the spec's choice comes to here.
    pub accelerator: Accelerator,
    /// Reasons for this accelerator, and changes that would allow a better one. One sentence each.
    pub reasons: Vec<String>,
    /// A command of root's that would allow a better accelerator, as a shell takes it.
    pub remedy: Option<String>,
    /// True if a machine boots an uncompressed x86 kernel (`vmlinux`) at its PVH entry, which takes less time than the
    /// image that the kernel's build makes.
    pub boots_elf: bool,
    /// [`Machine::save`](crate::Machine::save) and [`Origin::Saved`](crate::Origin::Saved) for such a machine.
    pub snapshots: Support,
    /// vsock devices: [`MachineSpec::vsock`](crate::MachineSpec).
    pub vsock: Support,
    /// [`Network::Nat`](crate::Network::Nat).
    pub nat: Support,
    /// [`Network::Frames`](crate::Network::Frames).
    pub frames: Support,
    /// The way in which those frames travel.
    pub framing: Framing,
    /// Most virtual CPUs of one machine.
    pub max_vcpus: u32,
}
