//! `squashfs+file://`: an image that is there already, used in place; and `squashfs+https://`, which is kept in the store.

use super::artifact::{RootfsArtifact, RootfsProvider};
use super::spec;
use super::url;
use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::sniff::FileKind;
use crate::superblock::{Superblock, SuperblockError};

/// Takes squashfs images as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct SquashfsProvider;

impl SquashfsProvider {
    /// The provider.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl RootfsProvider for SquashfsProvider {
    fn name(&self) -> &'static str {
        "squashfs"
    }

    fn form(&self) -> &'static str {
        "squashfs+file:///PATH or squashfs+https://HOST/PATH"
    }

    fn matches(&self, spec: &str) -> bool {
        spec.starts_with("squashfs+file:") || url::claims("squashfs", spec)
    }

    fn provide(&self, spec: &str, ctx: &Context) -> Result<RootfsArtifact> {
        if url::claims("squashfs", spec) {
            return url::squashfs(spec, ctx).map(RootfsArtifact::stored);
        }
        let path = spec::file_url("squashfs", spec)?;
        let mut file = spec::open_regular(&path)?;
        Superblock::read(&file).map_err(|e| {
            let kind = FileKind::of(&mut file).unwrap_or(FileKind::Other);
            let advice = match (&e, kind) {
                (SuperblockError::Magic, FileKind::Squashfs | FileKind::Other) => String::new(),
                (SuperblockError::Magic, kind) => format!("; it is {}", spec::advice(kind, &path)),
                _ => String::new(),
            };
            ProviderError::InvalidSpec(format!("{} {e}{advice}", path.display()))
        })?;
        let path = path.canonicalize().map_err(ProviderError::io("cannot resolve", &path))?;
        Ok(RootfsArtifact::squashfs(path))
    }
}
