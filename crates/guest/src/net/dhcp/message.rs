//! DHCP messages as they travel: RFC 2131, its options RFC 2132, in UDP, in IPv4.

use std::net::Ipv4Addr;

use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket, EthernetAddress,
    IpAddress, IpProtocol, Ipv4Packet, UdpPacket,
};

use crate::sys::LinkAddr;

/// The port of the client, which answers come to.
pub(crate) const CLIENT_PORT: u16 = DHCP_CLIENT_PORT;

/// The port of the server.
pub(crate) const SERVER_PORT: u16 = DHCP_SERVER_PORT;

/// Largest answer, with its headers, in bytes: what fits into a frame. Servers are told.
pub(crate) const ANSWER_MAX: usize = 1500;

/// How long a lease is asked for, in seconds. A machine lives for minutes, and its address is lost to the others for the
/// whole lease: nobody gives it back when the machine is switched off.
const LEASE_WANTED: u32 = 3600;

/// Room for the options of a request: a host name is the only one of no fixed length.
const OPTIONS_ROOM: usize = 160;

/// Behind the fields of BOOTP: these are options of DHCP.
const MAGIC: u32 = 0x6382_5363;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// The fields before the options.
const FIXED: usize = 240;

const TIME_TO_LIVE: u8 = 64;

/// Numbers of options.
pub(crate) mod option {
    pub(crate) const SUBNET_MASK: u8 = 1;
    pub(crate) const ROUTER: u8 = 3;
    pub(crate) const NAME_SERVERS: u8 = 6;
    pub(crate) const HOST_NAME: u8 = 12;
    pub(crate) const DOMAIN_NAME: u8 = 15;
    pub(crate) const MTU: u8 = 26;
    pub(crate) const REQUESTED_ADDRESS: u8 = 50;
    pub(crate) const LEASE_TIME: u8 = 51;
    pub(crate) const MESSAGE_TYPE: u8 = 53;
    pub(crate) const SERVER: u8 = 54;
    pub(crate) const WANTED: u8 = 55;
    pub(crate) const LONGEST_MESSAGE: u8 = 57;
    pub(crate) const RENEWAL_TIME: u8 = 58;
    pub(crate) const REBINDING_TIME: u8 = 59;
    pub(crate) const CLIENT: u8 = 61;
}

/// Options that servers are asked for.
const WANTED: [u8; 8] = [
    option::SUBNET_MASK,
    option::ROUTER,
    option::NAME_SERVERS,
    option::DOMAIN_NAME,
    option::MTU,
    option::LEASE_TIME,
    option::RENEWAL_TIME,
    option::REBINDING_TIME,
];

/// The machine that asks.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) address: LinkAddr,
    /// A DNS label.
    pub(crate) hostname: String,
}

/// The question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// For any server that has an address.
    Discover,
    /// I take that one of yours.
    Request { address: Ipv4Addr, server: Ipv4Addr },
    /// May I keep mine?
    Renew { address: Ipv4Addr },
}

impl Question {
    /// The message, without the headers of UDP and IP. `None` is never: a host name of more than a DNS label.
    pub(crate) fn message(self, client: &Client, transaction: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; FIXED + OPTIONS_ROOM];
        let mut packet = DhcpPacket::new_unchecked(&mut bytes[..]);
        packet.set_opcode(DhcpOpCode::Request);
        packet.set_hardware_type(smoltcp::wire::ArpHardware::Ethernet);
        packet.set_hardware_len(6);
        packet.set_transaction_id(transaction);
        packet.set_client_hardware_address(EthernetAddress(client.address));
        packet.set_magic_number(MAGIC);
        let kind = match self {
            Self::Discover => DhcpMessageType::Discover,
            Self::Request { .. } | Self::Renew { .. } => DhcpMessageType::Request,
        };
        if let Self::Renew { address } = self {
            packet.set_client_ip(address);
        }
        let identity = [&[1], client.address.as_slice()].concat();
        let longest = u16::try_from(ANSWER_MAX).ok()?.to_be_bytes();
        let (mut requested, mut chosen) = (None, None);
        if let Self::Request { address, server } = self {
            (requested, chosen) = (Some(address.octets()), Some(server.octets()));
        }
        let lease = LEASE_WANTED.to_be_bytes();
        let options: [(u8, Option<&[u8]>); 8] = [
            (option::MESSAGE_TYPE, Some(&[kind.into()])),
            (option::CLIENT, Some(&identity)),
            (option::REQUESTED_ADDRESS, requested.as_ref().map(<[u8; 4]>::as_slice)),
            (option::SERVER, chosen.as_ref().map(<[u8; 4]>::as_slice)),
            (option::LONGEST_MESSAGE, Some(&longest)),
            (option::LEASE_TIME, Some(&lease)),
            (option::HOST_NAME, Some(client.hostname.as_bytes()).filter(|name| !name.is_empty())),
            (option::WANTED, Some(&WANTED)),
        ];
        let mut writer = packet.options_mut();
        for (kind, data) in options {
            if let Some(data) = data {
                writer.emit(DhcpOption { kind, data }).ok()?;
            }
        }
        writer.end().ok()?;
        Some(bytes)
    }
}

/// A message in a packet from nowhere to everybody: from an interface without an address.
pub(crate) fn broadcast(message: &[u8]) -> Option<Vec<u8>> {
    let (from, to) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    let total = IP_HEADER + UDP_HEADER + message.len();
    let mut bytes = vec![0; total];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
    packet.set_version(4);
    packet.set_header_len(u8::try_from(IP_HEADER).ok()?);
    packet.set_total_len(u16::try_from(total).ok()?);
    packet.set_hop_limit(TIME_TO_LIVE);
    packet.set_next_header(IpProtocol::Udp);
    packet.set_src_addr(from);
    packet.set_dst_addr(to);
    packet.fill_checksum();
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    datagram.set_src_port(CLIENT_PORT);
    datagram.set_dst_port(SERVER_PORT);
    datagram.set_len(u16::try_from(UDP_HEADER + message.len()).ok()?);
    datagram.payload_mut().copy_from_slice(message);
    datagram.fill_checksum(&IpAddress::Ipv4(from), &IpAddress::Ipv4(to));
    Some(bytes)
}

/// Kind of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An address may be had.
    Offer,
    /// It is the client's.
    Ack,
    /// It is not.
    Nak,
}

/// A server's answer to this client's question.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    packet: DhcpPacket<&'a [u8]>,
    pub(crate) kind: Kind,
}

impl<'a> Answer<'a> {
    /// Reads a packet from its IP header on; `None`: it is not an answer to that client's question, or no DHCP message at
    /// all. The sum of the datagram is not looked at: a sender in the same host may have left it to a card that is not
    /// there.
    pub(crate) fn parse(packet: &'a [u8], client: &Client, transaction: u32) -> Option<Self> {
        let ip = Ipv4Packet::new_checked(packet).ok()?;
        let whole = ip.version() == 4 && !ip.more_frags() && ip.frag_offset() == 0 && ip.verify_checksum();
        if !whole || ip.next_header() != IpProtocol::Udp {
            return None;
        }
        let udp = UdpPacket::new_checked(ip.payload()).ok()?;
        if (udp.src_port(), udp.dst_port()) != (SERVER_PORT, CLIENT_PORT) {
            return None;
        }
        let packet = DhcpPacket::new_checked(udp.payload()).ok()?;
        let mine = packet.magic_number() == MAGIC
            && packet.opcode() == DhcpOpCode::Reply
            && packet.transaction_id() == transaction
            && packet.hardware_len() == 6
            && packet.client_hardware_address() == EthernetAddress(client.address);
        if !mine {
            return None;
        }
        let answer = Self { packet, kind: Kind::Nak };
        let [kind] = *answer.option(option::MESSAGE_TYPE)? else { return None };
        let kind = match DhcpMessageType::from(kind) {
            DhcpMessageType::Offer => Kind::Offer,
            DhcpMessageType::Ack => Kind::Ack,
            DhcpMessageType::Nak => Kind::Nak,
            _ => return None,
        };
        Some(Self { kind, ..answer })
    }

    /// The address that the client may have.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.packet.your_ip()
    }

    /// The first option of that number.
    pub(crate) fn option(&self, number: u8) -> Option<&[u8]> {
        self.packet.options().find(|option| option.kind == number).map(|option| option.data)
    }
}
