//! What can go wrong at the seam.

use std::io;
use std::path::PathBuf;

/// Result of an engine's operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an engine could not do what it was asked. The text is meant for the person at the terminal: it names what
/// failed, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine cannot run here at all.
    #[error("{engine} is not usable here: {reason}")]
    Unavailable {
        /// The engine's name.
        engine: &'static str,
        /// What is missing, and the remedy.
        reason: String,
    },
    /// The spec asks for something that no machine of this engine can have.
    #[error("{0}")]
    InvalidSpec(String),
    /// The engine lacks that operation.
    #[error("{operation} is not supported by {engine}: {reason}")]
    Unsupported {
        /// The engine's name.
        engine: &'static str,
        /// What was asked.
        operation: &'static str,
        /// Why not.
        reason: String,
    },
    /// A file of the spec cannot be used.
    #[error("{what} {path}: {source}", path = .path.display())]
    File {
        /// What the file is for: `kernel`, `disk`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The machine ended, or never came up.
    #[error("{0}")]
    Machine(String),
    /// A saved state does not fit this engine, host or spec, or is damaged.
    #[error("snapshot {path}: {reason}", path = .path.display())]
    Snapshot {
        /// The snapshot's folder.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The engine did not answer in time.
    #[error("{operation} took longer than {seconds} s")]
    Timeout {
        /// What was waited for.
        operation: &'static str,
        /// How long.
        seconds: u64,
    },
    /// Another system error.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl From<vmette_wire::devices::DeviceError> for Error {
    /// A name that breaks the contract with the guest.
    fn from(error: vmette_wire::devices::DeviceError) -> Self {
        Self::InvalidSpec(error.to_string())
    }
}

impl Error {
    /// For `map_err`: names what was tried.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Whether the system has no more threads, descriptors or memory at this moment. It says nothing about the file or the
/// program that the call was about.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    // The same on Linux and macOS; the standard library has no names for these two.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory | io::ErrorKind::Interrupted
    ) || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}
