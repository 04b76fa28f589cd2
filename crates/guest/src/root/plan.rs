//! The description of a root that is to be built.

use vmette_wire::Root;

use super::etc::Identity;

/// Everything that a root is built of.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) root: &'a Root,
    /// Certificates in PEM that it is to trust, if the root says so.
    pub(crate) bundle: &'a [u8],
    /// The machine's.
    pub(crate) identity: &'a Identity,
    /// It gets the programs for vsock.
    pub(crate) programs: bool,
    /// Contents of its `/etc/resolv.conf`; `None` in a machine without a network.
    pub(crate) name_servers: Option<&'a str>,
}
