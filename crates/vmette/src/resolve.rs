//! From a rootfs spec to an artifact, with the default providers.

use vmette_image::{Context, Progress, Reporter, RootfsArtifact};

use crate::assets::{self, CacheRoot};
use crate::launch::asset_options;
use crate::{Config, Error, StopHandle};

/// Resolves a spec such as `python:3.12-alpine`, `./rootfs` or `tar+file:///srv/rootfs.tar.gz`, in the cache and under
/// the rules of `config`: [`Config::offline`], [`Config::pull`], [`Config::network`]. Hand the result to
/// [`Config::set_rootfs_artifact`]. `reporter` is told what goes on. [`Config::timeout_seconds`] is the machine's and
/// has no part in this.
///
/// # Errors
/// The spec has no known form, or what it names is missing, damaged, or over a limit.
pub fn resolve_rootfs(spec: &str, config: &Config, reporter: Reporter) -> Result<RootfsArtifact, Error> {
    resolve(spec, config, reporter, None)
}

/// As [`resolve_rootfs`], given up soon after `stop` is used. What was downloaded until then is resumed the next time.
///
/// # Errors
/// As [`resolve_rootfs`], and [`ProviderError::Cancelled`](vmette_image::ProviderError::Cancelled).
pub fn resolve_rootfs_until(
    spec: &str,
    config: &Config,
    reporter: Reporter,
    stop: &StopHandle,
) -> Result<RootfsArtifact, Error> {
    resolve(spec, config, reporter, Some(stop))
}

/// The context in which `config` resolves specs and works on images, for those who use
/// [`provider`](crate::provider) themselves.
///
/// # Errors
/// There is no cache, or it is not the user's own.
pub fn provider_context(config: &Config, reporter: Reporter, stop: &StopHandle) -> Result<Context, Error> {
    context(config, reporter, Some(stop))
}

fn resolve(
    spec: &str,
    config: &Config,
    reporter: Reporter,
    stop: Option<&StopHandle>,
) -> Result<RootfsArtifact, Error> {
    let context = context(config, reporter.clone(), stop)?;
    let busybox = if spec == vmette_image::BUILTIN_SPEC {
        let cache = cache_of(config)?;
        Some(assets::busybox(&asset_options(config, &cache), &|line| reporter(&Progress::Step(line)))?)
    } else {
        None
    };
    Ok(vmette_image::default_registry(busybox).resolve(spec, &context)?)
}

fn context(config: &Config, reporter: Reporter, stop: Option<&StopHandle>) -> Result<Context, Error> {
    let cache = cache_of(config)?;
    cache.ensure()?;
    let context = Context::new(cache.path())
        .offline(config.offline)
        .with_pull_policy(config.pull)
        .with_network(config.network.clone())
        .with_reporter(reporter);
    Ok(match stop {
        Some(stop) => context.with_cancel_flag(stop.shared.cancel_flag()),
        None => context,
    })
}

/// The cache that a configuration names, or the user's.
pub(crate) fn cache_of(config: &Config) -> Result<CacheRoot, Error> {
    match &config.cache_dir {
        Some(dir) => Ok(CacheRoot::at(std::path::absolute(dir)?)),
        None => Ok(CacheRoot::from_env()?),
    }
}
