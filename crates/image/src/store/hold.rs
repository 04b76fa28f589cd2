//! Keeping an image while a machine uses it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Store;

/// While this lives, pruning leaves the image alone.
#[derive(Debug)]
pub struct InUse(File);

impl InUse {
    /// The image, opened for reading: what is attached through this descriptor is what was held.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Store {
    /// Holds an image, of this store or any other file, against pruning. Any number may hold it; nobody waits.
    ///
    /// # Errors
    /// What the system says; `NotFound` also when it was pruned at this very moment, upon which resolving the spec
    /// again makes it anew.
    pub fn hold(path: &Path) -> io::Result<InUse> {
        let file = File::open(path)?;
        // Only pruning locks exclusively, and only to delete: waiting for it ends at once, with the name gone.
        file.lock_shared()?;
        let (ours, named) = (file.metadata()?, fs::metadata(path)?);
        if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
            Ok(InUse(file))
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "the image was replaced while it was being opened"))
        }
    }
}
