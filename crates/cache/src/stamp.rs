//! Telling without reading it whether a file is still the one that was seen before.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Everything that changes when a file is written to, replaced or copied. Only root can make the time of change lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    /// Bytes.
    size: u64,
    /// Last change of the content: seconds since 1970, and nanoseconds.
    modified: (i64, i64),
    /// Last change of content or attributes, likewise.
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of the file with these attributes.
    #[must_use]
    pub fn of(found: &Metadata) -> Self {
        Self {
            dev: found.dev(),
            ino: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Length of the file in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Last change of the content, nanoseconds since 1970.
    #[must_use]
    pub fn modified_ns(&self) -> i128 {
        nanoseconds(self.modified)
    }

    /// Device, inode, and last change of content or attributes in nanoseconds since 1970.
    #[must_use]
    pub(crate) fn identity(&self) -> (u64, u64, i128) {
        (self.dev, self.ino, nanoseconds(self.changed))
    }
}

fn nanoseconds((seconds, nanos): (i64, i64)) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

/// A file's real path and its stamp.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// The path with symbolic links resolved.
    pub path: PathBuf,
    /// The stamp.
    pub stamp: Stamp,
}

impl FileStamp {
    /// The stamp of the file that is at this path now.
    ///
    /// # Errors
    /// There is no such file, or it cannot be examined.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let stamp = Stamp::of(&fs::metadata(&path)?);
        Ok(Self { path, stamp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyBuilder;

    #[test]
    fn a_stamp_follows_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "one").unwrap();
        let before = FileStamp::of(&file).unwrap();
        assert_eq!(before, FileStamp::of(&file).unwrap());
        assert_eq!(before.stamp.size(), 3);

        fs::write(folder.path().join("other"), "two").unwrap();
        fs::rename(folder.path().join("other"), &file).unwrap();
        let after = FileStamp::of(&file).unwrap();
        assert_ne!(before.stamp, after.stamp);
        assert_ne!(KeyBuilder::new().file(&before).finish(), KeyBuilder::new().file(&after).finish());
        assert!(FileStamp::of(&folder.path().join("gone")).is_err());
    }

    #[test]
    fn a_stamp_names_the_real_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "one").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(FileStamp::of(&file).unwrap(), FileStamp::of(&link).unwrap());
    }

    #[test]
    fn its_text_is_read_back_and_nothing_else() {
        let stamp = Stamp::of(&fs::metadata("/").unwrap());
        let text = serde_json::to_string(&stamp).unwrap();
        assert_eq!(serde_json::from_str::<Stamp>(&text).unwrap(), stamp);
        assert!(serde_json::from_str::<Stamp>(&text.replace("\"ino\"", "\"node\"")).is_err());
    }
}
