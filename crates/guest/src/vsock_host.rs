//! A host that is reached by vsock, where there is no virtio-serial port for the agent: the machine's kernel command line
//! says so.
//!
//! A machine that boots connects to the host. One that was saved and restored has lost that connection, and may not hear
//! of it: so the agent listens as well, and the host connects to a machine that it has restored.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vmette_wire::devices::AGENT_VSOCK_WORD as WORD;

use crate::devices::Uevents;
use crate::sys::{self, CID_ANY, CID_HOST, VsockAddr};

/// Longest command line that is looked at, in bytes: no kernel takes a longer one.
const CMDLINE_MAX: usize = 64 << 10;

/// Hosts that wait for the agent: there is one.
const BACKLOG: i32 = 1;

/// The port at which the host is, and this agent too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port(u32);

impl Port {
    /// `None`: the host is reached in the usual way.
    ///
    /// # Errors
    /// The command line cannot be read, or has no number there.
    pub(crate) fn of_this_machine() -> io::Result<Option<Self>> {
        Self::parse(&fs::read_to_string("/proc/cmdline")?)
    }

    /// The last word counts, as it does for the kernel: the engine's comes after the user's.
    fn parse(cmdline: &str) -> io::Result<Option<Self>> {
        let cmdline = cmdline.get(..CMDLINE_MAX).unwrap_or(cmdline);
        let Some(port) = cmdline.split_whitespace().filter_map(|word| word.strip_prefix(WORD)).next_back()
        else {
            return Ok(None);
        };
        match port.parse() {
            Ok(port) => Ok(Some(Self(port))),
            Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{WORD}{port}: {e}"))),
        }
    }

    /// Listens and connects to the host, once the device is there; `None` when `limit` has passed.
    ///
    /// # Errors
    /// The kernel's; a host that refuses.
    pub(crate) fn open(self, uevents: &Uevents, limit: Duration) -> io::Result<Option<(OwnedFd, Listener)>> {
        let Self(port) = self;
        let deadline = Instant::now() + limit;
        let host = uevents.wait_for(limit, || {
            loop {
                match sys::vsock_connect(VsockAddr { cid: CID_HOST, port }) {
                    Ok(stream) => return Ok(Some(stream)),
                    // The driver is there before the device is, or not yet either.
                    Err(e) if is_missing(&e) => return Ok(None),
                    // A host that is busy; the kernel has given up after two seconds.
                    Err(e) if e.kind() == io::ErrorKind::TimedOut && Instant::now() < deadline => {}
                    Err(e) => return Err(e),
                }
            }
        })?;
        let Some(host) = host else { return Ok(None) };
        let listener = sys::vsock_listen(VsockAddr { cid: CID_ANY, port }, BACKLOG)?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        Ok(Some((host, Listener(listener))))
    }
}

fn is_missing(error: &io::Error) -> bool {
    [Errno::NODEV, Errno::NETUNREACH, Errno::AFNOSUPPORT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The place where the host of a restored machine connects.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl Listener {
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The host that has connected; `None` when there is none, or when it was not the host.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match sys::vsock_accept(&self.0) {
            // A program in this machine must not become the agent's host.
            Ok((stream, peer)) => Ok((peer.cid == CID_HOST).then_some(stream)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) if e.raw_os_error() == Some(Errno::CONNABORTED.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_the_command_line_counts() {
        let port = |cmdline: &str| Port::parse(cmdline).unwrap();
        assert_eq!(port("console=ttyS0 quiet\n"), None);
        assert_eq!(port("quiet vmette.agent=vsock:1024\n"), Some(Port(1024)));
        assert_eq!(port("vmette.agent=vsock:1 a vmette.agent=vsock:2 b"), Some(Port(2)));
        assert_eq!(port("xvmette.agent=vsock:1"), None);
        for damaged in ["vmette.agent=vsock:", "vmette.agent=vsock:x", "vmette.agent=vsock:4294967296"] {
            assert!(Port::parse(damaged).is_err(), "{damaged}");
        }
    }
}
