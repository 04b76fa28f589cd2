//! What a provider may use, and how it tells what it is doing.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{ProviderError, Result};
use crate::oci::Credential;
use crate::progress::{Progress, Reporter};
use crate::store::{Store, private_dir};

/// When the source of a spec that is in the cache is asked whether there is something newer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When it was asked longer ago than an hour; what is in the cache serves with a warning when it cannot be reached.
    #[default]
    Stale,
    /// Each time; not reaching it is an error.
    Always,
    /// Only when the spec is not in the cache.
    Missing,
    /// Not at all: a spec that is not in the cache is an error.
    Never,
}

/// How long what a name stands for is taken as known.
const FRESH: Duration = Duration::from_secs(60 * 60);

impl PullPolicy {
    /// Whether the source of a name that is in the cache has to be asked, when it was last asked at that time.
    pub(crate) fn must_ask(self, checked: SystemTime) -> bool {
        match self {
            Self::Never | Self::Missing => false,
            Self::Always => true,
            // A time that is yet to come says nothing: the clock was changed.
            Self::Stale => !checked.elapsed().is_ok_and(|age| age < FRESH),
        }
    }
}

/// How registries and other servers are talked to, beyond what their specs say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkOptions {
    /// PEM file, or folder of `*.pem`, `*.crt` and `*.cer` files, whose certificates are trusted beside the usual ones.
    pub ca_certs: Option<PathBuf>,
    /// Servers, `host` or `host:port`, that may be talked to without TLS. Those on loopback may in any case.
    pub plain_http: Vec<String>,
}

/// The cache and the rules under which a spec is resolved.
#[derive(Clone)]
pub struct Context {
    cache_root: PathBuf,
    offline: bool,
    pull: PullPolicy,
    network: NetworkOptions,
    reporter: Option<Reporter>,
    cancelled: Arc<AtomicBool>,
    /// Set when the [`Attempt`] that this belongs to has failed.
    failed: Arc<AtomicBool>,
    cache_budget: Option<u64>,
    credentials: Vec<(String, Credential)>,
}

impl Context {
    /// Caches below `cache_root`, which is made when first needed. Online, silent.
    #[must_use]
    pub fn new(cache_root: impl Into<PathBuf>) -> Self {
        Self {
            cache_root: cache_root.into(),
            offline: false,
            pull: PullPolicy::default(),
            network: NetworkOptions::default(),
            reporter: None,
            cancelled: Arc::default(),
            failed: Arc::default(),
            cache_budget: None,
            credentials: Vec::new(),
        }
    }

    /// Rules out the network.
    #[must_use]
    pub fn offline(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    /// Tells `reporter` what is being done.
    #[must_use]
    pub fn with_reporter(self, reporter: Reporter) -> Self {
        Self { reporter: Some(reporter), ..self }
    }

    /// When a source is asked for something newer.
    #[must_use]
    pub fn with_pull_policy(self, pull: PullPolicy) -> Self {
        Self { pull, ..self }
    }

    /// How servers are talked to.
    #[must_use]
    pub fn with_network(self, network: NetworkOptions) -> Self {
        Self { network, ..self }
    }

    /// Gives up what is being resolved once `flag` is set: with [`ProviderError::Cancelled`], at the next piece of data.
    #[must_use]
    pub fn with_cancel_flag(self, flag: Arc<AtomicBool>) -> Self {
        Self { cancelled: flag, ..self }
    }

    /// Bytes of images and layers above which a new image is followed by pruning; 0 means never. Without it
    /// `VMETTE_CACHE_MAX_BYTES` says so, or its default of 16 GiB.
    #[must_use]
    pub fn with_cache_budget(self, bytes: u64) -> Self {
        Self { cache_budget: Some(bytes), ..self }
    }

    /// As [`with_cache_budget`](Self::with_cache_budget) has it.
    #[must_use]
    pub fn cache_budget(&self) -> Option<u64> {
        self.cache_budget
    }

    /// What the registry `host`, as it stands in references (`docker.io`, `host:5000`), is told: before anything that the
    /// environment or a file says. Sent to that registry, and to the token server that it names.
    #[must_use]
    pub fn with_credentials(mut self, host: &str, user: &str, secret: &str) -> Self {
        self.credentials.push((host.to_ascii_lowercase(), Credential::password(user, secret)));
        self
    }

    pub(crate) fn credential_of(&self, host: &str) -> Option<Credential> {
        let own = self.credentials.iter().rev().find(|(of, _)| of.eq_ignore_ascii_case(host));
        own.map(|(_, credential)| credential.clone())
    }

    /// Whether the network is ruled out.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// When a source is asked for something newer. [`PullPolicy::Never`] whenever the network is ruled out.
    #[must_use]
    pub fn pull_policy(&self) -> PullPolicy {
        if self.offline { PullPolicy::Never } else { self.pull }
    }

    /// How servers are talked to.
    #[must_use]
    pub fn network(&self) -> &NetworkOptions {
        &self.network
    }

    /// Whether it is to be given up. For loops over data.
    ///
    /// # Errors
    /// [`ProviderError::Cancelled`].
    pub fn check_cancelled(&self) -> Result<()> {
        let over = [&self.cancelled, &self.failed].iter().any(|flag| flag.load(Ordering::Relaxed));
        if over { Err(ProviderError::Cancelled) } else { Ok(()) }
    }

    /// Where caches are.
    #[must_use]
    pub fn cache_root(&self) -> &Path {
        &self.cache_root
    }

    /// A provider's own directory in the cache, made and checked to be the user's own.
    ///
    /// # Errors
    /// [`ProviderError::Cache`](crate::ProviderError::Cache).
    pub fn provider_cache(&self, name: &str) -> Result<PathBuf> {
        private_dir(&self.cache_root)?;
        let dir = self.cache_root.join(name);
        private_dir(&dir)?;
        Ok(dir)
    }

    /// The store of converted images.
    ///
    /// # Errors
    /// [`ProviderError::Cache`](crate::ProviderError::Cache).
    pub fn store(&self) -> Result<Store> {
        Store::within(self)
    }

    /// Says what is being done.
    pub fn report(&self, line: &str) {
        self.progress(&Progress::Step(line));
    }

    /// Says what the user should know.
    pub fn warn(&self, line: &str) {
        self.progress(&Progress::Warning(line));
    }

    /// Tells the reporter.
    pub fn progress(&self, progress: &Progress<'_>) {
        if let Some(reporter) = &self.reporter {
            reporter(progress);
        }
    }
}

/// The context of work that several threads share, of which none need wait for anything once one has failed: to those
/// that have this context, or a clone of it, the failure of one is as if the caller had given up.
pub(crate) struct Attempt(Context);

impl Attempt {
    /// One more of the context's; others do not notice its end.
    pub(crate) fn of(ctx: &Context) -> Self {
        Self(Context { failed: Arc::default(), ..ctx.clone() })
    }

    /// Ends all that is waited for.
    pub(crate) fn fail(&self) {
        self.0.failed.store(true, Ordering::Relaxed);
    }

    /// Once all its threads have ended: it may be tried again.
    pub(crate) fn renew(&self) {
        self.0.failed.store(false, Ordering::Relaxed);
    }
}

impl Deref for Attempt {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("cache_root", &self.cache_root)
            .field("offline", &self.offline)
            .field("pull", &self.pull)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}
