//! Why a download failed.

/// Why a server did not give what it was asked for. The text names the server, what was asked, and what to do; a URL
/// in it has no credentials and no query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// No connection, or one that broke or stalled, also when tried again.
    #[error("{url} cannot be reached: {problem}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What went wrong.
        problem: String,
    },
}

impl NetworkError {
    /// Whether the server is at fault and may be back later; then what is in the cache may serve.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
        }
    }
}
