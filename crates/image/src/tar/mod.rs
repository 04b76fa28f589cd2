//! Tar archives: what an archive's entries are, and `tar+file://` and `tar+https://`, which make an image of one: owners by number, modes,
//! times to the second, hard links, extended attributes, device nodes. What comes twice is as it came last.

mod budget;
mod entry;
mod error;
mod limits;
mod pax;
mod source;
mod sparse;

use std::fs::{File, Metadata};
use std::path::Path;

pub(crate) use budget::{Budget, ENTRIES_MAX};
pub(crate) use entry::{End, Entry, Kind, next};
pub(crate) use error::shown;
pub use error::{ArchiveError, Refusal};
pub(crate) use limits::MAX_BYTES_VARIABLE;
pub use limits::TarLimits;
pub(crate) use source::Source;
pub(crate) use sparse::{Segment, SparseMap};

use crate::context::{Attempt, Context};
use crate::error::{ProviderError, Result};
use crate::fetch;
use crate::image_config::ImageConfig;
use crate::layers::{self, Layer, Rules};
use crate::provider::{RootfsArtifact, RootfsProvider};
use crate::spec;
use crate::store::{Description, ImageKind, Key};

/// What specs of archives begin with.
pub(crate) const SCHEME: &str = "tar";
/// Part of every key. Counts up whenever the same archive would become another image.
pub(crate) const CONVERTER: &str = "tar 3";

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
        "tar+file:///PATH or tar+https://HOST/PATH"
    }

    fn matches(&self, spec: &str) -> bool {
        spec.starts_with("tar+file:") || fetch::claims(SCHEME, spec)
    }

    fn provide(&self, spec: &str, ctx: &Context) -> Result<RootfsArtifact> {
        let limits = self.limits.map_or_else(TarLimits::from_env, Ok)?;
        if fetch::claims(SCHEME, spec) {
            return fetch::tar(spec, ctx, limits.max_bytes).map(RootfsArtifact::stored);
        }
        let path = spec::file_url(SCHEME, spec)?;
        let file = spec::open_regular(&path)?;
        let path = path.canonicalize().map_err(ProviderError::io("cannot resolve", &path))?;
        let metadata = file.metadata().map_err(ProviderError::io("cannot examine", &path))?;
        let store = ctx.store()?;
        let key = Key::of_file(CONVERTER, &path, &metadata);
        let source = format!("tar+file://{}", spec::encode_path(&path));
        let image = store.obtain_of_file(&source, &key, ctx, |staging| {
            ctx.report(&format!("converting {}", path.display()));
            let unpacked = convert_file(file, &metadata, &path, staging, limits.max_bytes, ctx)?;
            Ok(Description {
                kind: ImageKind::Tar,
                source: source.clone(),
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
    file: File,
    before: &Metadata,
    path: &Path,
    staging: &Path,
    max_bytes: u64,
    ctx: &Context,
) -> Result<u64> {
    let again = file.try_clone().map_err(ProviderError::io("cannot open again", path))?;
    let archive = Layer {
        name: path.display().to_string(),
        open: Box::new(move || Ok(Box::new(file))),
        compression: None,
        diff_id: None,
    };
    let rules = Rules { whiteouts: false, max_bytes, max_bytes_variable: MAX_BYTES_VARIABLE };
    let converted = layers::convert(vec![archive], rules, &Attempt::of(ctx), staging)?;
    // The key speaks of the archive as it was: an image of anything else must not be kept under it.
    let after = again.metadata().map_err(ProviderError::io("cannot examine", path))?;
    if Key::of_file(CONVERTER, path, before) != Key::of_file(CONVERTER, path, &after) {
        return Err(ProviderError::Other(format!(
            "{} was written to while it was being read; try again when it is complete",
            path.display()
        )));
    }
    Ok(converted.unpacked)
}
