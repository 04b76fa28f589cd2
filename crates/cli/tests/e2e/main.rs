//! The real `vmette`, end to end. Each test is one promise to the person at the terminal.
//!
//! All of them share one cache below the target folder, so the kernel is fetched and the template made by whichever
//! test comes first; those that damage a cache have one of their own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod cache;
mod exit_codes;
mod failures;
mod first_start;
mod grants;
mod honesty;
mod identity;
mod image_commands;
mod inherited;
mod inputs;
mod jobs;
mod layout;
mod machine;
mod processes;
mod proxy;
mod pulls;
mod registry;
mod rights;
mod roots;
mod signals;
mod snapshots;
mod stream;
mod streams;
mod templates;
mod terminal;
mod trees;
mod usage;
mod users;
mod vsock;
