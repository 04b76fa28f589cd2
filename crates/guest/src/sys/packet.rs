//! Sockets of the family `AF_PACKET`, whose addresses have no safe wrapper: an address is leased before the interface has
//! one.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// A link address, of Ethernet.
pub(crate) type LinkAddr = [u8; 6];

#[allow(clippy::cast_possible_truncation, reason = "20 bytes")]
const LEN: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "families have small numbers")]
const FAMILY: libc::c_ushort = libc::AF_PACKET as libc::c_ushort;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0x0800")]
const IPV4: u16 = libc::ETH_P_IP as u16;

/// The kernel's language of filters, as far as [`udp_filter`] speaks it: `linux/bpf_common.h`.
mod bpf {
    pub(super) const LOAD_BYTE: u16 = 0x30;
    pub(super) const LOAD_HALF: u16 = 0x28;
    pub(super) const LOAD_HEADER_LENGTH: u16 = 0xb1;
    pub(super) const LOAD_HALF_BEHIND_HEADER: u16 = 0x48;
    pub(super) const JUMP_IF_EQUAL: u16 = 0x15;
    pub(super) const JUMP_IF_SET: u16 = 0x45;
    pub(super) const RETURN: u16 = 0x06;
}

/// Lets only unfragmented UDP datagrams to `port` through: what the workload exchanges meanwhile must neither wake this
/// socket nor fill its queue.
fn udp_filter(port: u16) -> [libc::sock_filter; 8] {
    const PROTOCOL: u32 = 9;
    const FRAGMENT: u32 = 6;
    const DESTINATION: u32 = 2;
    const UDP: u32 = 17;
    const OFFSET_BITS: u32 = 0x1fff;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        step(bpf::LOAD_BYTE, 0, 0, PROTOCOL),
        step(bpf::JUMP_IF_EQUAL, 0, 5, UDP),
        step(bpf::LOAD_HALF, 0, 0, FRAGMENT),
        step(bpf::JUMP_IF_SET, 3, 0, OFFSET_BITS),
        step(bpf::LOAD_HEADER_LENGTH, 0, 0, 0),
        step(bpf::LOAD_HALF_BEHIND_HEADER, 0, 0, DESTINATION),
        step(bpf::JUMP_IF_EQUAL, 1, 0, port.into()),
        step(bpf::RETURN, 0, 0, 0),
    ]
}

fn address(interface: u32, link: LinkAddr) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: `sockaddr_ll` is plain data, all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = FAMILY;
    address.sll_protocol = IPV4.to_be();
    address.sll_ifindex = interface.try_into().map_err(io::Error::other)?;
    address.sll_halen = 6;
    address.sll_addr[..link.len()].copy_from_slice(&link);
    Ok(address)
}

/// A socket that receives the IPv4 packets of `interface` that carry a UDP datagram to `port`, from the IP header on. It
/// does not block.
///
/// # Errors
/// The kernel's: no permission, no such interface.
pub(crate) fn packet_socket(interface: u32, port: u16) -> io::Result<OwnedFd> {
    // With no protocol it receives nothing until it is bound, by when the filter is in place.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)?;
    let filter = udp_filter(port);
    let accept = libc::sock_filter { code: bpf::RETURN, jt: 0, jf: 0, k: u32::MAX };
    let mut program = [filter.as_slice(), &[accept]].concat();
    let length = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    #[allow(clippy::cast_possible_truncation, reason = "16 bytes")]
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes of `program` and the filters that it points at, which live across the call.
    let attached = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    if attached != 0 {
        return Err(io::Error::last_os_error());
    }
    let address = address(interface, [0; 6])?;
    // SAFETY: the socket is open, and the kernel reads `LEN` bytes of `address`, which lives across the call.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LEN) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends an IPv4 packet on `interface` to the machine with that link address.
///
/// # Errors
/// The kernel's: the interface is down or gone.
pub(crate) fn packet_send(socket: impl AsFd, interface: u32, to: LinkAddr, packet: &[u8]) -> io::Result<()> {
    let address = address(interface, to)?;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the packet's bytes and `LEN` bytes of `address`, which live across the call.
    let sent = unsafe {
        libc::sendto(socket, packet.as_ptr().cast(), packet.len(), 0, (&raw const address).cast(), LEN)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
