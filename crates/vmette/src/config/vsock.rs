//! Sockets between host and guest that a session is asked for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;

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

/// What the vsock device is for.
pub(crate) struct Vsock {
    /// The port that the guest is told of.
    pub(crate) port: Option<u32>,
    /// Whether that port answers with what it is sent, if there is a command.
    pub(crate) echo: bool,
    pub(crate) forwards: Vec<VsockForward>,
    pub(crate) connects: Vec<VsockConnect>,
}

impl Vsock {
    /// `None`: no device, because nothing asks for one. `any_port` chooses a port that nobody names.
    pub(crate) fn new(
        asked: &VsockOptions,
        any_port: impl FnOnce() -> Result<u32, Error>,
    ) -> Result<Option<Self>, Error> {
        let VsockOptions { port, device, echo, forwards, connects } = asked;
        let port = match (port, forwards.first()) {
            (VsockPort::Disabled, _) => return Ok(None),
            (VsockPort::Fixed(port), _) => Some(*port),
            (VsockPort::Auto, Some(forward)) => Some(forward.port),
            (VsockPort::Auto, None) if *device => Some(any_port()?),
            (VsockPort::Auto, None) if connects.is_empty() => return Ok(None),
            (VsockPort::Auto, None) => None,
        };
        let is_taken = forwards.iter().any(|forward| Some(forward.port) == port);
        let echo = echo.unwrap_or(true) && port.is_some() && !is_taken;
        Ok(Some(Self { port, echo, forwards: forwards.clone(), connects: connects.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_vsock_device_when_something_asks_for_one() {
        let of = |change: fn(&mut VsockOptions)| {
            let mut options = VsockOptions::default();
            change(&mut options);
            Vsock::new(&options, || Ok(50_000)).unwrap().map(|vsock| (vsock.port, vsock.echo))
        };
        assert_eq!(of(|_| {}), None);
        assert_eq!(of(|v| v.port = VsockPort::Fixed(5)), Some((Some(5), true)));
        assert_eq!(of(|v| (v.port, v.echo) = (VsockPort::Fixed(5), Some(false))), Some((Some(5), false)));
        let forwards = |v: &mut VsockOptions| v.forwards = vec![VsockForward { port: 7, path: "/s".into() }];
        assert_eq!(of(forwards), Some((Some(7), false)), "a forward has the port");
        assert_eq!(of(|v| v.device = true), Some((Some(50_000), true)));
        let connects = of(|v| v.connects = vec![VsockConnect { port: 1, path: "/s".into() }]);
        assert_eq!(connects, Some((None, false)), "nobody is told of a port");
        let taken = |v: &mut VsockOptions| {
            v.port = VsockPort::Fixed(7);
            v.forwards = vec![VsockForward { port: 7, path: "/s".into() }];
        };
        assert_eq!(of(taken), Some((Some(7), false)), "a forward has the port");
    }
}
