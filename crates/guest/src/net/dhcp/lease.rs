//! A server's offer, as far as a machine can use it. The server is no more trusted than any other host on the network:
//! what it says becomes the machine's configuration, so each value is what it has to be, or the offer is none.

use std::net::Ipv4Addr;

use super::message::{Answer, option};

/// Narrowest and widest network, in bits of the mask: two machines and a router, or all of `10.0.0.0/8`. A mask of fewer
/// bits would make strangers' addresses neighbours.
const PREFIX_MIN: u8 = 8;
const PREFIX_MAX: u8 = 30;

/// Most name servers: the C library asks no more.
const NAME_SERVERS_MAX: usize = 3;

/// Longest domain name, in bytes, as DNS has it.
const DOMAIN_MAX: usize = 253;

/// Longest label of a domain name, in bytes.
const LABEL_MAX: usize = 63;

/// Smallest packet size that every network carries, and the largest of an Ethernet with jumbo frames, in bytes.
const MTU_MIN: u16 = 576;
const MTU_MAX: u16 = 9216;

/// A lease that never ends.
const FOR_EVER: u32 = u32::MAX;

/// Shortest time between two renewals, in seconds.
const RENEWAL_MIN: u32 = 1;

/// An offer that is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it does not tell the {0}, or not in the form that it has")]
    Missing(&'static str),
    #[error("{0} is not an address that a machine can have")]
    Address(Ipv4Addr),
    #[error("the subnet mask {0} is not one of {PREFIX_MIN} to {PREFIX_MAX} leading ones")]
    Mask(Ipv4Addr),
    #[error("the router {router} is not a neighbour of {address}/{prefix}")]
    Router { router: Ipv4Addr, address: Ipv4Addr, prefix: u8 },
    #[error("the lease has ended already: it is for no seconds")]
    Ended,
    #[error("it took its offer of {0} back")]
    TakenBack(Ipv4Addr),
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) name_servers: Vec<Ipv4Addr>,
    pub(crate) domain: Option<String>,
    pub(crate) mtu: Option<u16>,
    pub(crate) server: Ipv4Addr,
    /// When it ends; `None`: never.
    pub(crate) term: Option<Term>,
    /// Further parts of the answer that make no sense: worth a note, not worth the network.
    pub(crate) ignored: Vec<&'static str>,
}

/// How long a lease is, and when it is to be renewed, in seconds since it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    /// The server that gave it is asked (T1).
    pub(crate) renew: u32,
    /// Any server is asked (T2).
    pub(crate) rebind: u32,
    pub(crate) end: u32,
}

impl Lease {
    /// The lease of an offer or an acknowledgement.
    ///
    /// # Errors
    /// [`Refusal`]: a machine cannot live with that.
    pub(crate) fn of(answer: &Answer<'_>) -> Result<Self, Refusal> {
        let server = fixed(answer, option::SERVER).map(Ipv4Addr::from);
        let server = server.ok_or(Refusal::Missing("server's own address"))?;
        if !is_of_a_machine(server) {
            return Err(Refusal::Address(server));
        }
        let address = answer.address();
        let mask = fixed(answer, option::SUBNET_MASK).map(Ipv4Addr::from);
        let prefix = prefix_of(mask.ok_or(Refusal::Missing("subnet mask"))?)?;
        if !is_of_a_machine(address) || is_edge(address, prefix) {
            return Err(Refusal::Address(address));
        }
        let mut ignored = Vec::new();
        let router = match answer.option(option::ROUTER) {
            None => None,
            Some(routers) => {
                let first = routers.first_chunk().filter(|_| routers.len() % 4 == 0);
                Some(Ipv4Addr::from(*first.ok_or(Refusal::Missing("router"))?))
            }
        };
        if let Some(router) = router
            && !is_neighbour(router, address, prefix)
        {
            return Err(Refusal::Router { router, address, prefix });
        }
        let mut name_servers = Vec::new();
        if let Some(servers) = answer.option(option::NAME_SERVERS) {
            let (servers, rest) = servers.as_chunks::<4>();
            let usable = servers.iter().map(|octets| Ipv4Addr::from(*octets)).filter(|s| is_of_a_machine(*s));
            name_servers = usable.take(NAME_SERVERS_MAX).collect();
            if !rest.is_empty() || name_servers.len() < servers.len().min(NAME_SERVERS_MAX) {
                ignored.push("a name server");
            }
        }
        let domain = answer.option(option::DOMAIN_NAME).and_then(|name| {
            let domain = domain_of(name);
            if domain.is_none() {
                ignored.push("the domain");
            }
            domain
        });
        let mtu = answer.option(option::MTU).and_then(|mtu| {
            let mtu = mtu.try_into().ok().map(u16::from_be_bytes);
            let usable = mtu.filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
            if usable.is_none() {
                ignored.push("the packet size");
            }
            usable
        });
        let term = term_of(answer)?;
        Ok(Self { address, prefix, router, name_servers, domain, mtu, server, term, ignored })
    }
}

/// The data of an option that has exactly `N` bytes.
fn fixed<const N: usize>(answer: &Answer<'_>, number: u8) -> Option<[u8; N]> {
    answer.option(number)?.try_into().ok()
}

fn number(answer: &Answer<'_>, option: u8) -> Option<u32> {
    fixed(answer, option).map(u32::from_be_bytes)
}

fn term_of(answer: &Answer<'_>) -> Result<Option<Term>, Refusal> {
    let end = number(answer, option::LEASE_TIME).ok_or(Refusal::Missing("length of the lease"))?;
    match end {
        0 => return Err(Refusal::Ended),
        FOR_EVER => return Ok(None),
        _ => {}
    }
    // The defaults of RFC 2131, 4.4.5; times in another order are no times.
    let (mut renew, mut rebind) = (end / 2, end - end / 8);
    if let (Some(t1), Some(t2)) =
        (number(answer, option::RENEWAL_TIME), number(answer, option::REBINDING_TIME))
        && 0 < t1
        && t1 < t2
        && t2 < end
    {
        (renew, rebind) = (t1, t2);
    }
    let renew = renew.max(RENEWAL_MIN);
    Ok(Some(Term { renew, rebind: rebind.max(renew), end }))
}

/// `true` if one machine, and no other than this, can have the address.
fn is_of_a_machine(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // From 224 on are groups, what is reserved, and everybody.
    !matches!(first, 0 | 127 | 224..) && !address.is_link_local()
}

fn host_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shr(prefix.into()).unwrap_or(0)
}

/// `true` if it is the network's own address, or that of all of its machines.
fn is_edge(address: Ipv4Addr, prefix: u8) -> bool {
    let host = address.to_bits() & host_bits(prefix);
    host == 0 || host == host_bits(prefix)
}

fn is_neighbour(other: Ipv4Addr, address: Ipv4Addr, prefix: u8) -> bool {
    let network = |a: Ipv4Addr| a.to_bits() & !host_bits(prefix);
    other != address && network(other) == network(address) && !is_edge(other, prefix)
}

fn prefix_of(mask: Ipv4Addr) -> Result<u8, Refusal> {
    let ones = mask.to_bits().leading_ones();
    let prefix = u8::try_from(ones).unwrap_or(u8::MAX);
    if (PREFIX_MIN..=PREFIX_MAX).contains(&prefix) && mask.to_bits() == !host_bits(prefix) {
        return Ok(prefix);
    }
    Err(Refusal::Mask(mask))
}

/// It becomes a line of `/etc/resolv.conf`: labels of a host's name, and nothing else.
fn domain_of(name: &[u8]) -> Option<String> {
    // Some servers count the end of their text in.
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0').trim_end_matches('.');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |label: &str| (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(plain);
    (name.len() <= DOMAIN_MAX && name.split('.').all(label)).then(|| name.to_owned())
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
