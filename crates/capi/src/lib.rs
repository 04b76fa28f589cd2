//! vmette for C, and for everything that can call C: `libvmette.so`, `libvmette.a` and `include/vmette.h`.
//!
//! The header is made from this crate by `cargo run -p xtask -- header`; what a caller has to know is in its own text,
//! which is in `cbindgen.toml`. Every function here does three things: it checks what it was given, calls the library,
//! and turns the answer into a status. [`entry`] keeps panics and `SIGPIPE` from the caller.
#![allow(unsafe_code, reason = "C has nothing else; each use says why it holds")]

#[cfg(panic = "abort")]
compile_error!(
    "entry.rs turns panics into statuses, so they have to unwind: a library does not end its program"
);

mod broken_pipe;
mod installed;
mod start;

// The header has things in this order: what everything uses, what is to run, and what becomes of it.
pub mod status;

pub mod arguments;

pub mod entry;

pub mod notice;

pub mod config;

pub mod rootfs;

pub mod stop;

pub mod output;

pub mod run;

pub mod session;

pub mod command;

pub mod process;

pub mod files;

pub mod vsock;

pub mod report;

use std::ffi::{CStr, c_char};

/// The version of the header's interface and of the library: `0.12.0`.
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version without NUL"),
};

/// The version of the library, `MAJOR.MINOR.PATCH`. A static string.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_version() -> *const c_char {
    VERSION.as_ptr()
}
