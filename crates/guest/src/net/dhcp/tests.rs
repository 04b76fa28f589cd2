//! A server that says whatever a test wants.

use std::net::Ipv4Addr;

use smoltcp::wire::{IpProtocol, Ipv4Packet, UdpPacket};

use super::message::{CLIENT_PORT, SERVER_PORT, option};
use crate::sys::LinkAddr;

pub(crate) const CLIENT: LinkAddr = [2, 0, 0, 0, 0, 7];
pub(crate) const TRANSACTION: u32 = 0x1234_5678;

pub(crate) const OFFER: u8 = 2;
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;

/// An answer in the making.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) kind: u8,
    pub(crate) transaction: u32,
    pub(crate) client: LinkAddr,
    pub(crate) address: [u8; 4],
    pub(crate) options: Vec<(u8, Vec<u8>)>,
}

impl Reply {
    /// A sound offer of 192.168.64.7 for an hour.
    pub(crate) fn offer() -> Self {
        let mut reply = Self {
            kind: OFFER,
            transaction: TRANSACTION,
            client: CLIENT,
            address: [192, 168, 64, 7],
            options: Vec::new(),
        };
        reply.set(option::SERVER, &[192, 168, 64, 1]);
        reply.set(option::SUBNET_MASK, &[255, 255, 255, 0]);
        reply.set(option::ROUTER, &[192, 168, 64, 1]);
        reply.set(option::NAME_SERVERS, &[192, 168, 64, 1]);
        reply.set(option::LEASE_TIME, &3600u32.to_be_bytes());
        reply
    }

    pub(crate) fn set(&mut self, number: u8, data: &[u8]) {
        self.remove(number);
        self.options.push((number, data.to_vec()));
    }

    pub(crate) fn remove(&mut self, number: u8) {
        self.options.retain(|(known, _)| *known != number);
    }

    /// From the IP header on, to everybody.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut message = vec![0; 236];
        message[..3].copy_from_slice(&[2, 1, 6]);
        message[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        message[16..20].copy_from_slice(&self.address);
        message[28..34].copy_from_slice(&self.client);
        message.extend([0x63, 0x82, 0x53, 0x63, option::MESSAGE_TYPE, 1, self.kind]);
        for (number, data) in &self.options {
            message.extend([*number, u8::try_from(data.len()).unwrap()]);
            message.extend(data);
        }
        message.push(255);
        let mut bytes = vec![0; 28 + message.len()];
        let length = u16::try_from(bytes.len()).unwrap();
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_total_len(length);
        ip.set_hop_limit(64);
        ip.set_next_header(IpProtocol::Udp);
        ip.set_src_addr(Ipv4Addr::new(192, 168, 64, 1));
        ip.set_dst_addr(Ipv4Addr::BROADCAST);
        ip.fill_checksum();
        let mut udp = UdpPacket::new_unchecked(ip.payload_mut());
        udp.set_src_port(SERVER_PORT);
        udp.set_dst_port(CLIENT_PORT);
        udp.set_len(length - 20);
        udp.payload_mut().copy_from_slice(&message);
        bytes
    }
}
