//! Keys of converted images.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vmette_cache::{Key, KeyBuilder};

/// The key of a list of byte strings.
pub(crate) fn key_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Key {
    parts.into_iter().fold(KeyBuilder::new(), KeyBuilder::bytes).finish()
}

/// The key of the image that `converter` (name and version) makes of a file. The file is identified by its path and by
/// everything that changes when it is written to: hashing gigabytes on every run would cost more than the run.
pub(crate) fn key_of_file(converter: &str, path: &Path, metadata: &Metadata) -> Key {
    let path = path.as_os_str().as_bytes();
    let numbers = [
        i128::from(metadata.dev()),
        i128::from(metadata.ino()),
        i128::from(metadata.size()),
        i128::from(metadata.mtime()),
        i128::from(metadata.mtime_nsec()),
        i128::from(metadata.ctime()),
        i128::from(metadata.ctime_nsec()),
    ];
    let numbers = numbers.map(i128::to_le_bytes);
    key_of([converter.as_bytes(), path].into_iter().chain(numbers.iter().map(<[u8; 16]>::as_slice)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Caches of earlier versions have this key.
    #[test]
    fn keys_stay_what_they_are() {
        let key = key_of([b"oci 2".as_slice(), b"sha256:x"]);
        assert_eq!(key.to_string(), "80c45b7e2c63deee840cbe1ffccf008caa45d146969d948f2870acf84babcb2c");
    }
}
