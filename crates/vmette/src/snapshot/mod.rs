//! Snapshots: the whole machine of a session in a folder, from which new sessions start.
//!
//! The folder describes itself ([`manifest`]) and may be moved and copied: its files are known by digest. The image that
//! the root is built on stays outside and is named by digest as well. What the folder holds is checked before anything
//! runs, and nothing is taken that was not finished.

mod content;
mod manifest;
mod open;
mod resume;
mod save;

pub(crate) use content::Digests;
pub(crate) use manifest::{BaseImage, BootFile, Content, Engine, FORMAT, MACHINE, Manifest, SCRATCH, Shape};
pub use open::{Snapshot, SnapshotInfo};
pub(crate) use save::{Outside, Saver, Then};
