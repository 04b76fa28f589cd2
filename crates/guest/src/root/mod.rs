//! The roots of workloads: a process for each [`build`]s it of its layers, in a mount namespace of its own, and stays in it.

mod build;
mod error;
pub(crate) mod etc;
mod layers;
mod plan;
mod resolv;
pub(crate) mod shares;
mod system;
pub(crate) mod tree;
mod trust;
pub(crate) mod users;
mod volumes;

pub(crate) use build::run;
pub(crate) use error::Error;
pub(crate) use plan::Plan;
