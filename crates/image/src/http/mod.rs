//! Downloads: GET requests with everything that a hostile or broken server may do bounded.
//!
//! Nothing goes over the network without TLS unless it stays on this machine, the user has named the server, or its
//! content is pinned by a digest; a redirect never leaves TLS, and never takes credentials along to another origin.

mod client;
mod connect;
mod download;
mod error;
mod patience;
mod proxy;
mod request;
mod response;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod trust;
mod url;
mod wait;

pub(crate) use client::Client;
pub(crate) use download::{Download, Kind};
pub use error::NetworkError;
pub(crate) use proxy::Lookup;
pub(crate) use request::{Authorization, Request};
pub(crate) use response::{Head, Response, Small};
pub use text::printable;
pub(crate) use url::{BadUrl, Url};
