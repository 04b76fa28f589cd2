//! Why the cache cannot be used.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmette_work::Cancelled;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the cache cannot be used. The text names the folder or file, and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither a cache folder nor a home is known.
    #[error("no cache folder: HOME is not set; set VMETTE_CACHE_DIR to a folder of yours")]
    NoHome,
    /// A variable of the environment names a folder that depends on the current one.
    #[error("{variable}={path} is not an absolute path; name the folder from / on", path = .path.display())]
    Relative {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// The path depends on the current folder.
    #[error("cache {path}: its path is not absolute; set VMETTE_CACHE_DIR to a folder of yours", path = .path.display())]
    NotAbsolute {
        /// The folder.
        path: PathBuf,
    },
    /// Something else is there.
    #[error(
        "cache {path}: it is not a folder; remove it, or set VMETTE_CACHE_DIR to a folder of yours",
        path = .path.display()
    )]
    NotAFolder {
        /// Its path.
        path: PathBuf,
    },
    /// Another user's symbolic link would choose where this user's files are written.
    #[error(
        "cache {path} is a symbolic link of user {owner}, not of {us}; set VMETTE_CACHE_DIR to a folder of yours",
        path = .path.display()
    )]
    Link {
        /// The link.
        path: PathBuf,
        /// The link's owner.
        owner: u32,
        /// This process's effective user.
        us: u32,
    },
    /// Another user could replace the kernel in it.
    #[error(
        "cache {path} belongs to user {owner}, not to {us}; set VMETTE_CACHE_DIR to a folder of yours",
        path = .path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// The folder's owner.
        owner: u32,
        /// This process's effective user.
        us: u32,
    },
    /// Others may write to it, and could replace the kernel in it.
    #[error(
        "cache {path} is writable by others (mode {mode:04o}): run `chmod 700 {path}` if its content is yours, \
         or set VMETTE_CACHE_DIR to another folder",
        path = .path.display()
    )]
    Writable {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The disk is full.
    #[error(
        "cache {path}: no space is left on its disk; free some, or set VMETTE_CACHE_DIR to a folder of yours with space",
        path = .path.display()
    )]
    NoSpace {
        /// The file or folder that was written.
        path: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error(
        "cache {path}: {what}: {source}; make it usable, or set VMETTE_CACHE_DIR to a folder of yours",
        path = .path.display()
    )]
    Io {
        /// The step that failed: `cannot open`.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// A process that hangs or was stopped keeps a lock. One that died has lost it.
    #[error(
        "{holder} has held {path} for more than {}; end it, and try again",
        minutes(*.limit), holder = name_of(*.holder), path = .path.display()
    )]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// The process that has it, as it has written down itself.
        holder: Option<u32>,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The wait for a lock was given up by its owner.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
}

impl Error {
    /// For `map_err`: names what failed, and on which file or folder.
    pub fn io(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let path = path.as_ref().to_owned();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
                _ => Self::Io { what, path, source },
            }
        }
    }
}

/// The holder of a lock, for a message.
pub(crate) fn name_of(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

fn minutes(limit: Duration) -> String {
    match limit.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds => format!("{} minutes", seconds / 60),
    }
}
