//! Lists and details of images.

use std::collections::HashMap;

use vmette_cache::Key;

use super::find::Found;
use super::{ImageDetails, ImageSummary, Images};
use crate::error::{ProviderError, Result};
use crate::store::{ImageKind, NameRecord, Origin, StoredImage, seconds};

impl Images {
    /// All images, by name; those without a name come last, the latest used of them first. Reads no image, and does not
    /// count as use.
    ///
    /// # Errors
    /// [`ProviderError::Cache`].
    pub fn list(&self) -> Result<Vec<ImageSummary>> {
        let mut names: HashMap<Key, Vec<NameRecord>> = HashMap::new();
        for record in self.store.all_names()? {
            names.entry(record.key).or_default().push(record);
        }
        let mut summaries = Vec::new();
        for image in self.store.list()? {
            let summary = summary(&image, None);
            match names.remove(&image.key) {
                None => summaries.push(summary),
                Some(names) => summaries.extend(
                    names
                        .into_iter()
                        .map(|record| ImageSummary { name: Some(record.name), ..summary.clone() }),
                ),
            }
        }
        summaries.sort_by(|a, b| {
            let by_name = (a.name.is_none(), &a.name).cmp(&(b.name.is_none(), &b.name));
            by_name.then(b.used.cmp(&a.used)).then_with(|| a.id.cmp(&b.id))
        });
        Ok(summaries)
    }

    /// Everything that is known of one image. Does not count as use.
    ///
    /// # Errors
    /// [`ProviderError::NoSuchImage`]; [`ProviderError::InvalidSpec`] for digits that begin several identities.
    pub fn inspect(&self, name: &str) -> Result<ImageDetails> {
        match self.find(name)? {
            Found::Named(record, Some(image)) => self.details(image, Some(record)),
            Found::Named(..) => Err(ProviderError::NoSuchImage { name: name.to_owned() }),
            Found::Image(image) => self.details(image, None),
        }
    }

    /// `record` is the name that was asked for.
    pub(super) fn details(&self, image: StoredImage, record: Option<NameRecord>) -> Result<ImageDetails> {
        let names = self.names(&image.key)?;
        let manifest = match record.as_ref().map(|record| &record.origin) {
            Some(Origin::Registry { manifest }) => Some(*manifest),
            _ => None,
        };
        let summary = summary(&image, record.map(|record| record.name).or_else(|| names.first().cloned()));
        let described = image.description;
        Ok(ImageDetails {
            summary,
            names,
            source: described.source,
            manifest,
            platform: described.platform,
            config: described.config,
            layers: described.layers,
            unpacked: (described.kind != ImageKind::Squashfs).then_some(described.unpacked),
            notes: described.notes,
            path: image.path,
        })
    }
}

fn summary(image: &StoredImage, name: Option<String>) -> ImageSummary {
    ImageSummary {
        name,
        id: image.id(),
        kind: image.description.kind,
        bytes: image.bytes,
        made: seconds(image.made),
        used: seconds(image.used),
        in_use: image.is_in_use(),
    }
}
