//! Network interfaces, by the kernel's routing socket (`rtnetlink(7)`): in one request an interface gets an address with
//! its mask and the time after which the kernel itself takes it away.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use super::dhcp::client::timespec;
use crate::sys::LinkAddr;

/// Largest answer: the kernel fills a page, or what the reader has room for up to that.
const ANSWER_MAX: usize = 32 << 10;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Every part of a message begins at a multiple of this.
const ALIGN: usize = 4;

/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// `RTMGRP_LINK`: what happens to interfaces.
const LINK_CHANGES: u32 = 1;

/// `RTPROT_DHCP`: whom a route is from, for who lists them.
const ROUTE_OF_DHCP: u8 = 16;

/// An Ethernet interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) address: LinkAddr,
}

/// A connection to the kernel's routing socket.
#[derive(Debug)]
pub(crate) struct Links {
    socket: OwnedFd,
    sequence: u32,
}

/// A request in the making.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<Self> {
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).map_err(io::Error::other)?;
        // Length and sequence number come last.
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(body);
        Ok(Self(bytes))
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> io::Result<Self> {
        let length = u16::try_from(ALIGN + value.len()).map_err(io::Error::other)?;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
        Ok(self)
    }

    fn finish(mut self, sequence: u32) -> io::Result<Vec<u8>> {
        let length = u32::try_from(self.0.len()).map_err(io::Error::other)?;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(self.0)
    }
}

impl Links {
    pub(crate) fn open() -> io::Result<Self> {
        // No protocol is that of routing.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The first Ethernet interface there is.
    pub(crate) fn first_ethernet(&mut self) -> io::Result<Option<Link>> {
        let request = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16])?;
        let mut found: Option<Link> = None;
        self.exchange(request, |kind, body| {
            if kind == libc::RTM_NEWLINK
                && let Some(link) = ethernet(body)
                && found.as_ref().is_none_or(|known| link.index < known.index)
            {
                found = Some(link);
            }
        })?;
        Ok(found)
    }

    /// Brings an interface up, and waits until it carries packets, for `limit` at most: those that are sent before are
    /// lost without an error. Nothing is at the other end, perhaps, when it does not.
    pub(crate) fn up(&mut self, index: u32, limit: Duration) -> io::Result<()> {
        let up = u32::try_from(libc::IFF_UP).map_err(io::Error::other)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let changes = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&changes, &SocketAddrNetlink::new(0, LINK_CHANGES))?;
        self.order(Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &interface(index, up, up))?)?;
        let deadline = Instant::now() + limit;
        while !self.is_running(index)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            match poll(&mut [PollFd::new(&changes, PollFlags::IN)], Some(&timespec(left))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            // Their contents do not matter: they are a reason to look again. An overrun is one as well.
            let mut some = [0u8; 64];
            while matches!(
                recv(&changes, &mut some, RecvFlags::TRUNC),
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR)
            ) {}
        }
        Ok(())
    }

    fn is_running(&mut self, index: u32) -> io::Result<bool> {
        let flag = u32::try_from(libc::IFF_RUNNING).map_err(io::Error::other)?;
        let mut running = false;
        self.exchange(Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16])?, |kind, body| {
            if kind == libc::RTM_NEWLINK && word(body, 4) == Some(index) {
                running = word(body, 8).is_some_and(|flags| flags & flag != 0);
            }
        })?;
        Ok(running)
    }

    /// Sets the largest packet of an interface, in bytes.
    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u16) -> io::Result<()> {
        let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &interface(index, 0, 0))?;
        self.order(message.attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes())?)
    }

    /// Gives an interface an address, or its address another `lifetime` in seconds (`None`: for ever).
    pub(crate) fn set_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
        lifetime: Option<u32>,
    ) -> io::Result<()> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let lifetime = lifetime.unwrap_or(u32::MAX).to_ne_bytes();
        let broadcast =
            Ipv4Addr::from_bits(address.to_bits() | u32::MAX.checked_shr(prefix.into()).unwrap_or(0));
        // `struct ifa_cacheinfo`: preferred, valid, and two times that the kernel fills in.
        let times = [lifetime, lifetime, [0; 4], [0; 4]].concat();
        let message = Message::new(libc::RTM_NEWADDR, flags, &addressed(index, prefix))?
            .attribute(libc::IFA_LOCAL, &address.octets())?
            .attribute(libc::IFA_ADDRESS, &address.octets())?
            .attribute(libc::IFA_BROADCAST, &broadcast.octets())?
            .attribute(libc::IFA_CACHEINFO, &times)?;
        self.order(message)
    }

    /// Takes an address away, and the routes that depend on it. Succeeds if the interface does not have it.
    pub(crate) fn remove_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let message = Message::new(libc::RTM_DELADDR, libc::NLM_F_ACK, &addressed(index, prefix))?
            .attribute(libc::IFA_LOCAL, &address.octets())?;
        match self.order(message) {
            Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// Sends what has no route of its own to `router`.
    pub(crate) fn set_default_route(&mut self, index: u32, router: Ipv4Addr) -> io::Result<()> {
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2")]
        let family = libc::AF_INET as u8;
        // `struct rtmsg`: to everywhere, by a router.
        let body = [
            family,
            0,
            0,
            0,
            libc::RT_TABLE_MAIN,
            ROUTE_OF_DHCP,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let message = Message::new(libc::RTM_NEWROUTE, flags, &body)?
            .attribute(libc::RTA_GATEWAY, &router.octets())?
            .attribute(libc::RTA_OIF, &index.to_ne_bytes())?;
        self.order(message)
    }

    fn order(&mut self, message: Message) -> io::Result<()> {
        self.exchange(message, |_, _| ())
    }

    /// Sends a request and hands the answers to it on, until the kernel says that there are no more.
    fn exchange(&mut self, message: Message, mut answer: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &message.finish(self.sequence)?, SendFlags::empty())?;
        let mut buffer = vec![0; ANSWER_MAX];
        loop {
            let (_, length) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            let mut rest = buffer.get(..length).ok_or_else(|| io::Error::other("an answer is too long"))?;
            while let Some((kind, sequence, body)) = next_message(&mut rest) {
                if sequence != self.sequence {
                    continue;
                }
                match libc::c_int::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        return match word(body, 0).map(u32::cast_signed) {
                            Some(0) => Ok(()),
                            Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    _ => answer(kind, body),
                }
            }
        }
    }
}

/// `struct ifinfomsg`.
fn interface(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), change.to_ne_bytes()].concat()
}

/// `struct ifaddrmsg`.
fn addressed(index: u32, prefix: u8) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2")]
    let family = libc::AF_INET as u8;
    [[family, prefix, 0, libc::RT_SCOPE_UNIVERSE], index.to_ne_bytes()].concat()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// Takes the next message of an answer: its type, its sequence number and what is behind its header.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let length = usize::try_from(word(rest, 0)?).ok()?;
    let (kind, sequence) = (half(rest, 4)?, word(rest, 8)?);
    let body = rest.get(HEADER..length)?;
    *rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
    Some((kind, sequence, body))
}

/// The Ethernet interface of an `RTM_NEWLINK`; `None` for one of another kind.
fn ethernet(body: &[u8]) -> Option<Link> {
    const ATTRIBUTES: usize = 16;
    if half(body, 2)? != ETHERNET {
        return None;
    }
    let index = word(body, 4)?;
    let mut rest = body.get(ATTRIBUTES..)?;
    while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        let length = usize::from(length);
        let value = rest.get(ALIGN..length)?;
        if kind == libc::IFLA_ADDRESS {
            return Some(Link { index, address: value.try_into().ok()? });
        }
        rest = rest.get(length.next_multiple_of(ALIGN)..)?;
    }
    None
}
