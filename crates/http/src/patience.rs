//! Limits of waits and of attempts.

use std::time::Duration;

/// The limits of a client. Tests have shorter ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a name's addresses.
    pub(super) resolve: Duration,
    /// For a connection, its TLS included, through a proxy or not.
    pub(super) connect: Duration,
    /// From the request's end to the end of the response's header.
    pub(super) header: Duration,
    /// For the next byte of anything.
    pub(super) stall: Duration,
    /// For the whole of a small body: one that drips is no manifest.
    pub(super) small: Duration,
    /// A download that brings less than `slow_bytes` in so much waiting has stalled.
    pub(super) slow: Duration,
    pub(super) slow_bytes: u64,
    /// How often a request is made that fails with a cut or with a status that may pass; and how often a download goes
    /// on without having brought [`PROGRESS`] bytes.
    pub(super) attempts: u32,
    /// How often a connection is tried that is refused at once: a server that is not there should not hold up who has
    /// the image in the cache.
    pub(super) connect_attempts: u32,
    /// Before the second attempt; doubled before each further one.
    pub(super) first_delay: Duration,
    /// And no longer than that.
    pub(super) longest_delay: Duration,
    /// The longest `Retry-After` that is obeyed; a longer one is cut to this.
    pub(super) retry_after: Duration,
}

/// Bytes after which a download counts as going on, so that its attempts begin anew. One byte a connection would
/// otherwise keep it going for years.
pub(super) const PROGRESS: u64 = 64 << 10;

impl Default for Patience {
    fn default() -> Self {
        Self {
            // Two rounds of a resolver with two servers and five seconds for each.
            resolve: Duration::from_secs(20),
            // TCP has sent its SYN four times by then.
            connect: Duration::from_secs(15),
            // Registries that fetch a layer from elsewhere first take tens of seconds.
            header: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            small: Duration::from_secs(120),
            slow: Duration::from_secs(60),
            // Half a KiB a second: slower than any line that a whole image comes over.
            slow_bytes: 30 << 10,
            attempts: 5,
            connect_attempts: 3,
            first_delay: Duration::from_millis(300),
            longest_delay: Duration::from_secs(8),
            retry_after: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// The pause after that many failed attempts: doubled each time, and a random part of it, so that many clients that
    /// failed together do not come back together.
    pub(super) fn pause(&self, failed: u32, retry_after: Option<Duration>) -> Duration {
        if let Some(asked) = retry_after {
            return asked.min(self.retry_after);
        }
        let doubled = self.first_delay.saturating_mul(1 << failed.saturating_sub(1).min(16));
        doubled.min(self.longest_delay).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let patience = Patience::default();
        for failed in 1..100 {
            let full = patience.first_delay * (1 << (failed - 1).min(10));
            let full = full.min(patience.longest_delay);
            let pause = patience.pause(failed, None);
            assert!(pause >= full / 2 && pause <= full, "{failed}: {pause:?}");
        }
        assert_eq!(patience.pause(1, Some(Duration::from_secs(2))), Duration::from_secs(2));
        assert_eq!(patience.pause(1, Some(Duration::MAX)), patience.retry_after);
    }
}
