//! Counterparts and set-up that the tests of several crates share, and the benchmarks. Nothing of it ships: crates name
//! it under `dev-dependencies` only.
#![forbid(unsafe_code)]

pub mod again;
pub mod authority;
pub mod lane;
pub mod registry;
