//! From a configuration to a machine whose agent has built the workload's root.

mod bring_up;
mod held;
mod image;
mod judge;
mod launcher;
mod prepare;
mod resume;
mod saving;
mod scratch;
mod start;

pub(crate) use image::start_of;
pub(crate) use launcher::{Launched, Launcher};
pub(crate) use prepare::{asset_options, bare_spec};
