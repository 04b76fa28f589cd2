//! vsock between one machine and its host, without the host's vsock: the device of a machine, served by the program
//! `vmette-vsockd` over vhost-user, and the [`control`] channel by which its owner opens ports and hands over sockets.
//!
//! What the guest sends is parsed in that process, which can do nothing but move bytes between the guest's memory and
//! sockets that its owner gave it: it opens no file and makes no socket. Ports belong to one machine and need no
//! privilege.
#![forbid(unsafe_code)]

pub mod control;
#[cfg(target_os = "linux")]
pub mod server;

#[cfg(target_os = "linux")]
mod connection;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod packet;
#[cfg(target_os = "linux")]
mod queues;
#[cfg(target_os = "linux")]
mod sandbox;

/// Context id of every machine's guest: the host is 2, and each machine's ids are its own.
pub const GUEST_CID: u64 = 3;
