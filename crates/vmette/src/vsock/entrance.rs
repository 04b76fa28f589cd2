//! UNIX sockets of the host that lead to ports of the guest.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmette_vmm::Machine;

use super::connect::{CONNECT_LIMIT, connect};
use super::relay::Relays;
use crate::config::VsockConnect;
use crate::error::{Error, VsockError};
use crate::notice::Notices;

/// Who may connect: this user.
const MODE: u32 = 0o600;

/// How long to wait when a connection cannot be accepted, for want of descriptors or memory: it is still there to be
/// accepted, and would be tried in a loop.
const PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A socket that is there as long as this is kept.
pub(super) struct Entrance {
    path: PathBuf,
    /// Of the socket, so that nobody else's is removed.
    inode: u64,
    /// Ends the thread by being dropped.
    _open: OwnedFd,
}

impl Entrance {
    /// Makes the socket. From now on connections to it go to the guest.
    pub(super) fn open(
        machine: &Arc<dyn Machine>,
        connect: &VsockConnect,
        relays: &Arc<Relays>,
        notices: &Arc<Notices>,
    ) -> Result<Self, Error> {
        let path = std::path::absolute(&connect.path)?;
        let failed = |source| VsockError::Socket { path: path.clone(), source };
        let listener = listen(&path).map_err(failed)?;
        let inode = fs::symlink_metadata(&path).map_err(failed)?.ino();
        let (open, over) = UnixStream::pair()?;
        let entrance = Self { path, inode, _open: open.into() };
        let (machine, port) = (Arc::downgrade(machine), connect.port);
        let (relays, notices) = (relays.clone(), notices.clone());
        thread::Builder::new().name("vmette-vsock".into()).spawn(move || {
            while let Some(stream) = next(&listener, &over) {
                if let Err(e) = stream.and_then(|host| enter(host, &machine, port, &relays, &notices)) {
                    notices.warn(refused(port, &e));
                }
            }
        })?;
        Ok(entrance)
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            // Whoever has removed it meanwhile has done what was to be done.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The next connection; `None` when there are to be no more.
fn next(listener: &UnixListener, over: &UnixStream) -> Option<io::Result<UnixStream>> {
    loop {
        let mut both = [PollFd::new(listener, PollFlags::IN), PollFd::new(over, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        if !both[1].revents().is_empty() {
            return None;
        }
        if both[0].revents().is_empty() {
            continue;
        }
        match listener.accept() {
            // It is gone already.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {}
            Err(e) => {
                // Cut short by the end, which the next look sees.
                let _ = poll(&mut [PollFd::new(over, PollFlags::IN)], Some(&PAUSE));
                return Some(Err(e));
            }
            Ok((stream, _)) => return Some(stream.set_nonblocking(false).map(|()| stream)),
        }
    }
}

/// Connects to the guest on a thread of its own: a guest that does not answer holds nobody else up.
fn enter(
    host: UnixStream,
    machine: &Weak<dyn Machine>,
    port: u32,
    relays: &Arc<Relays>,
    notices: &Arc<Notices>,
) -> io::Result<()> {
    let Some(machine) = machine.upgrade() else { return Ok(()) };
    let (notices, later) = (notices.clone(), relays.clone());
    relays.run(host.try_clone()?, move |_| {
        let connected = machine.vsock_connect(port).map_err(|e| e.to_string());
        // Its end is not to wait for this connection's.
        drop(machine);
        let passed = connected.and_then(|guest| later.start(guest, host).map_err(|e| e.to_string()));
        if let Err(reason) = passed {
            notices.warn(refused(port, &reason));
        }
    })
}

fn refused(port: u32, reason: &dyn std::fmt::Display) -> String {
    format!("connection to the guest's vsock port {port}: {reason}")
}

/// A new socket that only this user may connect to. One that a killed process has left is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = match bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_left_over(path, CONNECT_LIMIT) => {
            fs::remove_file(path)?;
            bind(path)?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether it is a socket of this user's on which nobody listens. A server that hangs is somebody.
fn is_left_over(path: &Path, limit: Duration) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|meta| meta.file_type().is_socket() && meta.uid() == rustix::process::geteuid().as_raw())
        && connect(path, limit).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// The permissions are there before anybody can connect.
#[cfg(target_os = "linux")]
fn bind(path: &Path) -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
    /// Connections that wait.
    const BACKLOG: i32 = 128;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // What the umask took away is given.
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Where a socket has no permissions before it has a name; until then the umask's are in force.
#[cfg(not(target_os = "linux"))]
fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_user_may_connect_and_only_what_a_dead_one_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse, "somebody listens");
        drop(first);
        drop(listen(&path).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "dear").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"dear");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_server_that_hangs_is_neither_replaced_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = bind(&path).unwrap();
        rustix::net::listen(&server, 0).unwrap();
        let _waiting = connect(&path, CONNECT_LIMIT).unwrap();
        assert!(!is_left_over(&path, Duration::from_millis(10)));
        drop(server);
        assert!(is_left_over(&path, CONNECT_LIMIT));
    }
}
