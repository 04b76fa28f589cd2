//! What an engine can do on this host, as data.

use serde::Serialize;

/// What executes the guest's instructions.
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

/// What stands between the guest and the host.
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

/// What an engine offers on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Name and version of the engine, as people write it: `QEMU 7.2.22`.
    pub engine: String,
    /// What the spec's choice of accelerator comes to here.
    pub accelerator: Accelerator,
    /// Why it is this one, and what would have to change to get a better one. One sentence each.
    pub reasons: Vec<String>,
    /// Whether a machine boots the spec's kernel and mounts its rootfs. The in-process engine does not, and needs
    /// neither to be there.
    pub boots: bool,
    /// Why [`Machine::save`](crate::Machine::save) and [`Origin::Snapshot`](crate::Origin::Snapshot) do not work for such
    /// a machine here; `None` when they do.
    pub no_snapshots: Option<String>,
    /// Why host folders cannot be shared here, and the remedy; `None` when they can.
    pub no_shares: Option<String>,
    /// Why machines have no vsock device here, and the remedy; `None` when [`MachineSpec::vsock`](crate::MachineSpec)
    /// may be set.
    pub no_vsock: Option<String>,
    /// Why machines have no network here; `None` when [`MachineSpec::network`](crate::MachineSpec) may be
    /// [`Network::Nat`](crate::Network).
    pub no_network: Option<String>,
    /// Most virtual CPUs of one machine.
    pub max_vcpus: u32,
}
