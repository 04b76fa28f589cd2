//! What servers may do, and what must come of it.

mod download;
mod exchange;
pub(crate) mod server;
pub(crate) mod urls;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::patience::Patience;
use crate::context::{Context, NetworkOptions};

/// Waits for nothing that a server on this machine would need.
pub(super) fn impatient() -> Patience {
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

/// A context that needs no cache.
pub(crate) fn context() -> Context {
    Context::new("/nonexistent")
}

pub(crate) fn with_authority(authority: &server::Authority) -> Context {
    context().with_network(NetworkOptions { ca_certs: Some(authority.file.clone()), plain_http: Vec::new() })
}

/// And the flag that gives it up.
fn cancellable() -> (Context, Arc<AtomicBool>) {
    let flag = Arc::new(AtomicBool::new(false));
    (context().with_cancel_flag(Arc::clone(&flag)), flag)
}
