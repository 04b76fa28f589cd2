//! `/init` of the guest, and under other names the programs for vsock that a workload finds in its root.
//!
//! There is no Rust `main`: before it the standard library would open `/dev/null` for each missing standard descriptor
//! and abort when it cannot, and in a machine without a console, before `/dev` is mounted, it cannot. An abort of PID 1
//! is a kernel panic.
#![cfg_attr(not(test), no_main)]

/// The function that the C start-up code calls.
#[cfg(not(test))]
#[allow(unsafe_code, reason = "the symbol the C start-up code looks for has no other definition")]
// SAFETY: the symbol is defined once, with the signature the C start-up code expects.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: core::ffi::c_int, _argv: *const *const core::ffi::c_char) -> core::ffi::c_int {
    vmette_guest::programs::run(std::env::args_os()).unwrap_or_else(vmette_guest::pid1::run)
}
