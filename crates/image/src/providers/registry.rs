//! The order in which providers are asked.

use std::path::{Path, PathBuf};

use super::artifact::{RootfsArtifact, RootfsProvider};
use super::builtin::BuiltinProvider;
use super::dir::{self, DirProvider};
use super::oci::{LocalImageProvider, OciProvider};
use super::spec::SPEC_MAX;
use super::squashfs::SquashfsProvider;
use super::tar::TarProvider;
use crate::context::Context;
use crate::error::{ProviderError, Result};

/// Providers in the order in which they are asked.
#[derive(Default)]
pub struct Registry {
    providers: Vec<Box<dyn RootfsProvider>>,
}

/// All providers of this crate: `dir`, `squashfs`, `tar`, `builtin`, `oci-layout`, `oci-archive`, `docker-archive` and,
/// for what none of them claims, `oci`. `busybox` is the static busybox that the built-in rootfs is made of; with None,
/// asking for that rootfs is an error that says what to install.
#[must_use]
pub fn default_registry(busybox: Option<PathBuf>) -> Registry {
    Registry::new()
        .with(DirProvider::new())
        .with(SquashfsProvider::new())
        .with(TarProvider::new())
        .with(busybox.map_or_else(BuiltinProvider::without_busybox, BuiltinProvider::new))
        .with(LocalImageProvider::layout())
        .with(LocalImageProvider::oci_archive())
        .with(LocalImageProvider::docker_archive())
        .with(OciProvider::new())
}

impl Registry {
    /// Without any provider.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a provider, to be asked after those that are there.
    #[must_use]
    pub fn with(mut self, provider: impl RootfsProvider + 'static) -> Self {
        self.providers.push(Box::new(provider));
        self
    }

    /// Names in order.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.providers.iter().map(|provider| provider.name()).collect()
    }

    /// Forms of a spec in order, for help texts and messages.
    #[must_use]
    pub fn forms(&self) -> Vec<&'static str> {
        self.providers.iter().map(|provider| provider.form()).collect()
    }

    /// Names and forms in order.
    pub fn described(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.providers.iter().map(|provider| (provider.name(), provider.form()))
    }

    /// Number of providers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.providers.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// Asks the first provider that claims the spec; its answer is final.
    ///
    /// # Errors
    /// That provider's, or [`ProviderError::InvalidSpec`] when none claims the spec.
    pub fn resolve(&self, spec: &str, ctx: &Context) -> Result<RootfsArtifact> {
        if spec.is_empty() || spec.len() > SPEC_MAX || spec.contains('\0') {
            let shown: String = spec.chars().take(64).collect();
            return Err(ProviderError::InvalidSpec(format!(
                "rootfs {shown:?} is empty, longer than {SPEC_MAX} bytes or holds a NUL; use {}",
                self.choice()
            )));
        }
        match self.providers.iter().find(|provider| provider.matches(spec)) {
            Some(provider) => provider.provide(spec, ctx),
            None => Err(self.unclaimed(spec)),
        }
    }

    fn choice(&self) -> String {
        self.forms().join(", ")
    }

    fn unclaimed(&self, spec: &str) -> ProviderError {
        let path = Path::new(spec);
        if path.exists() {
            return dir::not_a_directory(spec, path);
        }
        let reason = match spec.split_once("://") {
            Some(("http" | "https", _)) => "say what it is: put tar+ or squashfs+ in front",
            Some(("docker", _)) => "name the image without docker://",
            Some(_) => "no such kind of rootfs is known",
            None => "there is no such file or directory here",
        };
        ProviderError::InvalidSpec(format!("rootfs {spec:?}: {reason}; use {}", self.choice()))
    }
}
