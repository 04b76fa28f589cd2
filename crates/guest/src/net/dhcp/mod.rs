//! A DHCP client (RFC 2131) in the agent's own program: nothing of the rootfs has a part in it.

pub(super) mod client;
pub(super) mod lease;
mod message;
#[cfg(test)]
pub(super) mod tests;

pub(super) use client::{Dhcp, DhcpError};
pub(super) use lease::Lease;
pub(super) use message::Client;
