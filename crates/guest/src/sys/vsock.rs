//! Sockets of the family `AF_VSOCK`, whose addresses have no safe wrapper.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// A vsock address: whose, and which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VsockAddr {
    pub(crate) cid: u32,
    pub(crate) port: u32,
}

/// The host's address.
pub(crate) const CID_HOST: u32 = libc::VMADDR_CID_HOST;

/// Any address of this machine's.
pub(crate) const CID_ANY: u32 = libc::VMADDR_CID_ANY;

#[allow(clippy::cast_possible_truncation, reason = "16 bytes")]
const LEN: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

#[allow(clippy::cast_possible_truncation, reason = "families have small numbers")]
const FAMILY: libc::sa_family_t = libc::AF_VSOCK as libc::sa_family_t;

fn raw(addr: VsockAddr) -> libc::sockaddr_vm {
    libc::sockaddr_vm {
        svm_family: FAMILY,
        svm_reserved1: 0,
        svm_port: addr.port,
        svm_cid: addr.cid,
        svm_zero: [0; 4],
    }
}

/// `connect(2)` or `bind(2)`.
type Call = unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int;

fn with_address(addr: VsockAddr, call: Call) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let raw = raw(addr);
    // SAFETY: the socket is open, and the kernel reads `LEN` bytes of `raw`, which lives across the call.
    match unsafe { call(socket.as_raw_fd(), (&raw const raw).cast(), LEN) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Connects; the kernel gives up after two seconds.
///
/// # Errors
/// The kernel's: `ENODEV` or `ENETUNREACH` without a device, `ECONNRESET` when nobody listens.
pub(crate) fn vsock_connect(addr: VsockAddr) -> io::Result<OwnedFd> {
    with_address(addr, libc::connect)
}

/// Listens.
///
/// # Errors
/// The kernel's: the port is taken, or there is no vsock.
pub(crate) fn vsock_listen(addr: VsockAddr, backlog: i32) -> io::Result<OwnedFd> {
    let socket = with_address(addr, libc::bind)?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// The next connection, and who it is from.
///
/// # Errors
/// The kernel's; `EAGAIN` when there is none and the listener does not block.
pub(crate) fn vsock_accept(listener: impl AsFd) -> io::Result<(OwnedFd, VsockAddr)> {
    let mut peer = raw(VsockAddr { cid: CID_ANY, port: 0 });
    let mut len = LEN;
    let listener = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `peer`; both live across the call.
    let fd = unsafe { libc::accept4(listener, (&raw mut peer).cast(), &raw mut len, libc::SOCK_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((socket, VsockAddr { cid: peer.svm_cid, port: peer.svm_port }))
}
