//! Addresses of vsock, which have no safe wrapper.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Connects to a port of a context: 2 is the host.
///
/// # Errors
/// The kernel's: nobody listens there, or there is no vsock.
pub(crate) fn connect(cid: u32, port: u32) -> io::Result<OwnedFd> {
    with_address(cid, port, libc::connect)
}

/// Listens on a port, for one connection at a time.
///
/// # Errors
/// The kernel's: the port is taken, or there is no vsock.
pub(crate) fn listen(port: u32) -> io::Result<OwnedFd> {
    let socket = with_address(libc::VMADDR_CID_ANY, port, libc::bind)?;
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}

/// `connect(2)` or `bind(2)`.
type Call = unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int;

fn with_address(cid: u32, port: u32, call: Call) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).map_err(io::Error::other)?;
    let address = libc::sockaddr_vm {
        svm_family: libc::sa_family_t::try_from(libc::AF_VSOCK).map_err(io::Error::other)?,
        svm_reserved1: 0,
        svm_port: port,
        svm_cid: cid,
        svm_zero: [0; 4],
    };
    // SAFETY: the socket is open, and the kernel reads `length` bytes of `address`, which lives across the call.
    match unsafe { call(socket.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}
