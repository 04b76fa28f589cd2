//! From a resolved image to one of the store.

use std::fs;
use std::io::Read;
use std::path::Path;

use super::config::Configuration;
use super::error::{ImageError, listed};
use super::limits::MAX_BYTES_VARIABLE;
use crate::context::Attempt;
use crate::digest::Digest;
use crate::error::{ProviderError, Result};
use crate::layers::{self, Converted, Layer, Rules};
use crate::store::{Description, ImageKind, Key, LayerInfo, Store, StoredImage};

/// Part of every key. Counts up whenever the same image would become another one in the store.
pub(super) const CONVERTER: &str = "oci 2";

/// What opens a layer. Called again when what came of it the first time could not be trusted.
pub(super) type Open<'a> = Box<dyn Fn() -> Result<Box<dyn Read + Send + 'a>> + Send + Sync + 'a>;

/// One layer, and how to get it.
pub(super) struct ImageLayer<'a> {
    pub(super) info: LayerInfo,
    pub(super) open: Open<'a>,
}

/// An image that can be converted: all that is needed is known and fits together.
pub(super) struct Image<'a> {
    /// As the caller named it, for messages.
    pub(super) name: &'a str,
    /// From where it comes, in its canonical form.
    pub(super) source: String,
    pub(super) id: Digest,
    pub(super) configuration: Configuration,
    /// The lowest first; as many as the configuration has diff ids.
    pub(super) layers: Vec<ImageLayer<'a>>,
}

/// The key of what an image becomes. Its identity decides all of its content: it is the digest of the configuration,
/// which holds the digests of the uncompressed layers, so that the same image is converted once wherever it comes from.
pub(super) fn key(id: &Digest) -> Key {
    Key::of_parts([CONVERTER.as_bytes(), id.to_string().as_bytes()])
}

/// Whether the image of the store is what this version would make.
pub(super) fn is_current(image: &StoredImage) -> bool {
    image.description.id.is_some_and(|id| key(&id) == image.key)
}

impl Image<'_> {
    /// The image in the store, converted if it is not there. `may_help` is asked once, after a conversion failed,
    /// whether another attempt may go better.
    pub(super) fn obtain(
        &self,
        store: &Store,
        ctx: &Attempt,
        max_bytes: u64,
        may_help: &dyn Fn(&ProviderError) -> Result<bool>,
    ) -> Result<StoredImage> {
        store.obtain(&key(&self.id), ctx, |staging| {
            self.check_size(max_bytes)?;
            if !self.configuration.dropped.is_empty() {
                ctx.warn(&format!(
                    "image {}: entries of its environment that are not NAME=VALUE were left out: {}",
                    self.name,
                    listed(self.configuration.dropped.iter().cloned())
                ));
            }
            ctx.report(&format!("converting {}", self.name));
            let converted = match self.convert(ctx, max_bytes, staging) {
                Err(e) if may_help(&e)? => {
                    ctx.warn(&format!("{e}; trying once more"));
                    remove_if_there(staging)?;
                    self.convert(ctx, max_bytes, staging)
                }
                converted => converted,
            }?;
            Ok(Description {
                kind: ImageKind::Oci,
                source: self.source.clone(),
                id: Some(self.id),
                platform: Some(self.configuration.platform.clone()),
                config: self.configuration.config.clone(),
                layers: self.layers.iter().map(|layer| layer.info.clone()).collect(),
                unpacked: converted.unpacked,
            })
        })
    }

    /// Before anything is downloaded: layers do not become smaller.
    fn check_size(&self, max_bytes: u64) -> Result<()> {
        let sizes = self.layers.iter().map(|layer| layer.info.size);
        let size = sizes.fold(0, u64::saturating_add);
        if size <= max_bytes {
            return Ok(());
        }
        let source = ImageError::LayersTooLarge { size, limit: max_bytes, variable: MAX_BYTES_VARIABLE };
        Err(ProviderError::Image { name: self.name.to_owned(), source })
    }

    fn convert(&self, ctx: &Attempt, max_bytes: u64, staging: &Path) -> Result<Converted> {
        let diff_ids = &self.configuration.diff_ids;
        let layers = self.layers.iter().zip(diff_ids).enumerate().map(|(index, (layer, diff_id))| Layer {
            name: format!("{}, layer {} of {}", self.name, index + 1, self.layers.len()),
            open: Box::new(|| (layer.open)()),
            // Types and compression do not always agree out there; the diff id tells whether the right thing came out.
            compression: None,
            diff_id: Some(*diff_id),
        });
        let rules = Rules { whiteouts: true, max_bytes, max_bytes_variable: MAX_BYTES_VARIABLE };
        layers::convert(layers.collect(), rules, ctx, staging)
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(ProviderError::io("cannot remove", path)(e))
        }
        _ => Ok(()),
    }
}
