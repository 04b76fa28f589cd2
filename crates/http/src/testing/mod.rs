//! A server that does as a test wants it to, and clients that wait for it as long as a test needs.

mod server;
mod urls;

use std::time::Duration;

use crate::patience::Patience;
use crate::{NetworkOptions, Policy};

pub use server::{Authority, Received, Reply, Server, Then};
pub use urls::{seeds as url_seeds, target as url_target};

/// Waits for nothing that a server on this machine would need.
pub(crate) fn impatient() -> Patience {
    Patience {
        resolve: Duration::from_secs(5),
        connect: Duration::from_secs(5),
        header: Duration::from_secs(5),
        // Long enough for a thread of the server to be kept from a busy processor.
        stall: Duration::from_secs(2),
        small: Duration::from_secs(30),
        slow: Duration::from_secs(60),
        slow_bytes: 0,
        attempts: 4,
        connect_attempts: 2,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(4),
        retry_after: Duration::from_millis(40),
    }
}

/// Trust in this authority alone.
pub fn trusting(authority: &Authority) -> NetworkOptions {
    NetworkOptions { ca_certs: Some(authority.file.clone()), plain_http: Vec::new() }
}

/// Rules under which this authority is trusted.
pub fn with_authority(authority: &Authority) -> Policy {
    Policy { offline: false, network: trusting(authority) }
}
