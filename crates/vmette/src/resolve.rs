//! From a rootfs spec to an artifact, with the default providers.

use vmette_image::{Context, Progress, Reporter, RootfsArtifact};

use crate::assets::{self, CacheRoot};
use crate::launch::asset_options;
use crate::{Config, Error};

/// Resolves a spec such as `./rootfs` or `tar+file:///srv/rootfs.tar.gz`, in the cache and under the rules of `config`.
/// Hand the result to [`Config::set_rootfs_artifact`]. `reporter` is told what goes on.
///
/// # Errors
/// The spec has no known form, or what it names is missing, damaged, or over a limit.
pub fn resolve_rootfs(spec: &str, config: &Config, reporter: Reporter) -> Result<RootfsArtifact, Error> {
    let cache = cache_of(config)?;
    cache.ensure()?;
    let busybox = if spec == vmette_image::BUILTIN_SPEC {
        Some(assets::busybox(&asset_options(config, &cache), &|line| reporter(&Progress::Step(line)))?)
    } else {
        None
    };
    let context = Context::new(cache.path()).offline(config.offline).with_reporter(reporter);
    Ok(vmette_image::default_registry(busybox).resolve(spec, &context)?)
}

/// The cache that a configuration names, or the user's.
pub(crate) fn cache_of(config: &Config) -> Result<CacheRoot, Error> {
    match &config.cache_dir {
        Some(dir) => Ok(CacheRoot::at(std::path::absolute(dir)?)),
        None => Ok(CacheRoot::from_env()?),
    }
}
