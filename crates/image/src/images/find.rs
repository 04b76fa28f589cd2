//! Looking up images by name.

use vmette_cache::Key;

use super::Images;
use crate::error::{ProviderError, Result};
use crate::store::{NameRecord, StoredImage};
use vmette_oci::Reference;

/// Fewest digits of an identity that serve as a name.
const PREFIX_MIN: usize = 4;
const ID_DIGITS: usize = 64;

/// The result of a look-up.
#[derive(Debug)]
pub(super) enum Found {
    /// A name of the store; its image may have been lost.
    Named(NameRecord, Option<StoredImage>),
    /// An image by its identity.
    Image(StoredImage),
}

impl Images {
    /// Looks up a name. Exact names come before references that are to be completed, those before identities.
    pub(super) fn find(&self, asked: &str) -> Result<Found> {
        for name in std::iter::once(asked.to_owned()).chain(canonical(asked)) {
            if let Some(record) = self.store.name(&name)? {
                let image = self.store.peek(&record.key);
                return Ok(Found::Named(record, image));
            }
        }
        match self.by_identity(asked)? {
            Some(image) => Ok(Found::Image(image)),
            None => Err(ProviderError::NoSuchImage { name: asked.to_owned() }),
        }
    }

    /// Like [`find`](Self::find), where an image is needed.
    pub(super) fn find_image(&self, asked: &str) -> Result<(Option<NameRecord>, StoredImage)> {
        match self.find(asked)? {
            Found::Named(record, Some(image)) => Ok((Some(record), image)),
            Found::Named(..) => Err(ProviderError::NoSuchImage { name: asked.to_owned() }),
            Found::Image(image) => Ok((None, image)),
        }
    }

    fn by_identity(&self, asked: &str) -> Result<Option<StoredImage>> {
        let digits = asked.strip_prefix("sha256:").unwrap_or(asked);
        let is_hex = |digits: &str| digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !(PREFIX_MIN..=ID_DIGITS).contains(&digits.len()) || !is_hex(digits) {
            return Ok(None);
        }
        let mut found = self.store.list()?;
        found.retain(|image| image.id().starts_with(digits));
        // One identity may be there twice, as an earlier version of this program made it and as this one does.
        found.sort_by_key(|image| (image.id(), image.made));
        match (found.first(), found.last()) {
            (Some(first), Some(last)) if first.id() != last.id() => Err(ProviderError::InvalidSpec(format!(
                "{asked:?} is the beginning of more than one image's identity: give more digits"
            ))),
            _ => Ok(found.pop()),
        }
    }

    /// The names of an image, sorted.
    pub(super) fn names(&self, key: &Key) -> Result<Vec<String>> {
        Ok(self.store.names_of(key)?.into_iter().map(|record| record.name).collect())
    }
}

/// The complete forms of a reference, in the order in which a run tries them. None of what is no reference.
fn canonical(asked: &str) -> Vec<String> {
    let Ok(reference) = Reference::parse(asked) else { return Vec::new() };
    reference.local().iter().chain([&reference]).map(Reference::to_string).collect()
}
