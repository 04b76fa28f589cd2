//! Errors that keep a session from being saved.

use std::io;
use std::path::{Path, PathBuf};

use vmette_cache::StagingError;

use crate::end::SessionEnd;

/// Why a session was not saved. Unless the session has ended it goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// A session like this one cannot be saved.
    #[error("{0}")]
    Impossible(String),
    /// The new folder cannot be made: something is there, or another process makes the same one at this moment.
    #[error(transparent)]
    Target(#[from] StagingError),
    /// A file or folder of the host cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// No snapshot holds shares, and the guest has one in use.
    #[error(
        "a snapshot holds no shares, and the guest cannot give them up now: {reason} (a process of the guest that has \
         its folder or an open file there keeps it busy)"
    )]
    SharesInUse {
        /// In the agent's words.
        reason: String,
    },
    /// The workload could not be brought to a standstill.
    #[error("the guest does not stand still: {reason}")]
    GuestMoves {
        /// In the agent's words.
        reason: String,
    },
    /// The engine could not write the machine's state.
    #[error("{0}")]
    Engine(#[source] vmette_vmm::Error),
    /// The session ended first.
    #[error("the session has ended: {0}")]
    SessionEnded(SessionEnd),
}

impl SaveError {
    /// For `map_err`: this file or folder cannot be read or written.
    pub(crate) fn file(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path: path.clone(), source }
    }
}
