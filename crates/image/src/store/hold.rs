//! Keeping an image while a machine uses it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Store, document};

/// While this lives, pruning leaves the image alone.
#[derive(Debug)]
pub struct StoreHold(File);

impl StoreHold {
    /// The image, opened for reading: what is attached through this descriptor is what was held.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// Returns whether somebody holds the image.
pub(super) fn is_held(path: &Path) -> bool {
    let _asking = ask(path);
    // Unlocked before the next one asks.
    document::open(path).is_ok_and(|file| file.try_lock().is_err())
}

/// Locks the image until the file is closed, unless somebody holds it. Returns whether it is locked.
pub(super) fn lock_unheld(file: &File, path: &Path) -> bool {
    let _asking = ask(path);
    file.try_lock().is_ok()
}

/// Lets only one process at a time ask, by the lock of the images' directory: each has the image's lock for a moment, so
/// two would take each other for users of the image. Some file systems cannot lock directories; there it is left at that.
fn ask(path: &Path) -> Option<File> {
    let dir = File::open(path.parent()?).ok()?;
    dir.lock().is_ok().then_some(dir)
}

impl Store {
    /// Holds an image, of this store or any other file, against pruning. Any number may hold it; nobody waits.
    ///
    /// # Errors
    /// The system's; `NotFound` also if the image was pruned at this very moment. Resolving the spec again makes it anew.
    pub fn hold(path: &Path) -> io::Result<StoreHold> {
        let file = File::open(path)?;
        // Only pruning locks exclusively, and only to delete: waiting for it ends at once, with the name gone.
        file.lock_shared()?;
        let (ours, named) = (file.metadata()?, fs::metadata(path)?);
        if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
            Ok(StoreHold(file))
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "the image was replaced while it was being opened"))
        }
    }
}
