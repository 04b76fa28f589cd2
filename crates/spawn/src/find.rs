//! Programs of the distribution.

use std::path::{Path, PathBuf};

/// `PATH` of a program unless its command says otherwise: the caller's own may point anywhere.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first executable file of that name in `PATH`. Relative entries are passed over: the current folder may hold what
/// the user wants to confine.
#[must_use]
pub fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    first(std::env::split_paths(&path), name)
}

/// The same, and then in the system's folders: an ordinary user's `PATH` lacks the `sbin`s.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    find_on_path(name).or_else(|| first(SYSTEM_PATH.split(':').map(PathBuf::from), name))
}

fn first(folders: impl Iterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    folders
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
