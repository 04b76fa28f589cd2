//! Cache directories are their user's own.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use crate::error::{ProviderError, Result};

const GROUP_OR_OTHER_WRITE: u32 = 0o022;

/// Makes the directory, and its missing parents, for its user alone; refuses one that another user owns or can write
/// to. In a shared `/tmp` such a one would let that user choose what this user's machines boot, and a symlink of
/// theirs would let them choose where this user's files are written.
pub(crate) fn private_dir(dir: &Path) -> Result<()> {
    let refuse = |problem: String| ProviderError::Cache { dir: dir.to_owned(), problem };
    if !dir.is_absolute() {
        return Err(refuse("its path is not absolute".to_owned()));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => refuse("it is not a directory".to_owned()),
        _ => ProviderError::cache(dir, "it cannot be created")(e),
    })?;
    let me = rustix::process::geteuid().as_raw();
    let failed = |e| ProviderError::cache(dir, "it cannot be examined")(e);
    let link = fs::symlink_metadata(dir).map_err(failed)?;
    if link.is_symlink() && link.uid() != me && link.uid() != 0 {
        return Err(refuse(format!("it is a symbolic link of user {}, and you are user {me}", link.uid())));
    }
    let found = fs::metadata(dir).map_err(failed)?;
    if found.uid() != me {
        return Err(refuse(format!("it belongs to user {}, and you are user {me}", found.uid())));
    }
    if found.mode() & GROUP_OR_OTHER_WRITE != 0 {
        return Err(refuse(format!("other users can write to it (mode {:04o})", found.mode() & 0o7777)));
    }
    Ok(())
}
