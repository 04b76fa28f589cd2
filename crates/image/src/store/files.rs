//! Names of the store's files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmette_cache::{Key, StagedFile};

use super::error::Result;

/// Directory below the cache's root.
pub(super) const IMAGES_DIR: &str = "images";
pub(super) const IMAGE_SUFFIX: &str = "sqfs";
pub(super) const RECORD_SUFFIX: &str = "json";
pub(super) const LOCK_SUFFIX: &str = "lock";
/// Longest wait for another process: it may be downloading gigabytes over a slow line. A process that died has lost its
/// lock, so only one that hangs or was stopped makes anybody wait this long.
pub(super) const LOCK_WAIT_MAX: Duration = Duration::from_secs(60 * 60);
/// Between key and random part of a staging image's name.
pub(super) const STAGING_INFIX: &str = ".staging.";

/// A staging file's path; the file is gone when this is, unless it was published.
pub(super) struct Staging(pub(super) PathBuf);

impl Drop for Staging {
    fn drop(&mut self) {
        // Published or never written: not there, and that is fine.
        let _ = fs::remove_file(&self.0);
    }
}

/// The key whose staging file has this name: an image's, or a record's.
pub(super) fn staging_of(name: &str) -> Option<Key> {
    let image = name.split_once(STAGING_INFIX).map(|(key, _)| key);
    let record = StagedFile::target_of(name).and_then(|target| target.strip_suffix(".json"));
    image.or(record)?.parse().ok()
}

/// Sorted names of the files in a directory of the cache; none if it is not there.
pub(super) fn file_names(dir: &Path) -> Result<Vec<String>> {
    let failed = |e| vmette_cache::Error::io("it cannot be listed", dir)(e);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
