//! Listening on a vsock port of this machine.

use std::io;
use std::os::fd::OwnedFd;

use crate::sys::{self, VsockAddr};

/// Listens on a port, for one connection at a time.
pub(super) fn listen_on(port: u32) -> io::Result<OwnedFd> {
    sys::vsock_listen(VsockAddr { cid: sys::CID_ANY, port }, 1)
}

/// Waits until somebody has connected, from wherever.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(sys::vsock_accept(listener)?.0)
}
