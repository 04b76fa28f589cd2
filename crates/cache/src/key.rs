//! Names for derived things: a digest over everything that they are made of.

use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::FileStamp;
use crate::digest::{LEN, from_hex};

/// SHA-256 over everything that decides what a derived thing is; as text 64 lower-case hexadecimal digits, fit for a
/// file's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Key([u8; LEN]);

/// Text that is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 64 lower-case hexadecimal digits")]
pub struct BadKey;

impl Key {
    /// Characters of a key's text.
    pub const DIGITS: usize = 2 * LEN;
}

/// Collects the parts of a [`Key`]. Every part is preceded by its length, so that no two lists of parts have the same
/// key.
#[derive(Debug, Clone, Default)]
pub struct KeyBuilder(Sha256);

impl KeyBuilder {
    /// A key of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds these bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds this text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds the file's path, length and time of change: the key survives a copy of the whole tree with its times.
    #[must_use]
    pub fn content(self, file: &FileStamp) -> Self {
        self.bytes(file.path.as_os_str().as_bytes())
            .bytes(&file.stamp.size().to_le_bytes())
            .bytes(&file.stamp.modified_ns().to_le_bytes())
    }

    /// Adds the whole stamp: the key changes also with a replacement that kept length and times. Hashing gigabytes on
    /// every run would cost more than the run.
    #[must_use]
    pub fn file(self, file: &FileStamp) -> Self {
        let (dev, ino, changed) = file.stamp.identity();
        self.content(file).bytes(&dev.to_le_bytes()).bytes(&ino.to_le_bytes()).bytes(&changed.to_le_bytes())
    }

    /// Adds the file's device and inode: the key of a place to note something about it.
    #[must_use]
    pub fn inode(self, file: &FileStamp) -> Self {
        let (dev, ino, _) = file.stamp.identity();
        self.bytes(&dev.to_le_bytes()).bytes(&ino.to_le_bytes())
    }

    /// The key of all parts.
    #[must_use]
    pub fn finish(self) -> Key {
        Key(self.0.finalize().into())
    }
}

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        from_hex(text).map(Self).ok_or(BadKey)
    }
}

impl TryFrom<String> for Key {
    type Error = BadKey;

    fn try_from(text: String) -> Result<Self, BadKey> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base16ct::lower::encode_string(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let key =
            |parts: [&str; 2]| parts.iter().fold(KeyBuilder::new(), |key, part| key.text(part)).finish();
        assert_ne!(key(["ab", "c"]), key(["a", "bc"]));
        assert_eq!(key(["ab", "c"]).to_string().len(), Key::DIGITS);
    }

    #[test]
    fn its_text_is_read_back_and_nothing_else() {
        let key = KeyBuilder::new().text("x").finish();
        assert_eq!(key.to_string().parse(), Ok(key));
        for bad in ["", "0", &key.to_string().to_uppercase(), &format!("{key}0"), &key.to_string()[1..]] {
            assert_eq!(bad.parse::<Key>(), Err(BadKey), "{bad}");
        }
    }
}
