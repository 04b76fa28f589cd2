//! What a session promises, on every engine: the same suite over the in-process engine, which serves the real agent's
//! code without a machine, and over QEMU.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a panic is how a test fails"
)]

mod fake;
#[cfg(target_os = "linux")]
mod image;
#[cfg(target_os = "linux")]
mod qemu;
mod suite;
#[cfg(target_os = "linux")]
mod vsock;
