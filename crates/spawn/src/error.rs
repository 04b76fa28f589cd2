//! Why a tool's work is not done.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use vmette_work::Cancelled;

/// Why a tool's work is not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It could not be started.
    #[error("{tool} cannot be started: {source}")]
    Start {
        /// The tool's name.
        tool: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It ended badly.
    #[error("{tool} failed ({status}): {message}")]
    Failed {
        /// The tool's name.
        tool: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed, or the causes in it. Without control characters.
        message: String,
    },
    /// It was ended by us.
    #[error("{tool} took longer than {}, the longest that it may take, and was ended", span(*.limit))]
    TimedOut {
        /// The tool's name.
        tool: String,
        /// How long it may take.
        limit: Duration,
    },
    /// Its output could not be read.
    #[error("cannot read from {tool}: {source}")]
    Read {
        /// The tool's name.
        tool: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The work was given up.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

fn span(limit: Duration) -> String {
    match limit.as_secs() {
        seconds if seconds < 120 => format!("{} s", limit.as_secs_f32()),
        seconds => format!("{} minutes", seconds / 60),
    }
}
