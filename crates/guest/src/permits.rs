//! Permissions that ordinary users of a container have, and of a bare kernel do not.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Settings of the network, which docker and podman give every container that has a network namespace of its own: anyone
/// may listen on port 80, and anyone may open an ICMP socket, with which `ping` works without capabilities.
const NETWORK: [(&str, &str); 2] =
    [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")];

const FOLDER: &str = "/proc/sys/net/ipv4";

/// Hard limit of open descriptors: the most that the kernel lets any process have (`fs.nr_open`), and podman's default.
/// Databases refuse to start with less than 65,536. The soft limit stays the kernel's 1,024, as containerd leaves it:
/// programs that use `select`, or close every number up to the limit, do not cope with more.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Lets ordinary users listen on all ports and open ICMP sockets. A kernel without such a setting goes on as it always
/// did.
///
/// # Errors
/// The kernel's.
pub(crate) fn open_network() -> io::Result<()> {
    for (name, value) in NETWORK {
        match fs::write(format!("{FOLDER}/{name}"), value) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

/// Raises the hard limit of this process and of all that it starts; `soft` is its own. Returns the soft limit of before.
///
/// # Errors
/// The kernel's.
pub(crate) fn raise_descriptor_limit(soft: u64) -> io::Result<Option<u64>> {
    let before = getrlimit(Resource::Nofile);
    // `None` is no limit at all.
    let hard = before.maximum.map(|hard| hard.max(DESCRIPTORS_MAX));
    let soft = hard.map_or(soft, |hard| hard.min(soft));
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: hard })?;
    Ok(before.current)
}
