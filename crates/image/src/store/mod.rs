//! Converted images, each made once, however many processes ask for it at once.
//!
//! `<cache>/images/<key>.sqfs` is an image, `<key>.json` its record. Both are written under other names, synced and
//! renamed, under the key's lock and the record last: an image is ready when its record is there and its file is the
//! one that the record describes. Leftovers of a killed process are thereby either ready or swept by the next holder of
//! the lock. Names of images lie in `images/names`, downloaded layers in `layers`.

mod budget;
#[cfg(test)]
mod crash;
mod document;
mod error;
mod files;
mod hold;
mod images;
mod key;
mod layers;
mod list;
mod names;
mod prune;
mod record;
mod rules;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use crash::VARIABLE as CRASH_VARIABLE;
pub use error::StoreError;
pub use hold::StoreHold;
pub use images::Store;
pub(crate) use key::{key_of, key_of_file};
pub(crate) use layers::LayerCache;
pub use names::NameRecord;
pub(crate) use record::seconds;
pub use record::{Description, ImageKind, LayerInfo, Origin, StoredImage};
pub(crate) use rules::Removal;
pub use rules::{PruneRules, Pruned};
