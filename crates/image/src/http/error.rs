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
    /// The server answered, and not with what it was asked for.
    #[error("{url}: the server answers {status}{message}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server says of it: `: TEXT`, or nothing.
        message: String,
    },
    /// The server wants credentials, or others.
    #[error("{url}: the server answers {status}{message}; {advice}")]
    Denied {
        /// What was asked for.
        url: String,
        /// The HTTP status, 401 or 403.
        status: u16,
        /// What the server says of it: `: TEXT`, or nothing.
        message: String,
        /// Which credentials were tried, and how to add some.
        advice: String,
    },
    /// A download broke off, again and again, or without a way to go on.
    #[error("{url} breaks off after {done} bytes{of}: {problem}", of = .total.map_or_else(String::new, |total| format!(" of {total}")))]
    Truncated {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        done: u64,
        /// Bytes that were promised.
        total: Option<u64>,
        /// What went wrong at last.
        problem: String,
    },
    /// The server's size is not the one that was promised elsewhere, or that it named before.
    #[error(
        "{url} has {actual} bytes or more, where {expected} were promised; it was exchanged, or the server is broken"
    )]
    Length {
        /// What was asked for.
        url: String,
        /// As promised.
        expected: u64,
        /// As the server says, or as they came.
        actual: u64,
    },
    /// More than is ever read of such a thing.
    #[error("{url} is larger than {max} bytes{remedy}")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The limit.
        max: u64,
        /// How to raise it: `; TEXT`, or nothing.
        remedy: String,
    },
    /// It became another file while it was being downloaded.
    #[error("{url} changed while it was being downloaded; try again")]
    Changed {
        /// What was asked for.
        url: String,
    },
    /// Without TLS anybody between here and there could read and exchange what is sent.
    #[error("{url} would be talked to without TLS, in the open: use https, or allow plain HTTP for {host}")]
    PlainHttp {
        /// What was to be asked for.
        url: String,
        /// The server, as the flag takes it.
        host: String,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects {problem}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Whereto, or how often.
        problem: String,
    },
    /// The server's certificate is not one to trust.
    #[error(
        "{url}: the server's certificate is not trusted: {problem}; if it is right, name its authority, or install it on this system"
    )]
    Certificate {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No TLS connection came about.
    #[error("{url}: no TLS connection: {problem}; if the server has none, allow plain HTTP for {host}")]
    Tls {
        /// What was asked for.
        url: String,
        /// What went wrong.
        problem: String,
        /// The server, as the flag takes it.
        host: String,
    },
    /// Trusted certificates cannot be read.
    #[error(
        "trusted certificates {problem}; correct what names them (SSL_CERT_FILE is one that may), or install the package ca-certificates"
    )]
    TrustStore {
        /// What went wrong, and on which file.
        problem: String,
    },
    /// The proxy that the environment names cannot be used.
    #[error("the proxy in {variable} cannot be used: {problem}")]
    Proxy {
        /// The environment variable.
        variable: &'static str,
        /// What is wrong with it. Without its credentials.
        problem: String,
    },
    /// What the server sends is not HTTP, or not what the protocol allows here.
    #[error("{url}: the server breaks the protocol: {problem}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What it does.
        problem: String,
    },
    /// Credentials are there and cannot be used, or must not be.
    #[error("credentials for {host}: {problem}")]
    Credentials {
        /// The registry.
        host: String,
        /// What is wrong, and what to do. Without any secret.
        problem: String,
    },
}

impl NetworkError {
    /// Whether the server is at fault and may be back later; then what is in the cache may serve. A server that is not
    /// who it should be is not such a fault.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Truncated { .. } | Self::Changed { .. } => true,
            Self::Status { status, .. } => is_temporary_status(*status),
            _ => false,
        }
    }
}

/// The server has too much to do, or is broken: asking again later may help.
pub(super) fn is_temporary_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}
