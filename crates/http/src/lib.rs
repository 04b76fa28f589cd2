//! HTTP requests, and downloads that survive broken connections. Everything that a hostile or broken server may do is
//! bounded: headers, bodies, waits, redirects, retries.
//!
//! Nothing goes over the network without TLS unless it stays on this machine, the user has named the server, or its
//! content is pinned by a digest. A redirect never leaves TLS, and never takes credentials along to another origin.
#![forbid(unsafe_code)]

mod client;
mod connect;
mod download;
mod error;
mod patience;
mod policy;
mod proxy;
mod regular;
mod request;
mod response;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::new_without_default, clippy::unwrap_used, missing_docs, reason = "for tests only")]
pub mod testing;
#[cfg(test)]
mod tests;
mod text;
mod trust;
mod url;
mod wait;

pub use client::Client;
pub use download::{Download, Kind};
pub use error::{Error, NetworkError, Result};
pub use policy::{NetworkOptions, Policy};
pub use proxy::Lookup;
pub use regular::open_regular;
pub use request::{Authorization, Request};
pub use response::{Response, ResponseHead, SmallResponse};
pub use url::{BadUrl, Origin, Url};
