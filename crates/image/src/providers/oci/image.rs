//! Converting a resolved image into one of the store.

use std::fs;
use std::io::Read;
use std::path::Path;

use vmette_cache::{Digest, Key};
use vmette_oci::{Configuration, ImageError};
use vmette_work::Work;

use crate::error::{ProviderError, Result};
use crate::layers::{self, Converted, Layer, Rules};
use crate::providers::limits::OCI_MAX_VARIABLE;
use crate::read_error::ReadError;
use crate::store::{Description, ImageKind, LayerInfo, Store, StoredImage, key_of};

/// Part of every key. Counts up whenever the same image would become another one in the store.
pub(super) const CONVERTER: &str = "oci 3";

/// Opens a layer for an attempt at the conversion, of which there may be a second one.
pub(super) type Open<'a> =
    Box<dyn Fn(&Work) -> std::result::Result<Box<dyn Read + Send + 'a>, ReadError> + Send + Sync + 'a>;

/// One layer, and how to get it.
pub(super) struct ImageLayer<'a> {
    pub(super) info: LayerInfo,
    pub(super) open: Open<'a>,
}

/// An image that can be converted: its parts are known and fit together.
pub(super) struct Image<'a> {
    /// The caller's name for it, for messages.
    pub(super) name: &'a str,
    /// The canonical form of its source.
    pub(super) source: String,
    pub(super) id: Digest,
    pub(super) configuration: Configuration,
    /// The lowest first; as many as the configuration has diff ids.
    pub(super) layers: Vec<ImageLayer<'a>>,
}

/// The key of what an image becomes. Its identity decides all of its content: it is the digest of the configuration,
/// which holds the digests of the uncompressed layers, so that the same image is converted once wherever it comes from.
pub(super) fn key(id: &Digest) -> Key {
    key_of([CONVERTER.as_bytes(), id.to_string().as_bytes()])
}

/// Returns whether the image of the store is the one that this version would make.
pub(super) fn is_current(image: &StoredImage) -> bool {
    image.description.id.is_some_and(|id| key(&id) == image.key)
}

impl Image<'_> {
    /// The image in the store, converted if it is not there. A conversion that fails cancels its attempt. `again` is asked
    /// once, after that, for another attempt that may succeed.
    pub(super) fn obtain(
        &self,
        store: &Store,
        attempt: &Work,
        max_bytes: u64,
        again: &dyn Fn(&ProviderError) -> Result<Option<Work>>,
    ) -> Result<StoredImage> {
        store.obtain(&key(&self.id), |staging| {
            self.check_size(max_bytes)?;
            attempt.step(&format!("converting {}", self.name));
            let converted = match self.convert(attempt, max_bytes, staging) {
                Ok(converted) => converted,
                Err(e) => {
                    let Some(attempt) = again(&e)? else { return Err(e) };
                    attempt.warn(&format!("{e}; trying once more"));
                    remove_if_there(staging)?;
                    self.convert(&attempt, max_bytes, staging)?
                }
            };
            let notes = [self.configuration.notes.clone(), converted.notes].concat();
            Ok(Description {
                kind: ImageKind::Oci,
                source: self.source.clone(),
                id: Some(self.id),
                platform: Some(self.configuration.platform.clone()),
                config: self.configuration.config.clone(),
                layers: self.layers.iter().map(|layer| layer.info.clone()).collect(),
                unpacked: converted.unpacked,
                notes,
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
        let source = ImageError::LayersTooLarge { size, limit: max_bytes, variable: OCI_MAX_VARIABLE };
        Err(ProviderError::Image { name: self.name.to_owned(), source })
    }

    fn convert(&self, attempt: &Work, max_bytes: u64, staging: &Path) -> Result<Converted> {
        let diff_ids = &self.configuration.diff_ids;
        let layers = self.layers.iter().zip(diff_ids).enumerate().map(|(index, (layer, diff_id))| Layer {
            name: format!("{}, layer {} of {}", self.name, index + 1, self.layers.len()),
            open: Box::new(|| (layer.open)(attempt)),
            // Types and compression do not always agree out there; the diff id tells whether the right thing came out.
            compression: None,
            diff_id: Some(*diff_id),
        });
        let rules = Rules { whiteouts: true, max_bytes, max_bytes_variable: OCI_MAX_VARIABLE };
        Ok(layers::convert(layers.collect(), rules, attempt, staging)?)
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
