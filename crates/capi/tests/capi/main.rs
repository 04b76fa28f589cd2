//! The C interface as C programs use it: compiled against the header, linked with the library, run with machines.
//!
//! A C program checks what it is about itself and says on stderr what did not hold; here it is built, given its
//! surroundings, and expected to succeed. All share one cache below the target folder, so that the kernel is fetched
//! and the template made once.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at what it did not expect")]

mod build;
mod documentation;
mod install;
mod machines;
mod memory;
mod program;
mod surface;
