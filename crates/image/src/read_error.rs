//! Failures of the readers that feed an image.

use std::io;
use std::path::PathBuf;

use vmette_work::Cancelled;

use crate::store::StoreError;
use crate::tar::ArchiveError;
use crate::tool::ToolError;

/// Why a reader failed. It travels inside of an `io::Error` through decompressors and parsers, from which
/// [`of`](Self::of) takes it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("cancelled")]
    Cancelled(#[from] Cancelled),
    /// A registry, a server or an image.
    #[error(transparent)]
    Oci(vmette_oci::Error),
    /// The store, into which content is copied while it is read.
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Tool(ToolError),
    /// A stream that is not compressed as it says.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{path} comes to more than {limit} bytes; if you trust it, raise {variable}", path = .path.display())]
    TooLong { path: PathBuf, limit: u64, variable: &'static str },
    /// The error was nobody's but the system's.
    #[error(transparent)]
    System(io::Error),
}

impl ReadError {
    /// The failure that an error of reading carries.
    pub(crate) fn of(error: io::Error) -> Self {
        error
            .downcast::<Self>()
            .or_else(|error| vmette_oci::Error::of_reader(error).map(Self::from))
            .or_else(|error| error.downcast::<ToolError>().map(Self::from))
            .or_else(|error| error.downcast::<Cancelled>().map(Self::from))
            .unwrap_or_else(Self::System)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::System(error) => error,
            error => Self::other(error),
        }
    }
}

impl From<vmette_oci::Error> for ReadError {
    fn from(error: vmette_oci::Error) -> Self {
        match error {
            vmette_oci::Error::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Oci(error),
        }
    }
}

impl From<vmette_http::Error> for ReadError {
    fn from(error: vmette_http::Error) -> Self {
        vmette_oci::Error::from(error).into()
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Store(error),
        }
    }
}

impl From<ToolError> for ReadError {
    fn from(error: ToolError) -> Self {
        match error {
            ToolError::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Tool(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each crate below has its own error in its readers' errors.
    #[test]
    fn a_cancel_is_found_whoever_noticed_it() {
        for error in [
            io::Error::from(Cancelled),
            vmette_http::Error::from(Cancelled).into(),
            vmette_oci::Error::from(vmette_http::Error::from(Cancelled)).into(),
            ReadError::from(StoreError::from(vmette_cache::Error::from(Cancelled))).into(),
            io::Error::other(ToolError::from(Cancelled)),
        ] {
            assert!(matches!(ReadError::of(error), ReadError::Cancelled(_)));
        }
        assert!(matches!(ReadError::of(io::ErrorKind::UnexpectedEof.into()), ReadError::System(_)));
    }
}
