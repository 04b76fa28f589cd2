//! Which engine this operating system has. Nothing else in the library knows.

use std::sync::Arc;

use vmette_cache::CacheRoot;
use vmette_vmm::Hypervisor;

use crate::config::HostOptions;
use crate::error::Error;

/// The engine for this host.
#[cfg(all(target_os = "linux", not(vz_check)))]
pub(crate) fn for_this_host(host: &HostOptions, cache: &CacheRoot) -> Result<Arc<dyn Hypervisor>, Error> {
    let options = vmette_qemu::QemuOptions {
        cache_dir: Some(cache.path().to_owned()),
        installed_at: host.installed_at.clone(),
        ..Default::default()
    };
    Ok(Arc::new(vmette_qemu::Qemu::with_options(options)))
}

/// The engine for this host.
#[cfg(any(target_os = "macos", vz_check))]
pub(crate) fn for_this_host(_host: &HostOptions, cache: &CacheRoot) -> Result<Arc<dyn Hypervisor>, Error> {
    Ok(Arc::new(vmette_vz::Vz::new(cache.path())))
}

/// The engine for this host.
#[cfg(not(any(target_os = "linux", target_os = "macos", vz_check)))]
pub(crate) fn for_this_host(_host: &HostOptions, _cache: &CacheRoot) -> Result<Arc<dyn Hypervisor>, Error> {
    Err(Error::Engine(vmette_vmm::Error::Unavailable {
        engine: "vmette",
        reason: "there is no engine for this operating system; it runs on Linux and macOS".into(),
    }))
}
