//! What a run really had, for people and programs.

use serde::{Deserialize, Serialize};
use vmette_vmm::{Accelerator, Isolation};

/// What a session had: the engine and its promise, where the machine came from, what was granted, how long it took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name and version of the engine.
    pub engine: String,
    /// What executed the guest's instructions.
    pub accelerator: Accelerator,
    /// The promise that comes with it.
    pub isolation: Isolation,
    /// Why this accelerator, and what a better one would need.
    pub reasons: Vec<String>,
    /// From a template, a snapshot or power-on.
    pub started_from: StartedFrom,
    /// What the root was.
    pub rootfs: RootfsReport,
    /// What went wrong and was worked around, for example a damaged template.
    pub notes: Vec<String>,
    /// Everything of the host that the guest can reach.
    pub grants: Grants,
    /// Milliseconds since the start was asked for.
    pub timings: Timings,
}

/// Where the machine's state came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StartedFrom {
    /// A saved state of a booted machine.
    Template,
    /// A snapshot of a session: [`SnapshotOptions::resume`](crate::SnapshotOptions::resume).
    Snapshot,
    /// Power-on.
    Cold,
}

/// What the workload's root was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootfsReport {
    /// What sort of thing.
    pub kind: RootfsKind,
    /// As the caller named it, else its path.
    pub name: String,
    /// The first digits of its identity, for an image of the cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// What sort of thing a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootfsKind {
    /// The one that comes with vmette.
    Builtin,
    /// A folder of the host.
    Directory,
    /// A block image.
    Image,
}

/// Everything of the host that the guest can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Grants {
    /// Folders.
    pub shares: Vec<ShareGrant>,
    /// Disks, read-write.
    pub disks: Vec<String>,
    /// Whether there is a network.
    pub network: bool,
    /// The vsock device, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockGrant>,
}

/// What the guest can reach over vsock, and who can reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VsockGrant {
    /// The port that it is told of.
    pub port: Option<u32>,
    /// Whether that port answers with what it is sent.
    pub echo: bool,
    /// Ports that lead to UNIX sockets.
    pub forwards: Vec<VsockGrantForward>,
    /// Ports of the guest that UNIX sockets lead to.
    pub connects: Vec<VsockGrantForward>,
}

/// A port and a UNIX socket, of which one leads to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VsockGrantForward {
    /// The port.
    pub port: u32,
    /// The socket's path on the host.
    pub host: String,
}

/// A folder that the guest can reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShareGrant {
    /// On the host.
    pub host: String,
    /// In the guest.
    pub guest: String,
    /// Whether the host refuses writes.
    pub read_only: bool,
}

/// Milliseconds from the request to start until each step was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Kernel, initramfs and rootfs were at hand.
    pub assets_ms: f64,
    /// The engine ran the machine.
    pub machine_ms: f64,
    /// The agent answered.
    pub agent_ms: f64,
    /// The workload's root was ready.
    pub ready_ms: f64,
}
