//! The agreement between the QEMU engine and the programs that serve its machines' devices (vhost-user back ends): their
//! names, how they report errors, and the [`vsock`] channel.
//!
//! The programs are crates of their own, so that a program that links the engine compiles nothing that
//! serves a guest.
#![forbid(unsafe_code)]

pub mod complaints;
#[cfg(all(feature = "queue", target_os = "linux"))]
pub mod queue;
pub mod vsock;

/// The program that serves a host folder over virtio-fs.
pub const VIRTIOFSD: &str = "vmette-virtiofsd";

/// The program that serves a machine's vsock device.
pub const VSOCKD: &str = "vmette-vsockd";
