//! What a session promises, on every engine: the same suite over the in-process engine, which serves the real agent's
//! code without a machine, and over QEMU; and over VZ on the stand-in for its frameworks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a panic is how a test fails"
)]

#[cfg(all(target_os = "linux", not(vz_check)))]
mod agent;
mod fake;
#[cfg(all(target_os = "linux", not(vz_check)))]
mod image;
#[cfg(all(target_os = "linux", not(vz_check)))]
mod network;
#[cfg(all(target_os = "linux", not(vz_check)))]
mod qemu;
#[cfg(all(target_os = "linux", not(vz_check)))]
mod roots;
#[cfg(target_os = "linux")]
mod snapshot;
mod suite;
#[cfg(all(target_os = "linux", not(vz_check)))]
mod vsock;
#[cfg(all(vz_check, not(target_vendor = "apple")))]
mod vz;
