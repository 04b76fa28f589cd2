//! Folders and files that are their user's own.

use std::fs::{self, DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use crate::{Error, Result};

const GROUP_OR_OTHER_WRITE: u32 = 0o022;

/// Makes the folder and its missing parents for this user alone (mode 0700), and refuses one that another user owns or
/// can write to.
///
/// In a shared `/tmp` such a folder would let its owner choose what this user's machines boot, and another user's
/// symbolic link would choose where this user's files are written.
///
/// # Errors
/// [`Error::NotAbsolute`], [`Error::NotAFolder`], [`Error::Link`], [`Error::Owner`], [`Error::Writable`], [`Error::Io`].
pub fn private_folder(path: &Path) -> Result<()> {
    if !path.is_absolute() {
        return Err(Error::NotAbsolute { path: path.to_owned() });
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| match fs::metadata(path) {
        Ok(found) if !found.is_dir() => Error::NotAFolder { path: path.to_owned() },
        _ => Error::io("it cannot be made", path)(e),
    })?;
    let examine = |e| Error::io("it cannot be examined", path)(e);
    let us = rustix::process::geteuid().as_raw();
    let link = fs::symlink_metadata(path).map_err(examine)?;
    if link.is_symlink() && link.uid() != us && link.uid() != 0 {
        return Err(Error::Link { path: path.to_owned(), owner: link.uid(), us });
    }
    own(path, &fs::metadata(path).map_err(examine)?)
}

/// Refuses a file or folder that another user owns or can write to.
///
/// # Errors
/// [`Error::Owner`], [`Error::Writable`].
pub fn own(path: &Path, found: &Metadata) -> Result<()> {
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us {
        return Err(Error::Owner { path: path.to_owned(), owner: found.uid(), us });
    }
    let mode = found.mode() & 0o7777;
    if mode & GROUP_OR_OTHER_WRITE != 0 {
        return Err(Error::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_new_folder_is_private_with_its_parents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        private_folder(&path).unwrap();
        for made in [&path, &folder.path().join("a")] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
        }
        private_folder(&path).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = private_folder(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Writable { mode: 0o777, .. }), "{error}");
        assert!(error.to_string().contains("VMETTE_CACHE_DIR"));
    }

    #[test]
    fn a_file_in_its_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let error = private_folder(&path).unwrap_err();
        assert!(matches!(error, Error::NotAFolder { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("VMETTE_CACHE_DIR") && text.contains(path.to_str().unwrap()), "{text}");
        assert!(matches!(private_folder(Path::new("relative")), Err(Error::NotAbsolute { .. })));
    }

    /// Needs root, who alone can make things in another user's name.
    #[test]
    fn another_users_folder_or_link_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (own, foreign) = (folder.path().join("own"), folder.path().join("foreign"));
        private_folder(&own).unwrap();
        private_folder(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(12345), None).unwrap();
        assert!(matches!(private_folder(&foreign), Err(Error::Owner { owner: 12345, us: 0, .. })));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&own, &link).unwrap();
        private_folder(&link).unwrap();
        std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
        assert!(matches!(private_folder(&link), Err(Error::Link { owner: 12345, .. })));
    }
}
