//! Errors that keep host and guest from talking over vsock.

use std::io;
use std::path::PathBuf;

/// Why host and guest cannot talk over vsock.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VsockError {
    /// The machine has no vsock device, or cannot have one here.
    #[error("{0}")]
    NoDevice(String),
    /// All ports that were tried are in use.
    #[error("no port is free")]
    NoPort,
    /// A UNIX socket of the host that leads into the guest cannot be made.
    #[error("socket {path}: {source}", path = .path.display())]
    Socket {
        /// Where it was to be.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}
