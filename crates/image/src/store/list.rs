//! Lists of the store's images, without reading any of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vmette_cache::Key;

use super::error::Result;
use super::hold::is_held;
use super::record::Record;
use super::{RECORD_SUFFIX, Store, StoredImage};

impl Store {
    /// All images, by key. Neither verified nor counted as use.
    ///
    /// # Errors
    /// [`StoreError::Cache`](super::StoreError::Cache) when the directory cannot be listed.
    pub fn list(&self) -> Result<Vec<StoredImage>> {
        let suffix = format!(".{RECORD_SUFFIX}");
        let keys = self.file_names()?;
        let keys = keys.iter().filter_map(|name| name.strip_suffix(&suffix)?.parse().ok());
        Ok(keys.filter_map(|key| self.peek(&key)).collect())
    }

    /// Like [`find`](Self::find), but neither verified nor counted as use.
    #[must_use]
    pub fn peek(&self, key: &Key) -> Option<StoredImage> {
        let (record, file) = Record::read(&self.dir, key)?;
        let path = self.image_path(key);
        let metadata = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let image = record.into_image(path, file.metadata().ok());
        Some(StoredImage { bytes: metadata.size(), ..image })
    }

    /// The image whose squashfs file this is; `None` if the file is not the store's.
    pub(crate) fn at(&self, path: &Path) -> Option<StoredImage> {
        let key = path.file_stem()?.to_str()?.parse().ok()?;
        self.peek(&key).filter(|image| image.path == path)
    }
}

impl StoredImage {
    /// Returns whether a machine, or something else, [holds](Store::hold) it now.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        is_held(&self.path)
    }
}
