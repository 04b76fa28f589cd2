//! Sockets of the family `AF_VSOCK`.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
    // SAFETY: a structure of plain numbers, for which zero is a value.
    let mut raw: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    raw.svm_family = FAMILY;
    raw.svm_cid = addr.cid;
    raw.svm_port = addr.port;
    raw
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: socket(2) touches no memory.
    let fd = check(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Connects; the kernel gives up after two seconds.
///
/// # Errors
/// The kernel's: `ENODEV` or `ENETUNREACH` without a device, `ECONNRESET` when nobody listens.
pub(crate) fn vsock_connect(addr: VsockAddr) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let raw = raw(addr);
    // SAFETY: the address lives across the call and is as long as it is said to be.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const raw).cast(), LEN) })?;
    Ok(socket)
}

/// Listens; accepting does not block.
///
/// # Errors
/// The kernel's: the port is taken.
pub(crate) fn vsock_listen(addr: VsockAddr, backlog: i32) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let raw = raw(addr);
    // SAFETY: the address lives across the call and is as long as it is said to be.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), LEN) })?;
    // SAFETY: listen(2) touches no memory.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// The next connection, and who it is from.
///
/// # Errors
/// The kernel's; `EAGAIN` when there is none.
pub(crate) fn vsock_accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, VsockAddr)> {
    let mut peer = raw(VsockAddr { cid: CID_ANY, port: 0 });
    let mut len = LEN;
    // SAFETY: the kernel writes at most `len` bytes to `peer`; both live across the call.
    let fd = check(unsafe {
        libc::accept4(listener.as_raw_fd(), (&raw mut peer).cast(), &raw mut len, libc::SOCK_CLOEXEC)
    })?;
    // SAFETY: the kernel has just made it for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((socket, VsockAddr { cid: peer.svm_cid, port: peer.svm_port }))
}
