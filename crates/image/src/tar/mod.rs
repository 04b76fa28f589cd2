//! `tar+file://`: an archive, converted once into an image that holds what it holds: owners by number, modes, times to
//! the second, hard links, extended attributes, device nodes. A directory that comes twice is as its last entry says;
//! anything else that comes twice is refused.

mod convert;
mod entry;
mod error;
mod limits;
mod pax;
mod source;
mod sparse;
mod tree;

use std::fs::{File, Metadata};
use std::path::Path;

pub use error::{ArchiveError, Refusal};
pub use limits::TarLimits;

use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::image_config::ImageConfig;
use crate::pack::{Compression, Packer};
use crate::provider::{RootfsArtifact, RootfsProvider};
use crate::sniff::FileKind;
use crate::spec;
use crate::store::{Description, ImageKind, Key};
use source::Source;

/// Part of every key. Counts up whenever the same archive would become another image.
const CONVERTER: &str = "tar 1";

/// Makes images of archives.
#[derive(Debug, Clone, Copy, Default)]
pub struct TarProvider {
    limits: Option<TarLimits>,
}

impl TarProvider {
    /// With the limits that the environment says, read at each use.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With these limits.
    #[must_use]
    pub fn with_limits(limits: TarLimits) -> Self {
        Self { limits: Some(limits) }
    }
}

impl RootfsProvider for TarProvider {
    fn name(&self) -> &'static str {
        "tar"
    }

    fn form(&self) -> &'static str {
        "tar+file:///PATH"
    }

    fn matches(&self, spec: &str) -> bool {
        spec.starts_with("tar+file:")
    }

    fn provide(&self, spec: &str, ctx: &Context) -> Result<RootfsArtifact> {
        let limits = self.limits.map_or_else(TarLimits::from_env, Ok)?;
        let path = spec::file_url("tar", spec)?;
        let file = spec::open_regular(&path)?;
        let path = path.canonicalize().map_err(ProviderError::io("cannot resolve", &path))?;
        let metadata = file.metadata().map_err(ProviderError::io("cannot examine", &path))?;
        let store = ctx.store()?;
        let key = Key::of_file(CONVERTER, &path, &metadata);
        let image = store.obtain(&key, ctx, |staging| {
            ctx.report(&format!("converting {}", path.display()));
            let unpacked = convert_file(file, &metadata, &path, staging, limits.max_bytes)?;
            Ok(Description {
                kind: ImageKind::Tar,
                source: format!("tar+file://{}", spec::encode_path(&path)),
                id: None,
                platform: None,
                config: ImageConfig::default(),
                layers: Vec::new(),
                unpacked,
            })
        })?;
        Ok(RootfsArtifact::stored(image))
    }
}

fn convert_file(
    mut file: File,
    before: &Metadata,
    path: &Path,
    staging: &Path,
    max_bytes: u64,
) -> Result<u64> {
    let archive = |source| ProviderError::Archive { path: path.to_owned(), source };
    let kind = FileKind::of(&mut file).map_err(ProviderError::io("cannot read", path))?;
    let again = file.try_clone().map_err(ProviderError::io("cannot open again", path))?;
    let mut source = Source::new(source::decoder(file, kind).map_err(archive)?, max_bytes);
    let mut packer = Packer::start(staging, Compression::Zstd, max_bytes)?;
    let converted =
        packer.tar().map_err(ArchiveError::Output).and_then(|tar| convert::convert(&mut source, tar));
    match converted {
        Ok(()) => {}
        Err(ArchiveError::Output(_)) => return Err(packer.failure()),
        Err(e) => return Err(archive(e)),
    }
    packer.finish()?;
    // The key speaks of the archive as it was: an image of anything else must not be kept under it.
    let after = again.metadata().map_err(ProviderError::io("cannot examine", path))?;
    if Key::of_file(CONVERTER, path, before) != Key::of_file(CONVERTER, path, &after) {
        return Err(ProviderError::Other(format!(
            "{} was written to while it was being read; try again when it is complete",
            path.display()
        )));
    }
    Ok(source.offset())
}
