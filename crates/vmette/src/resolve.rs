//! From a rootfs spec to an artifact, with the default providers.

use vmette_cache::CacheRoot;
use vmette_image::{Context, Reporter, RootfsArtifact};
use vmette_work::Work;

use crate::assets;
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
    let context = context(config, reporter, stop)?;
    let busybox = if spec == vmette_image::BUILTIN_SPEC {
        let cache = cache_of(config)?;
        Some(assets::busybox(&asset_options(config, &cache), context.work())?)
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
        .with_network(config.network.clone());
    let cancel = stop.map(|stop| stop.shared.cancel().clone()).unwrap_or_default();
    Ok(context.with_work(Work::new(cancel).reporting(reporter)))
}

/// The cache that a configuration names, or the user's.
pub(crate) fn cache_of(config: &Config) -> Result<CacheRoot, Error> {
    match &config.cache_dir {
        Some(dir) => Ok(CacheRoot::at(std::path::absolute(dir)?)),
        None => Ok(CacheRoot::from_env()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vmette_image::ProviderError;

    #[test]
    fn a_stop_calls_the_work_off() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("root.tar");
        std::fs::write(dir.path().join("file"), vec![7; 1 << 20]).unwrap();
        let mut tar = std::process::Command::new("tar");
        let made = tar.arg("-cf").arg(&archive).arg("-C").arg(dir.path()).arg("file").status().unwrap();
        assert!(made.success());
        let config = Config { cache_dir: Some(dir.path().join("cache")), ..Config::default() };
        let spec = format!("tar+file://{}", archive.display());
        let stop = StopHandle::new();
        stop.stop();
        let error = resolve_rootfs_until(&spec, &config, Arc::new(|_| {}), &stop).unwrap_err();
        assert!(matches!(error, Error::Rootfs(ProviderError::Cancelled)), "{error}");
    }

    #[test]
    fn the_configurations_rules_are_the_contexts() {
        let dir = tempfile::tempdir().unwrap();
        let network = crate::NetworkOptions { plain_http: vec!["a".into()], ..Default::default() };
        let config = Config {
            cache_dir: Some(dir.path().join("cache")),
            pull: crate::PullPolicy::Always,
            network: network.clone(),
            ..Config::default()
        };
        let context = provider_context(&config, Arc::new(|_| {}), &StopHandle::new()).unwrap();
        assert_eq!((context.pull_policy(), context.network()), (crate::PullPolicy::Always, &network));
        let offline = Config { offline: true, ..config };
        let context = provider_context(&offline, Arc::new(|_| {}), &StopHandle::new()).unwrap();
        assert!(context.is_offline() && context.pull_policy() == crate::PullPolicy::Never);
    }
}
