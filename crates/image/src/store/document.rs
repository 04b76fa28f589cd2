//! Small JSON files that are whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use vmette_cache::StagedFile;

/// Largest document, in bytes. An image's labels and environment are the large part of one; both are limited to less
/// when they are read from an image.
const LEN_MAX: u64 = 16 << 20;

/// Opens a regular file that is the store's own: no link, and nothing that could block.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// `None` for anything that cannot be read as a `T`: a damaged document is made again.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Option<(T, File)> {
    let file = open(path).ok()?;
    let mut bytes = Vec::new();
    (&file).take(LEN_MAX + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > LEN_MAX {
        return None;
    }
    Some((serde_json::from_slice(&bytes).ok()?, file))
}

/// Writes `dir/<stem>.json` at once: a reader, and the next start after a crash, sees the old or the new one.
pub(super) fn write<T: Serialize>(dir: &Path, stem: &str, document: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(document)?;
    if bytes.len() as u64 > LEN_MAX {
        return Err(io::Error::other(format!("its description is larger than {} MiB", LEN_MAX >> 20)));
    }
    let staged = StagedFile::beside(&dir.join(format!("{stem}.json")))?;
    staged.file().write_all(&bytes)?;
    #[cfg(test)]
    super::crash::point("document staged");
    staged.publish()
}

/// Another process may have been faster.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
