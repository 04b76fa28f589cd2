//! Which engine this operating system has. Nothing else in the library knows.

use std::sync::Arc;

use vmette_vmm::Hypervisor;

use crate::assets::CacheRoot;
use crate::{Config, Error};

/// The engine for this host.
#[cfg(target_os = "linux")]
pub(crate) fn for_this_host(config: &Config, cache: &CacheRoot) -> Result<Arc<dyn Hypervisor>, Error> {
    let options = vmette_qemu::QemuOptions {
        cache_dir: Some(cache.path().to_owned()),
        installed_at: config.installed_at.clone(),
        ..Default::default()
    };
    Ok(Arc::new(vmette_qemu::Qemu::with_options(options)))
}

/// The engine for this host.
#[cfg(not(target_os = "linux"))]
pub(crate) fn for_this_host(_config: &Config, _cache: &CacheRoot) -> Result<Arc<dyn Hypervisor>, Error> {
    Err(Error::Engine(vmette_vmm::Error::Unavailable {
        engine: "Virtualization.framework",
        reason: "this version has no engine for this operating system yet; it runs on Linux".into(),
    }))
}
