//! Reasons for refusing an archive.

use std::io;

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Reading or decompressing failed.
    #[error("cannot be read or decompressed: {0}")]
    Read(#[source] io::Error),
    /// Its files' content cannot be spilled to the cache's disk.
    #[error("its content cannot be spilled to the cache's disk: {0}")]
    Spill(#[source] io::Error),
    /// Larger than is let through.
    #[error(
        "holds more than {limit} bytes when decompressed; if you trust it, {variable}=BYTES raises the limit"
    )]
    TooLarge {
        /// The limit.
        limit: u64,
        /// The variable that raises it.
        variable: &'static str,
    },
    /// Ends before it is complete.
    #[error("is truncated: it ends {offset} bytes in (decompressed), in the middle of an entry")]
    Truncated {
        /// Where it ends.
        offset: u64,
    },
    /// Not a tar archive at all.
    #[error("is not a tar archive (plain, or compressed with gzip, zstd or xz)")]
    NotTar,
    /// A header cannot be parsed.
    #[error("is damaged {offset} bytes in (decompressed): {what}")]
    Damaged {
        /// Where the header begins.
        offset: u64,
        /// The defect.
        what: &'static str,
    },
    /// No entries.
    #[error("holds no entries")]
    Empty,
    /// More of something than is let through.
    #[error("holds more than {limit} {what}, the most that is let through")]
    TooMany {
        /// The things that are too many.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Finding and removing names takes longer than is let through.
    #[error(
        "its links, removals and long paths need more than {limit} steps, the most that is let through; pack it again \
         without them"
    )]
    TooMuchWork {
        /// The limit.
        limit: u64,
    },
    /// An entry cannot be kept as it is.
    #[error("entry {path}: {refusal}")]
    Entry {
        /// The entry's path, escaped for a terminal.
        path: String,
        /// Why not.
        #[source]
        refusal: Refusal,
    },
}

/// Why an entry cannot be kept as it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Refusal {
    #[error("its path holds `..`, which could lead out of the rootfs")]
    DotDot,
    #[error("its path holds a NUL")]
    BadName,
    #[error("its path has {len} bytes; {max} is the most")]
    PathTooLong { len: usize, max: usize },
    #[error("a name in its path has {len} bytes; {max} is the most")]
    NameTooLong { len: usize, max: usize },
    #[error("its path is deeper than {max} directories")]
    TooDeep { max: usize },
    #[error("its path leads through more than {max} symbolic links")]
    TooManyLinks { max: usize },
    #[error("its path leads through {at}, which is not a directory")]
    ThroughFile { at: String },
    #[error("it is a whiteout, and {0}")]
    Whiteout(&'static str),
    #[error("it is a hard link to {target}, which is not an earlier file")]
    HardLink { target: String },
    #[error("its link target is empty, holds a NUL or is longer than {max} bytes")]
    SymlinkTarget { max: usize },
    #[error("its {field} is not a number, or out of range")]
    Number { field: &'static str },
    #[error("entries of type {0:?} cannot be part of a rootfs")]
    Kind(char),
    #[error("its extended header has {len} bytes; {max} is the most")]
    ExtensionTooLong { len: u64, max: u64 },
    #[error("its extended header is malformed: {0}")]
    Extension(&'static str),
    #[error("its extended attribute {name} {why}")]
    Xattr { name: String, why: &'static str },
    #[error("its sparse map is malformed: {0}")]
    Sparse(&'static str),
}

impl Refusal {
    /// With the entry it is about.
    pub(crate) fn of(self, path: &[u8]) -> ArchiveError {
        ArchiveError::Entry { path: shown(path), refusal: self }
    }
}

/// Bytes of a name that a message shows.
const SHOWN_MAX: usize = 200;

/// A name as a message may have it: an archive must not send escape sequences to the terminal.
pub(crate) fn shown(name: &[u8]) -> String {
    let (cut, more) = if name.len() > SHOWN_MAX { (&name[..SHOWN_MAX], "…") } else { (name, "") };
    format!("{:?}{more}", String::from_utf8_lossy(cut))
}
