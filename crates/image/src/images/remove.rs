//! Removing images by name.

use super::find::Found;
use super::{Images, Removed};
use crate::error::{ProviderError, Result};
use crate::store::{NameRecord, Removal, StoredImage};

impl Images {
    /// Removes each name, and its image when that was its last one. An identity means an image with its name; with
    /// `force` with all of its names, and an image goes though a machine uses it: the machine keeps what it has open.
    ///
    /// One answer for each name, in order. Its errors: [`ProviderError::NoSuchImage`], [`ProviderError::ImageInUse`],
    /// upon both of which nothing was removed, and [`ProviderError::Cache`].
    pub fn remove(&self, names: &[String], force: bool) -> Vec<Result<Removed>> {
        names.iter().map(|name| self.remove_one(name, force)).collect()
    }

    fn remove_one(&self, asked: &str, force: bool) -> Result<Removed> {
        // No name comes to stand for an image meanwhile.
        let _lock = self.store.lock_names()?;
        let (going, image) = match self.find(asked)? {
            Found::Named(record, image) => {
                let others = self.store.names_of(&record.key)?.iter().any(|other| other.name != record.name);
                (vec![record], image.filter(|_| !others))
            }
            Found::Image(image) => {
                let names = self.store.names_of(&image.key)?;
                if names.len() > 1 && !force {
                    return Err(several_names(asked, &names));
                }
                (names, Some(image))
            }
        };
        if let Some(image) = &image {
            self.remove_image(asked, image, force)?;
        }
        self.store.forget(&going)?;
        let bytes = image.as_ref().map_or(0, |image| image.bytes);
        Ok(Removed { name: asked.to_owned(), image: image.map(|image| image.id()), bytes })
    }

    fn remove_image(&self, asked: &str, image: &StoredImage, force: bool) -> Result<()> {
        match self.store.remove_image(image, force)? {
            Removal::Gone => Ok(()),
            Removal::Held => {
                Err(ProviderError::ImageInUse { name: asked.to_owned(), by: "a machine uses it" })
            }
            Removal::BeingMade => {
                Err(ProviderError::ImageInUse { name: asked.to_owned(), by: "another process is making it" })
            }
        }
    }
}

fn several_names(asked: &str, names: &[NameRecord]) -> ProviderError {
    let names: Vec<_> = names.iter().map(|record| record.name.as_str()).collect();
    ProviderError::InvalidSpec(format!(
        "image {asked} has several names, {}: remove it by these, or force its removal",
        names.join(", ")
    ))
}
