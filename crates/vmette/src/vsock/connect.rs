//! Connections to servers of the host.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a server of the host whose queue of connections is full may keep the guest's, and those behind it, waiting.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Connects to a server, which has to take the connection in time: one that hangs must not hold up whoever comes next,
/// nor outlive the session.
#[cfg(target_os = "linux")]
pub(super) fn connect(path: &Path, limit: Duration) -> std::io::Result<UnixStream> {
    use rustix::io::Errno;
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    let address = SocketAddrUnix::new(path)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let hangs = format!("its server has not taken the connection within {} s", limit.as_secs());
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, hangs));
            }
            Err(e) => return Err(e.into()),
        }
    }
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket.into())
}

/// Where a full queue refuses at once.
#[cfg(not(target_os = "linux"))]
pub(super) fn connect(path: &Path, _limit: Duration) -> std::io::Result<UnixStream> {
    UnixStream::connect(path)
}
