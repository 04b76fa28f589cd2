//! What a session promises, on every engine: the same suite over the in-process engine, which serves the real agent's
//! code without a machine, and over QEMU.

mod fake;
#[cfg(target_os = "linux")]
mod qemu;
mod suite;
