//! The engine of macOS: Apple's Virtualization.framework (VZ).
//!
//! Each machine has a serial dispatch queue of its own, and every object of VZ is touched on that queue only: what other
//! threads hold are handles that put closures there. VZ reports through delegates and completion handlers; each ends in
//! a write-once slot that someone waits on, for a limited time. `Vz` is the engine.
//!
//! Nothing in here could live above the seam: this crate cannot be run on Linux, so it must be thin enough to be read.
//! It is type-checked there all the same, and run against a stand-in for the system's frameworks (`--cfg vz_check`).
#![cfg(any(target_os = "macos", vz_check))]
#![allow(unsafe_code, reason = "calls of Objective-C have no other form; each says why it holds")]

mod config;
mod confined;
mod delegate;
mod engine;
mod exception;
mod failure;
mod host;
mod machine;
mod objects;
mod placeholder;
mod running;
mod snapshot;
mod vsock;

pub use engine::Vz;

/// The name of this engine in errors.
const ENGINE: &str = "Virtualization.framework";
