//! Errors of roots, and what every step of building one needs.

use std::fs;
use std::io;

use crate::devices::DeviceError;

/// A root that cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Error {
    /// For `map_err`: wraps an I/O error with the operation.
    pub(super) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
    }
}

/// Makes a folder and those above it.
pub(super) fn make_dir(path: &str) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io(format!("make the folder {path}")))
}

/// Environment as a report has it: an entry a line.
pub(super) fn environment(entries: Vec<String>) -> String {
    entries.into_iter().map(|entry| entry + "\n").collect()
}
