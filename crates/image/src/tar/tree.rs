//! The names of an image as they come in: which are taken, and by what.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::error::{ArchiveError, Refusal, shown};
use crate::meta::Meta;

/// Most entries, counting directories that are only implied: four times as many as a large desktop system has.
const ENTRIES_MAX: usize = 2_000_000;
/// Most bytes of paths in all, which bounds what is kept in memory.
const PATHS_MAX: usize = 256 << 20;
/// Most bytes of directories' attributes in all, which are kept in memory too.
const DIR_XATTRS_MAX: usize = 16 << 20;
/// Longest path, in bytes; Linux's `PATH_MAX` counts a NUL.
const PATH_MAX: usize = 4095;
/// Longest name, in bytes: `NAME_MAX`.
const NAME_MAX: usize = 255;
/// Deepest directory.
const DEPTH_MAX: usize = 256;
/// Longest target of a symbolic link, in bytes; Linux reads no more from squashfs.
const SYMLINK_MAX: usize = 4095;
/// Most different owners, users and groups together: the size of squashfs's table, less one for its maker.
const IDS_MAX: usize = 65_535;

/// What has a name. A hard link is what its target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Dir,
    Symlink,
    /// Anything else.
    File,
}

/// All names so far. Paths are normal: no `/` at either end, no empty, `.` or `..` part; the root is empty.
#[derive(Debug)]
pub(super) struct Tree {
    taken: HashMap<Vec<u8>, Taken>,
    /// Directories come last into the image, so that the last entry of a repeated one counts; sorted, so that equal
    /// archives make equal images.
    dirs: BTreeMap<Vec<u8>, Meta>,
    ids: HashSet<u32>,
    path_bytes: usize,
    dir_xattr_bytes: usize,
}

type Result<T> = std::result::Result<T, ArchiveError>;

impl Tree {
    /// With a root that an archive need not have an entry for.
    pub(super) fn new() -> Self {
        Self {
            taken: HashMap::from([(Vec::new(), Taken::Dir)]),
            dirs: BTreeMap::from([(Vec::new(), Meta::root_owned(0o755))]),
            ids: HashSet::new(),
            path_bytes: 0,
            dir_xattr_bytes: 0,
        }
    }

    /// A name for something that is not a directory.
    pub(super) fn place(&mut self, path: &[u8], what: Taken, meta: &Meta) -> Result<()> {
        self.parents(path)?;
        self.owners(meta)?;
        if self.taken.contains_key(path) {
            return Err(Refusal::Duplicate.of(path));
        }
        self.take(path, what)
    }

    /// A directory, which may have been there: its last entry counts.
    pub(super) fn place_dir(&mut self, path: &[u8], meta: Meta) -> Result<()> {
        self.parents(path)?;
        self.owners(&meta)?;
        match self.taken.get(path) {
            None => self.take(path, Taken::Dir)?,
            Some(Taken::Dir) => {}
            Some(_) => return Err(Refusal::Duplicate.of(path)),
        }
        self.dir_xattr_bytes +=
            meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if self.dir_xattr_bytes > DIR_XATTRS_MAX {
            return Err(too_many("bytes of attributes of directories", DIR_XATTRS_MAX));
        }
        self.dirs.insert(path.to_vec(), meta);
        Ok(())
    }

    /// A hard link's target, normal and checked, and what it is.
    pub(super) fn link_target(&self, path: &[u8], target: &[u8]) -> Result<(Vec<u8>, Taken)> {
        let refuse = || Refusal::HardLink { target: shown(target) }.of(path);
        let target = normal(target).map_err(|_| refuse())?;
        match self.taken.get(&target) {
            Some(&what) if what != Taken::Dir => Ok((target, what)),
            _ => Err(refuse()),
        }
    }

    pub(super) fn into_dirs(self) -> BTreeMap<Vec<u8>, Meta> {
        self.dirs
    }

    /// Everything above the path is a directory; what is missing becomes one. A path through a symbolic link would end
    /// up elsewhere than its name says.
    fn parents(&mut self, path: &[u8]) -> Result<()> {
        for end in path.iter().enumerate().filter_map(|(at, &byte)| (byte == b'/').then_some(at)) {
            let parent = &path[..end];
            match self.taken.get(parent) {
                Some(Taken::Dir) => {}
                Some(Taken::Symlink) => return Err(Refusal::ThroughSymlink { at: shown(parent) }.of(path)),
                Some(Taken::File) => return Err(Refusal::ThroughFile { at: shown(parent) }.of(path)),
                None => {
                    self.take(parent, Taken::Dir)?;
                    self.dirs.insert(parent.to_vec(), Meta::root_owned(0o755));
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &[u8], what: Taken) -> Result<()> {
        self.path_bytes += path.len();
        if self.taken.len() > ENTRIES_MAX {
            return Err(too_many("entries", ENTRIES_MAX));
        }
        if self.path_bytes > PATHS_MAX {
            return Err(too_many("bytes of paths", PATHS_MAX));
        }
        self.taken.insert(path.to_vec(), what);
        Ok(())
    }

    fn owners(&mut self, meta: &Meta) -> Result<()> {
        self.ids.extend([meta.uid, meta.gid]);
        if self.ids.len() > IDS_MAX { Err(too_many("different owners", IDS_MAX)) } else { Ok(()) }
    }
}

fn too_many(what: &'static str, limit: usize) -> ArchiveError {
    ArchiveError::TooMany { what, limit: limit as u64 }
}

/// The path in its normal form.
pub(super) fn normal(path: &[u8]) -> std::result::Result<Vec<u8>, Refusal> {
    if path.is_empty() || path.contains(&0) {
        return Err(Refusal::BadName);
    }
    if path.starts_with(b"/") {
        return Err(Refusal::Absolute);
    }
    if path.len() > PATH_MAX {
        return Err(Refusal::PathTooLong { len: path.len(), max: PATH_MAX });
    }
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(Refusal::DotDot),
            name if name.len() > NAME_MAX => {
                return Err(Refusal::NameTooLong { len: name.len(), max: NAME_MAX });
            }
            name => names.push(name),
        }
    }
    if names.len() > DEPTH_MAX {
        return Err(Refusal::TooDeep { max: DEPTH_MAX });
    }
    Ok(names.join(&b'/'))
}

/// A symbolic link may point anywhere: it is followed in the guest only.
pub(super) fn check_symlink(target: &[u8]) -> std::result::Result<(), Refusal> {
    if target.is_empty() || target.len() > SYMLINK_MAX || target.contains(&0) {
        return Err(Refusal::SymlinkTarget { max: SYMLINK_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        for (path, expected) in [("./", ""), (".", ""), ("./a//b/./c/", "a/b/c"), ("..a/b..", "..a/b..")] {
            assert_eq!(normal(path.as_bytes()).unwrap(), expected.as_bytes());
        }
        for (path, refusal) in [
            ("/a", Refusal::Absolute),
            ("a/../b", Refusal::DotDot),
            ("..", Refusal::DotDot),
            ("", Refusal::BadName),
            ("a\0b", Refusal::BadName),
        ] {
            assert_eq!(normal(path.as_bytes()), Err(refusal));
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_stays_below_the_root(path in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
            if let Ok(path) = normal(&path) {
                prop_assert!(!path.starts_with(b"/"));
                prop_assert!(path.is_empty() || path.split(|&b| b == b'/').all(|name| !name.is_empty() && name != b"." && name != b".."));
                prop_assert!(path.is_empty() || normal(&path) == Ok(path.clone()));
            }
        }
    }
}
