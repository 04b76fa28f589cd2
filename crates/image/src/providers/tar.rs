//! `tar+file://` and `tar+https://`: archives that become images. An entry that comes twice counts as it came last.

use std::fs::{File, Metadata};
use std::path::Path;

use vmette_work::Work;

use super::artifact::{RootfsArtifact, RootfsProvider};
use super::limits::{TAR_MAX_VARIABLE, TarLimits};
use super::spec;
use super::url;
use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::layers::{self, Converted, Layer, Rules};
use crate::store::{ImageKind, key_of_file};

/// Prefix of archives' specs.
const SCHEME: &str = "tar";
/// Part of every key. Counts up whenever the same archive would become another image.
const CONVERTER: &str = "tar 4";

/// Makes images of archives.
#[derive(Debug, Clone, Copy, Default)]
pub struct TarProvider {
    limits: Option<TarLimits>,
}

impl TarProvider {
    /// With the environment's limits, read at each use.
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
        spec.starts_with("tar+file:") || url::claims(SCHEME, spec)
    }

    fn provide(&self, spec: &str, ctx: &Context) -> Result<RootfsArtifact> {
        let limits = self.limits.map_or_else(TarLimits::from_env, Ok)?;
        if url::claims(SCHEME, spec) {
            return url::tar(spec, ctx, limits.max_bytes).map(RootfsArtifact::stored);
        }
        let path = spec::file_url(SCHEME, spec)?;
        let file = spec::open_regular(&path)?;
        let path = path.canonicalize().map_err(ProviderError::io("cannot resolve", &path))?;
        let metadata = file.metadata().map_err(ProviderError::io("cannot examine", &path))?;
        let store = ctx.store()?;
        let key = key_of_file(CONVERTER, &path, &metadata);
        let source = format!("tar+file://{}", spec::encode_path(&path));
        let image = store.obtain_of_file::<ProviderError>(&source, &key, |staging| {
            ctx.work().step(&format!("converting {}", path.display()));
            let converted =
                convert_file(file, &metadata, &path, staging, limits.max_bytes, &ctx.work().child())?;
            Ok(converted.describe(ImageKind::Tar, source.clone()))
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
    work: &Work,
) -> Result<Converted> {
    let again = file.try_clone().map_err(ProviderError::io("cannot open again", path))?;
    let archive = Layer {
        name: path.display().to_string(),
        open: Box::new(move || Ok(Box::new(file))),
        compression: None,
        diff_id: None,
    };
    let rules = Rules { whiteouts: false, max_bytes, max_bytes_variable: TAR_MAX_VARIABLE };
    let converted = layers::convert(vec![archive], rules, work, staging)?;
    // The key speaks of the archive as it was: an image of anything else must not be kept under it.
    let after = again.metadata().map_err(ProviderError::io("cannot examine", path))?;
    if key_of_file(CONVERTER, path, before) != key_of_file(CONVERTER, path, &after) {
        return Err(ProviderError::Other(format!(
            "{} was written to while it was being read; try again when it is complete",
            path.display()
        )));
    }
    Ok(converted)
}
