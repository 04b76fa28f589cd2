//! The machine's interfaces: the loopback, and one that was granted. A process of its own gets that one an address, reports
//! the name servers, and keeps the lease for as long as the machine lives. It is outside of the workloads' namespaces: they
//! can do to the interface what root can, and nothing to the process.

mod dhcp;
mod link;

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::devices::Uevents;
use crate::{log, modules, report, sys};
use dhcp::client::{Granted, Renewal};
use dhcp::{Client, Dhcp, DhcpError, Lease};
use link::{Link, Links};

/// The drivers of a network, beside those that every machine loads.
const MODULES: &str = "/network.list";

/// How long the device may take to appear.
const DEVICE_DEADLINE: Duration = Duration::from_secs(20);

/// How long the interface may take until it carries packets.
const CARRIER_DEADLINE: Duration = Duration::from_secs(2);

/// How long it may take until a server has leased an address. Together with the times above it is less than the
/// host waits for the root.
const LEASE_DEADLINE: Duration = Duration::from_secs(20);

/// How long to wait before the kernel is asked again that has refused something to the process that keeps a lease.
const PAUSE: Duration = Duration::from_secs(60);

/// A network that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetError {
    #[error(
        "no network device appeared in the guest within {} s; modules that could not be loaded: {failed}",
        DEVICE_DEADLINE.as_secs()
    )]
    NoDevice { failed: String },
    #[error(transparent)]
    Dhcp(#[from] DhcpError),
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

impl NetError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Brings `lo` up; the kernel gives it 127.0.0.1 and ::1 by itself.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sys::interface_up(&socket, "lo")
}

/// The whole life of the process: `to` gets the report that [`wait_for`] reads.
pub(crate) fn run(to: OwnedFd, hostname: &str) -> ! {
    // A name for `ps`, and nothing depends on it.
    let _ = rustix::thread::set_name(c"vmette-network");
    if sys::close_all_but([to.as_fd(), log::descriptor().unwrap_or(to.as_fd())]).is_err() {
        sys::exit_now(1);
    }
    let to = File::from(to);
    let up = bring_up(hostname);
    let told = report::send(&to, &up.as_ref().map(|(_, granted)| name_servers(&granted.lease)));
    drop(to);
    match (up, told) {
        (Ok((network, granted)), Ok(())) => network.keep(granted),
        // There is no network, or nobody waits for it any more.
        _ => sys::exit_now(1),
    }
}

/// Waits until the network is there, and returns the name servers. The process behind the report has deadlines, and its end
/// ends the report.
pub(crate) fn wait_for(report: OwnedFd) -> Result<String, String> {
    report::receive(report, "the process that leases its address was killed")
        .unwrap_or_else(|e| Err(format!("its report cannot be read: {e}")))
}

/// Contents of an `/etc/resolv.conf`.
fn name_servers(lease: &Lease) -> String {
    let mut text = String::from("# The name servers of the DHCP lease.\n");
    if let Some(domain) = &lease.domain {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "search {domain}");
    }
    for server in &lease.name_servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

fn bring_up(hostname: &str) -> Result<(Network, Granted), NetError> {
    let failed = modules::load(MODULES);
    let uevents = Uevents::subscribe().map_err(NetError::io("listen for devices"))?;
    let mut links = Links::open().map_err(NetError::io("open a routing socket"))?;
    let link = uevents
        .wait_for(DEVICE_DEADLINE, || links.first_ethernet())
        .map_err(NetError::io("look for the network device"))?
        .ok_or_else(|| NetError::NoDevice { failed: modules::listed(&failed) })?;
    Network::lease(links, &link, hostname, LEASE_DEADLINE)
}

/// An interface with a lease.
#[derive(Debug)]
struct Network {
    links: Links,
    dhcp: Dhcp,
}

impl Network {
    /// Brings the interface up and gets it an address.
    fn lease(
        mut links: Links,
        link: &Link,
        hostname: &str,
        limit: Duration,
    ) -> Result<(Self, Granted), NetError> {
        links.up(link.index, CARRIER_DEADLINE).map_err(NetError::io("bring the network interface up"))?;
        let client = Client { address: link.address, hostname: hostname.to_owned() };
        let dhcp = Dhcp { interface: link.index, client };
        let granted = dhcp.acquire(Some(limit))?;
        for what in &granted.lease.ignored {
            log::note(format_args!("network: {what} of the lease makes no sense and is left out"));
        }
        let mut network = Self { links, dhcp };
        network.apply(&granted)?;
        Ok((network, granted))
    }

    /// Gives the interface what it was leased, and sets the time after which the kernel takes it away.
    fn apply(&mut self, granted: &Granted) -> Result<(), NetError> {
        let (index, lease) = (self.dhcp.interface, &granted.lease);
        let gone = u32::try_from(granted.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        // The kernel takes no address that has ended.
        let left = lease.term.map(|term| term.end.saturating_sub(gone).max(1));
        if let Some(mtu) = lease.mtu {
            self.links.set_mtu(index, mtu).map_err(NetError::io("set the packet size of the lease"))?;
        }
        self.links
            .set_address(index, lease.address, lease.prefix, left)
            .map_err(NetError::io("set the address of the lease"))?;
        if let Some(router) = lease.router {
            self.links
                .set_default_route(index, router)
                .map_err(NetError::io("set the default route of the lease"))?;
        }
        Ok(())
    }

    fn drop_address(&mut self, lease: &Lease) -> Result<(), NetError> {
        self.links
            .remove_address(self.dhcp.interface, lease.address, lease.prefix)
            .map_err(NetError::io("take the address of a lost lease away"))
    }

    /// Renews the lease for ever; one that is lost is followed by another as soon as there is one.
    fn keep(mut self, mut granted: Granted) -> ! {
        loop {
            match self.next(&granted) {
                Ok(next) => granted = next,
                Err(e) => {
                    // The workload is root of the interface: it may have taken it down, or everything away from it.
                    log::error(format_args!("network: {e}"));
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn next(&mut self, granted: &Granted) -> Result<Granted, NetError> {
        let next = match self.dhcp.renew(granted)? {
            Renewal::Renewed(next) => next,
            Renewal::Lost => {
                log::note(format_args!("network: the lease of {} is lost", granted.lease.address));
                self.drop_address(&granted.lease)?;
                self.dhcp.acquire(None)?
            }
        };
        if next.lease.prefix != granted.lease.prefix {
            // To the kernel that is another address.
            self.drop_address(&granted.lease)?;
        }
        self.apply(&next)?;
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
