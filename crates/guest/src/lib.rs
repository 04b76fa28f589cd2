//! The guest's `/init` and agent: one static Linux binary, PID 1 of every machine.
//!
//! [`pid1`] brings the machine up and forks: PID 1 only reaps, its child [`serve`]s the host's requests. The same agent
//! runs without a machine in the [`Hosted`] world, where the test suite drives it by the hundred; what differs between
//! the two is the [`World`] trait and nothing else.
#![cfg(target_os = "linux")]

mod actions;
mod child;
mod devices;
mod errno;
mod exec;
mod files;
mod freezer;
mod hosted;
mod log;
mod memory;
mod modules;
mod net;
mod permits;
pub mod pid1;
pub mod programs;
mod report;
mod root;
mod serve;
mod stream;
mod sys;
mod vm;
mod vsock_host;
pub mod world;

pub use hosted::{Hosted, Record};
pub use serve::{ServeError, serve};
pub use stream::StreamError;
pub use vm::Vm;
pub use world::World;
