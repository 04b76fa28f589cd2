//! Names for derived files: a digest over everything that they are made of.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// The real path, symbolic links resolved.
    pub path: PathBuf,
    /// The device it is on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Last change of the content, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Last change of content or attributes, nanoseconds since 1970.
    pub ctime_ns: i128,
}

impl FileStamp {
    /// The stamp of what is at this path now.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let meta = fs::metadata(&path)?;
        let nanoseconds = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Ok(Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.len(),
            mtime_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            path,
        })
    }
}

/// Collects what a derived file depends on. Every part is preceded by its length, so that no two lists of parts are
/// the same key.
#[derive(Clone)]
pub struct Key(Sha256);

impl Key {
    /// Depends on nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    /// Depends on these bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Depends on this text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Depends on the file's path, length and time of change: survives a copy of the whole tree with its times.
    #[must_use]
    pub fn content(self, stamp: &FileStamp) -> Self {
        self.bytes(stamp.path.as_os_str().as_bytes())
            .bytes(&stamp.size.to_le_bytes())
            .bytes(&stamp.mtime_ns.to_le_bytes())
    }

    /// Depends on all of the stamp: also on a replacement that kept length and times.
    #[must_use]
    pub fn file(self, stamp: &FileStamp) -> Self {
        self.content(stamp)
            .bytes(&stamp.dev.to_le_bytes())
            .bytes(&stamp.ino.to_le_bytes())
            .bytes(&stamp.ctime_ns.to_le_bytes())
    }

    /// The key as 64 hexadecimal digits, fit for a file's name.
    #[must_use]
    pub fn hex(self) -> String {
        hex(&self.0.finalize())
    }
}

impl Default for Key {
    fn default() -> Self {
        Self::new()
    }
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(Key::new().text("ab").text("c").hex(), Key::new().text("a").text("bc").hex());
        assert_eq!(Key::new().text("ab").hex().len(), 64);
    }

    #[test]
    fn a_stamp_follows_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "one").unwrap();
        let before = FileStamp::of(&file).unwrap();
        assert_eq!(before, FileStamp::of(&file).unwrap());
        assert_eq!(before.size, 3);

        fs::write(folder.path().join("other"), "two").unwrap();
        fs::rename(folder.path().join("other"), &file).unwrap();
        let after = FileStamp::of(&file).unwrap();
        assert_ne!(before.ino, after.ino);
        assert_ne!(Key::new().file(&before).hex(), Key::new().file(&after).hex());
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
}
