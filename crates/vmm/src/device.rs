//! Devices that a machine has from its start, or that come and go while it runs.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// A device that [`Machine::attach`](crate::Machine::attach) takes.
#[derive(Debug, Clone)]
pub enum Device {
    /// A host folder.
    Share(Share),
    /// A block device.
    Disk(Disk),
    /// The vsock device; a machine has one at most.
    Vsock,
    /// A network device; a machine has one at most.
    Network(Network),
}

impl Device {
    /// The device's name within its machine.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        match self {
            Self::Share(share) => DeviceId::Share(share.tag.clone()),
            Self::Disk(disk) => DeviceId::Disk(disk.serial.clone()),
            Self::Vsock => DeviceId::Vsock,
            Self::Network(_) => DeviceId::Network,
        }
    }
}

/// The name of a device within its machine, the same whether the machine's spec or [`Device`] brought it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DeviceId {
    /// The share with this tag.
    Share(String),
    /// The disk with this serial number.
    Disk(String),
    /// The vsock device.
    Vsock,
    /// The network device.
    Network,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(tag) => write!(f, "share {tag}"),
            Self::Disk(serial) => write!(f, "disk {serial}"),
            Self::Vsock => f.write_str("the vsock device"),
            Self::Network => f.write_str("the network device"),
        }
    }
}

/// A raw image as a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Serial number by which the guest finds it; ASCII letters and digits, up to 20.
    pub serial: String,
    /// The raw image.
    pub path: PathBuf,
    /// True if the host refuses writes.
    pub read_only: bool,
}

/// A host folder in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// virtio-fs tag: 1 to 36 of ASCII letters, digits, `-`, `_` and `.`, not starting with a dot.
    pub tag: String,
    /// The folder.
    pub path: PathBuf,
    /// True if the host refuses writes, whatever the guest does.
    pub read_only: bool,
    /// The guest's user and group that the files of the host's user are to belong to, where all of the guest's users are one
    /// on the host. Without it, and where they are not, files belong to the same numbers on both sides, or to root.
    pub owner: Option<Owner>,
}

/// A user and a group of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// A machine's network.
#[derive(Debug, Clone, Default)]
pub enum Network {
    /// No network, and no device for one.
    #[default]
    None,
    /// One device, with a link address of its own, behind the host's address translation. A DHCP server on the host's
    /// side gives the guest its address.
    Nat,
    /// One device whose Ethernet frames go through a socket: its other end decides what the guest can reach.
    Frames(Frames),
}

/// A network device whose frames go through a socket.
#[derive(Debug, Clone)]
pub struct Frames {
    /// The machine's end of a socket pair, of the kind that [`Capabilities::framing`](crate::Capabilities) names.
    pub socket: Arc<OwnedFd>,
    /// The guest's link address.
    pub mac: Mac,
}

/// The way in which Ethernet frames travel through a socket, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// A stream socket; each frame follows its length, a 32-bit number in network byte order.
    LengthPrefixed,
    /// A datagram socket; each datagram is a frame. The socket's receive buffer should hold four times its send buffer,
    /// or frames are lost under load.
    Datagrams,
}

/// A link address (EUI-48).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// True for the address of one device: neither that of a group nor all zeros.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_address_is_written_as_people_know_it_and_belongs_to_one_device() {
        assert_eq!(Mac([2, 0, 0xab, 0, 0, 7]).to_string(), "02:00:ab:00:00:07");
        assert!(Mac([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!Mac([3, 0, 0, 0, 0, 1]).is_unicast() && !Mac([0; 6]).is_unicast());
    }
}
