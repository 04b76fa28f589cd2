//! The change that the agent works on.

use std::os::fd::OwnedFd;

use vmette_wire::RootName;

/// A change of the machine or of a root that a child works on.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) kind: Kind,
    /// The request.
    pub(super) id: u32,
    pub(super) report: OwnedFd,
}

/// Kind of a [`Change`].
#[derive(Debug)]
pub(super) enum Kind {
    /// `boot`, or a new root.
    Make,
    Attach(RootName),
    Detach(RootName),
}
