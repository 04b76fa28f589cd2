//! Programs of the distribution.

use std::path::{Path, PathBuf};

/// `PATH` of a program unless its command says otherwise: the caller's own may point anywhere.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first executable file of that name in `PATH`, then in the system's folders: an ordinary user's `PATH` lacks the
/// `sbin`s. Relative entries of `PATH` are passed over: the current folder may hold what the user wants to confine.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_PATH.split(':').map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
