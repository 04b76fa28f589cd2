//! Failures of requests and downloads.

use std::io;

use vmette_work::Cancelled;

/// Result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no answer. A [`Download`](crate::Download) gives it to its reader inside of an `io::Error`, from which
/// [`of_reader`](Self::of_reader) takes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller has given up.
    #[error("cancelled")]
    Cancelled(#[from] Cancelled),
    /// The policy rules out all requests.
    #[error("{url} would have to be fetched, and offline mode rules that out")]
    Offline {
        /// The URL of the request.
        url: String,
    },
    /// A server cannot be reached, refuses, or gives what it should not.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

impl Error {
    /// The failure that an error of reading carries, or the error as it is.
    ///
    /// # Errors
    /// The error carries none: it is the system's.
    pub fn of_reader(error: io::Error) -> std::result::Result<Self, io::Error> {
        error.downcast()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Why a server did not give what it was asked for. The text names the server, what was asked, and what to do; a URL
/// in it has no credentials and no query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// No connection, or one that broke or stalled, also when tried again.
    #[error("{url} cannot be reached: {problem}")]
    Unreachable {
        /// The URL of the request.
        url: String,
        /// The failure.
        problem: String,
    },
    /// The server answered, and not with what it was asked for.
    #[error("{url}: the server answers {status}{message}")]
    Status {
        /// The URL of the request.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's message: `: TEXT`, or nothing.
        message: String,
    },
    /// The server wants credentials, or others.
    #[error("{url}: the server answers {status}{message}; {advice}")]
    Denied {
        /// The URL of the request.
        url: String,
        /// The HTTP status, 401 or 403.
        status: u16,
        /// The server's message: `: TEXT`, or nothing.
        message: String,
        /// Which credentials were tried, and how to add some.
        advice: String,
    },
    /// A download broke off, again and again, or without a way to go on.
    #[error("{url} breaks off after {done} bytes{of}: {problem}", of = .total.map_or_else(String::new, |total| format!(" of {total}")))]
    Truncated {
        /// The URL of the request.
        url: String,
        /// Bytes that came.
        done: u64,
        /// Bytes that were promised.
        total: Option<u64>,
        /// The last failure.
        problem: String,
    },
    /// The server's size is not the one that was promised elsewhere, or that it named before.
    #[error(
        "{url} has {actual} bytes or more, where {expected} were promised; it was exchanged, or the server is broken"
    )]
    Length {
        /// The URL of the request.
        url: String,
        /// The promised size in bytes.
        expected: u64,
        /// The server's size, or the bytes that came.
        actual: u64,
    },
    /// More than is ever read of such a thing.
    #[error("{url} is larger than {max} bytes{remedy}")]
    TooLarge {
        /// The URL of the request.
        url: String,
        /// The limit.
        max: u64,
        /// How to raise it: `; TEXT`, or nothing.
        remedy: String,
    },
    /// It became another file while it was being downloaded.
    #[error("{url} changed while it was being downloaded; try again")]
    Changed {
        /// The URL of the request.
        url: String,
    },
    /// Without TLS anybody between here and there could read and exchange what is sent.
    #[error("{url} would be talked to without TLS, in the open: use https, or allow plain HTTP for {host}")]
    PlainHttp {
        /// The URL of the request.
        url: String,
        /// The server, as the flag takes it.
        host: String,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects {problem}")]
    Redirect {
        /// The URL of the request.
        url: String,
        /// Whereto, or how often.
        problem: String,
    },
    /// The server's certificate is not one to trust.
    #[error(
        "{url}: the server's certificate is not trusted: {problem}; if it is right, name its authority, or install it on this system"
    )]
    Certificate {
        /// The URL of the request.
        url: String,
        /// The defect.
        problem: String,
    },
    /// No TLS connection came about.
    #[error("{url}: no TLS connection: {problem}; if the server has none, allow plain HTTP for {host}")]
    Tls {
        /// The URL of the request.
        url: String,
        /// The failure.
        problem: String,
        /// The server, as the flag takes it.
        host: String,
    },
    /// Trusted certificates cannot be read.
    #[error(
        "trusted certificates {problem}; correct what names them (SSL_CERT_FILE is one that may), or install the package ca-certificates"
    )]
    TrustStore {
        /// The failure, with its file.
        problem: String,
    },
    /// The proxy that the environment names cannot be used.
    #[error("the proxy in {variable} cannot be used: {problem}")]
    Proxy {
        /// The environment variable.
        variable: &'static str,
        /// The defect, without the proxy's credentials.
        problem: String,
    },
    /// The server sends something that is not HTTP, or that the protocol does not allow here.
    #[error("{url}: the server breaks the protocol: {problem}")]
    Protocol {
        /// The URL of the request.
        url: String,
        /// The server's mistake.
        problem: String,
    },
    /// Credentials are there and cannot be used, or must not be.
    #[error("credentials for {host}: {problem}")]
    Credentials {
        /// The registry.
        host: String,
        /// The defect and the remedy, without any secret.
        problem: String,
    },
}

impl NetworkError {
    /// Returns whether the server is at fault and may be back later; then the cached content may serve. A server that is not
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
