//! Sockets between host and guest that a session is asked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Sockets between host and guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VsockOptions {
    /// The port that the guest is told of, and whether there is a vsock device.
    pub port: VsockPort,
    /// Whether the machine has a vsock device although no port asks for one: for
    /// [`SessionHandle::vsock_listen`](crate::SessionHandle::vsock_listen) and
    /// [`SessionHandle::vsock_connect`](crate::SessionHandle::vsock_connect).
    pub device: bool,
    /// Whether the session sends back what its command sends to the port it is told of, and shows it as
    /// [`Notice::Vsock`](crate::Notice::Vsock). Not when a forward has that port, and not without a command. Default: yes;
    /// `false` leaves the port to you.
    pub echo: Option<bool>,
    /// Ports of the host that lead to UNIX sockets of the host.
    pub forwards: Vec<VsockForward>,
    /// UNIX sockets of the host that lead to ports of the guest.
    pub connects: Vec<VsockConnect>,
}

/// The port of the host that the guest is told of in `VMETTE_VSOCK_PORT`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VsockPort {
    /// There is none, and no vsock device.
    Disabled,
    /// There is none, and no vsock device, unless [`VsockOptions::device`] or a port asks for one: a device costs each
    /// start some time. The port is then the first forward's, else one of 50000 to 59999.
    #[default]
    Auto,
    /// This one, and a device: 1 to 4294967294.
    Fixed(u32),
}

/// A port of the host at which the guest of one machine reaches a UNIX socket of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockForward {
    /// The port: 1 to 4294967294.
    pub port: u32,
    /// The socket, a stream socket on which somebody listens.
    pub path: PathBuf,
}

/// A UNIX socket of the host that is made for a session: each connection to it becomes one to a port of the guest. Only
/// this user may connect. It is there before the first command runs, and gone with the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConnect {
    /// The guest's port: 1 to 4294967294. Until somebody listens there, connections are closed at once.
    pub port: u32,
    /// The socket, in a folder that exists. What is there already is an error, unless it is a socket on which nobody
    /// listens any more.
    pub path: PathBuf,
}
