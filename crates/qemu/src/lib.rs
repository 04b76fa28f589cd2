//! The QEMU engine: KVM where the host has a usable one, software emulation elsewhere.
//!
//! QEMU runs as a process of its own, restricted by its seccomp sandbox, told what to do by descriptors that it
//! inherits, and gone when its owner is. Host folders are served to the guest by one restricted process each,
//! `vmette-virtiofsd`, vsock by another, `vmette-vsockd`; both are crates of their own. [`Qemu`] is the engine;
//! everything else in here is how.
#![forbid(unsafe_code)]

mod accel;
mod args;
mod boot;
mod checks;
mod devices;
mod engine;
mod host_facts;
mod locate;
mod machine;
mod memory;
mod plan;
mod qmp;
mod save;
mod servers;
mod snapshot;
mod transfer;
mod version;
mod vsock;

pub use engine::{Qemu, QemuOptions};

/// The engine's name in errors.
const ENGINE: &str = "QEMU";
