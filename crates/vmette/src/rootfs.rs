//! From a rootfs spec to an artifact, with the default providers.

use vmette_cache::CacheRoot;
use vmette_image::{Context, Reporter, RootfsArtifact};
use vmette_work::Work;

use crate::assets::{self, AssetOptions};
use crate::config::HostOptions;
use crate::end::StopHandle;
use crate::error::Error;

/// Resolves a spec such as `python:3.12-alpine`, `./rootfs` or `tar+file:///srv/rootfs.tar.gz`, in the cache and under
/// the rules of `host`. Hand the result to [`RootOptions::set_artifact`](crate::RootOptions::set_artifact). `reporter` is
/// told what goes on. A machine's time limit has no part in this.
///
/// # Errors
/// The spec has no known form, or what it names is missing, damaged, or over a limit.
pub fn resolve_rootfs(spec: &str, host: &HostOptions, reporter: Reporter) -> Result<RootfsArtifact, Error> {
    resolve(spec, host, reporter, None)
}

/// As [`resolve_rootfs`], given up soon after `stop` is used. What was downloaded until then is resumed the next time.
///
/// # Errors
/// As [`resolve_rootfs`], and [`ProviderError::Cancelled`](vmette_image::ProviderError::Cancelled).
pub fn resolve_rootfs_until(
    spec: &str,
    host: &HostOptions,
    reporter: Reporter,
    stop: &StopHandle,
) -> Result<RootfsArtifact, Error> {
    resolve(spec, host, reporter, Some(stop))
}

/// The context in which specs are resolved and images worked on under the rules of `host`, for those who use
/// [`provider`](crate::provider) themselves.
///
/// # Errors
/// There is no cache, or it is not the user's own.
pub fn provider_context(host: &HostOptions, reporter: Reporter, stop: &StopHandle) -> Result<Context, Error> {
    context(host, reporter, Some(stop))
}

fn resolve(
    spec: &str,
    host: &HostOptions,
    reporter: Reporter,
    stop: Option<&StopHandle>,
) -> Result<RootfsArtifact, Error> {
    let context = context(host, reporter, stop)?;
    let busybox = if spec == vmette_image::BUILTIN_SPEC {
        let options = AssetOptions { offline: host.offline, ..AssetOptions::from_env(cache_of(host)?) };
        Some(assets::busybox(&options, context.work())?)
    } else {
        None
    };
    Ok(vmette_image::default_registry(busybox).resolve(spec, &context)?)
}

fn context(host: &HostOptions, reporter: Reporter, stop: Option<&StopHandle>) -> Result<Context, Error> {
    let cache = cache_of(host)?;
    cache.ensure()?;
    let context = Context::new(cache.path())
        .offline(host.offline)
        .with_pull_policy(host.pull)
        .with_network(host.network.clone());
    let cancel = stop.map(|stop| stop.shared.cancel().clone()).unwrap_or_default();
    Ok(context.with_work(Work::new(cancel).reporting(reporter)))
}

/// The cache that is named, or the user's.
pub(crate) fn cache_of(host: &HostOptions) -> Result<CacheRoot, Error> {
    match &host.cache_dir {
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
        let host = HostOptions { cache_dir: Some(dir.path().join("cache")), ..HostOptions::default() };
        let spec = format!("tar+file://{}", archive.display());
        let stop = StopHandle::new();
        stop.stop();
        let error = resolve_rootfs_until(&spec, &host, Arc::new(|_| {}), &stop).unwrap_err();
        assert!(matches!(error, Error::Rootfs(ProviderError::Cancelled)), "{error}");
    }

    #[test]
    fn the_hosts_rules_are_the_contexts() {
        let dir = tempfile::tempdir().unwrap();
        let network = crate::NetworkOptions { plain_http: vec!["a".into()], ..Default::default() };
        let host = HostOptions {
            cache_dir: Some(dir.path().join("cache")),
            pull: crate::PullPolicy::Always,
            network: network.clone(),
            ..HostOptions::default()
        };
        let context = provider_context(&host, Arc::new(|_| {}), &StopHandle::new()).unwrap();
        assert_eq!((context.pull_policy(), context.network()), (crate::PullPolicy::Always, &network));
        let offline = HostOptions { offline: true, ..host };
        let context = provider_context(&offline, Arc::new(|_| {}), &StopHandle::new()).unwrap();
        assert!(context.is_offline() && context.pull_policy() == crate::PullPolicy::Never);
    }
}
