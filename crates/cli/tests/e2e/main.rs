//! The real `vmette`, end to end. Each test is one promise to the person at the terminal.
//!
//! All of them share one cache below the target folder, so the kernel is fetched and the template made by whichever
//! test comes first; those that damage a cache have one of their own.
#![cfg(target_os = "linux")]

mod exit_codes;
mod machine;
mod processes;
mod stream;
mod usage;
