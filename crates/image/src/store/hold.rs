//! Keeping an image while a machine uses it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Store, document};

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

/// Whether somebody holds the image.
pub(super) fn is_held(path: &Path) -> bool {
    let _asking = ask(path);
    // Unlocked before the next one asks.
    document::open(path).is_ok_and(|file| file.try_lock().is_err())
}

/// Whether nobody holds the image, upon which it stays locked until the file is closed: whoever wants to hold it waits.
pub(super) fn lock_unheld(file: &File, path: &Path) -> bool {
    let _asking = ask(path);
    file.try_lock().is_ok()
}

/// Who asks has the image's lock for a moment, so only one at a time asks, by the lock of the images' directory: two
/// would take each other for users of the image. A file system that cannot lock directories leaves it at that.
fn ask(path: &Path) -> Option<File> {
    let dir = File::open(path.parent()?).ok()?;
    dir.lock().is_ok().then_some(dir)
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
