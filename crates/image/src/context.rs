//! The cache and the rules of a caller.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use vmette_http::{Client, NetworkOptions, Policy};
use vmette_oci::Credentials;
use vmette_work::{Cancel, Reporter, Work};

use crate::error::Result;
use crate::store::Store;

/// When the source of a spec that is in the cache is asked for something newer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// If it was asked longer ago than an hour. The cached image serves with a warning if it cannot be reached.
    #[default]
    Stale,
    /// Each time; not reaching it is an error.
    Always,
    /// Only if the spec is not in the cache.
    Missing,
    /// Never: a spec that is not in the cache is an error.
    Never,
}

/// Age up to which the meaning of a name is taken as known.
const FRESH: Duration = Duration::from_secs(60 * 60);

impl PullPolicy {
    /// Returns whether the source of a cached name has to be asked, if it was last asked at that time.
    pub(crate) fn must_ask(self, checked: SystemTime) -> bool {
        match self {
            Self::Never | Self::Missing => false,
            Self::Always => true,
            // A time that is yet to come says nothing: the clock was changed.
            Self::Stale => !checked.elapsed().is_ok_and(|age| age < FRESH),
        }
    }
}

/// The cache and the rules under which a spec is resolved.
#[derive(Clone)]
pub struct Context {
    cache_root: PathBuf,
    policy: Policy,
    pull: PullPolicy,
    work: Work,
    cache_budget: Option<u64>,
    credentials: Credentials,
}

impl Context {
    /// Caches below `cache_root`, which is made when first needed. Online, silent, never cancelled.
    #[must_use]
    pub fn new(cache_root: impl Into<PathBuf>) -> Self {
        Self {
            cache_root: cache_root.into(),
            policy: Policy::default(),
            pull: PullPolicy::default(),
            work: Work::quiet(),
            cache_budget: None,
            credentials: Credentials::default(),
        }
    }

    /// Rules out the network.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.policy.offline = offline;
        self
    }

    /// Resolves specs as part of this work: it tells the progress, and its cancel ends everything, at the next piece of
    /// data, with [`ProviderError::Cancelled`](crate::ProviderError::Cancelled).
    #[must_use]
    pub fn with_work(self, work: Work) -> Self {
        Self { work, ..self }
    }

    /// Tells `reporter` the progress.
    #[must_use]
    pub fn with_reporter(self, reporter: Reporter) -> Self {
        Self { work: self.work.reporting(reporter), ..self }
    }

    /// When a source is asked for something newer.
    #[must_use]
    pub fn with_pull_policy(self, pull: PullPolicy) -> Self {
        Self { pull, ..self }
    }

    /// Trust in servers.
    #[must_use]
    pub fn with_network(mut self, network: NetworkOptions) -> Self {
        self.policy.network = network;
        self
    }

    /// Bytes of images and layers above which a new image is followed by pruning; 0 means never. Without this call
    /// `VMETTE_CACHE_MAX_BYTES` decides, or its default of 16 GiB.
    #[must_use]
    pub fn with_cache_budget(self, bytes: u64) -> Self {
        Self { cache_budget: Some(bytes), ..self }
    }

    /// Credentials of the registry `host`, as it stands in references (`docker.io`, `host:5000`). They come before those
    /// of the environment or of a file, and are sent to that registry and to the token server that it names.
    #[must_use]
    pub fn with_credentials(mut self, host: &str, user: &str, secret: &str) -> Self {
        self.credentials.add(host, user, secret);
        self
    }

    /// Trust in servers.
    #[must_use]
    pub fn network(&self) -> &NetworkOptions {
        &self.policy.network
    }

    /// Returns whether the network is ruled out.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.policy.offline
    }

    /// When a source is asked for something newer. [`PullPolicy::Never`] whenever the network is ruled out.
    #[must_use]
    pub fn pull_policy(&self) -> PullPolicy {
        if self.policy.offline { PullPolicy::Never } else { self.pull }
    }

    /// The work that specs are resolved for.
    #[must_use]
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// The folder of all caches.
    #[must_use]
    pub fn cache_root(&self) -> &Path {
        &self.cache_root
    }

    /// The store of converted images.
    ///
    /// # Errors
    /// [`ProviderError::Cache`](crate::ProviderError::Cache).
    pub fn store(&self) -> Result<Store> {
        Ok(Store::open(&self.cache_root)?.within(&self.work).with_budget(self.cache_budget))
    }

    /// Rules for requests, for a client of a test's own.
    #[cfg(test)]
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Credentials that the caller gave.
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Makes requests until the token is cancelled.
    pub(crate) fn client(&self, cancel: &Cancel) -> Client {
        Client::new(&self.policy, cancel)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("cache_root", &self.cache_root)
            .field("policy", &self.policy)
            .field("pull", &self.pull)
            .finish_non_exhaustive()
    }
}
