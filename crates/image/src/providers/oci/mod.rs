//! The providers of OCI and Docker images.

mod archive;
mod download;
mod image;
mod local;
mod pull;
#[cfg(test)]
pub(crate) mod tests;

use std::path::Path;

use vmette_oci::{Reference, Registry, SCHEME};
use vmette_work::Work;

use super::artifact::{RootfsArtifact, RootfsProvider};
use super::{dir, limits, spec};
use crate::context::Context;
use crate::error::Result;
use crate::sniff::FileKind;
pub(crate) use local::Form;

/// Images of folders and archives: `oci-layout:`, `oci-archive:` or `docker-archive:`.
#[derive(Debug, Clone, Copy)]
pub struct LocalImageProvider(Form);

impl LocalImageProvider {
    /// `oci-layout:PATH[:TAG]`: an OCI image layout in a folder.
    #[must_use]
    pub fn layout() -> Self {
        Self(Form::Layout)
    }

    /// `oci-archive:PATH[:TAG]`: an OCI image layout in a tar archive.
    #[must_use]
    pub fn oci_archive() -> Self {
        Self(Form::OciArchive)
    }

    /// `docker-archive:PATH[:NAME]`: what `docker save` writes.
    #[must_use]
    pub fn docker_archive() -> Self {
        Self(Form::DockerArchive)
    }
}

impl RootfsProvider for LocalImageProvider {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn form(&self) -> &'static str {
        match self.0 {
            Form::Layout => "oci-layout:PATH[:TAG]",
            Form::OciArchive => "oci-archive:PATH[:TAG]",
            Form::DockerArchive => "docker-archive:PATH[:NAME]",
        }
    }

    fn matches(&self, spec: &str) -> bool {
        self.0.strip(spec).is_some()
    }

    fn provide(&self, spec: &str, ctx: &Context) -> Result<RootfsArtifact> {
        let (path, tag) = local::split(spec, self.0.strip(spec).unwrap_or_default())?;
        local::obtain(self.0, &path, tag.as_deref(), spec, ctx).map(RootfsArtifact::stored)
    }
}

/// Images of registries, and those that were made or imported here: `oci://REFERENCE`, and any reference as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct OciProvider;

impl OciProvider {
    /// The provider. As it claims whatever may be a reference, it is to be asked after all others.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl RootfsProvider for OciProvider {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn form(&self) -> &'static str {
        "IMAGE (alpine:3.20, HOST/NAME:TAG, NAME@sha256:HEX)"
    }

    fn matches(&self, spec: &str) -> bool {
        if let Some(reference) = spec.strip_prefix(SCHEME) {
            return !reference.is_empty();
        }
        !spec.is_empty() && !spec.starts_with(['/', '.', '~']) && !has_scheme(spec) && !is_rootfs_file(spec)
    }

    fn provide(&self, spec: &str, ctx: &Context) -> Result<RootfsArtifact> {
        if let Err(e) = Reference::parse(spec) {
            let path = Path::new(spec);
            return Err(if path.is_file() { dir::not_a_directory(spec, path) } else { e.into() });
        }
        let connect = |reference: &Reference, work: &Work| {
            let (host, repository, client) =
                (reference.host(), reference.repository(), ctx.client(work.cancel()));
            let registry = Registry::new(host, repository, &client, ctx.credentials(), work)?;
            Ok(Box::new(registry) as Box<_>)
        };
        pull::obtain(spec, ctx, limits::oci_max()?, &connect).map(RootfsArtifact::stored)
    }
}

/// Returns whether it begins like a URL.
fn has_scheme(spec: &str) -> bool {
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    spec.split_once("://").is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(is_scheme))
}

/// Returns whether it names a file here that another form of spec takes: `rootfs.tar` is a valid reference, but not meant
/// as one where a tar archive has that name. The refusal says how to write it.
fn is_rootfs_file(spec: &str) -> bool {
    let path = Path::new(spec);
    path.is_file()
        && spec::open_regular(path)
            .is_ok_and(|mut file| FileKind::of(&mut file).is_ok_and(|kind| kind != FileKind::Other))
}
