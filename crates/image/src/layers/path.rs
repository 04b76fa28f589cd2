//! Paths in archives.

use crate::tar::Refusal;

/// Longest path, in bytes; Linux's `PATH_MAX` counts a NUL.
pub(super) const PATH_MAX: usize = 4095;
/// Longest name, in bytes: `NAME_MAX`.
const NAME_MAX: usize = 255;
/// Deepest directory.
pub(super) const DEPTH_MAX: usize = 256;
/// Longest target of a symbolic link, in bytes; Linux reads no more from squashfs.
const SYMLINK_MAX: usize = 4095;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The meaning of an entry's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    Ordinary,
    /// Removes this path.
    Whiteout(Vec<u8>),
    /// Empties this directory.
    Opaque(&'a [u8]),
}

/// The meaning of a normal path's last name; without whiteouts it is ordinary. The marks of old Docker versions, which
/// begin with two `.wh.`, come to nothing so: they remove names that no layer has.
pub(super) fn name(path: &[u8], whiteouts: bool) -> Result<Name<'_>, Refusal> {
    let (dir, name) = split(path);
    if !whiteouts {
        return Ok(Name::Ordinary);
    }
    if name == OPAQUE {
        return Ok(Name::Opaque(dir));
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Name::Ordinary),
        Some(b"" | b"." | b"..") => Err(Refusal::Whiteout("names nothing that could be removed")),
        Some(hidden) if dir.is_empty() => Ok(Name::Whiteout(hidden.to_vec())),
        Some(hidden) => Ok(Name::Whiteout([dir, b"/", hidden].concat())),
    }
}

/// A normal path's directory, and its name in there. Both are empty for the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The names of a normal path.
pub(super) fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

/// The path in its normal form: no `/` at either end, no empty, `.` or `..` part; the root is empty. A `..` takes back
/// the name before it, as Go's `filepath.Clean` has it, and one that leads above a relative path's begin is refused. An
/// absolute path begins at the image's root: the tree has no other.
pub(super) fn normal(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    if path.contains(&0) {
        return Err(Refusal::BadName);
    }
    if path.len() > PATH_MAX {
        return Err(Refusal::PathTooLong { len: path.len(), max: PATH_MAX });
    }
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if names.pop().is_none() && !path.starts_with(b"/") => return Err(Refusal::DotDot),
            b".." => {}
            name => names.push(name),
        }
    }
    names.iter().try_for_each(|name| check_name(name))?;
    if names.len() > DEPTH_MAX {
        return Err(Refusal::TooDeep { max: DEPTH_MAX });
    }
    Ok(names.join(&b'/'))
}

/// A symbolic link may point anywhere: inside of the rootfs it is followed from its root, and else only in the guest.
pub(super) fn check_symlink(target: &[u8]) -> Result<(), Refusal> {
    if target.is_empty() || target.len() > SYMLINK_MAX || target.contains(&0) {
        return Err(Refusal::SymlinkTarget { max: SYMLINK_MAX });
    }
    Ok(())
}

/// A name of a link's target, as a name in the tree.
pub(super) fn check_name(name: &[u8]) -> Result<(), Refusal> {
    if name.len() > NAME_MAX {
        return Err(Refusal::NameTooLong { len: name.len(), max: NAME_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        for (path, expected) in [
            ("./", ""),
            (".", ""),
            ("", ""),
            ("/", ""),
            ("///", ""),
            ("/.", ""),
            ("./a//b/./c/", "a/b/c"),
            ("..a/b..", "..a/b.."),
            ("/a/b", "a/b"),
            ("//a", "a"),
            ("a/../b", "b"),
            ("./x/./../y", "y"),
            ("a/..", ""),
            ("a/b/../../c/..", ""),
            ("/../a", "a"),
            ("/a/../../b", "b"),
        ] {
            assert_eq!(normal(path.as_bytes()).unwrap(), expected.as_bytes(), "{path}");
        }
        for (path, refusal) in [
            ("..", Refusal::DotDot),
            ("../out", Refusal::DotDot),
            ("a/../../out", Refusal::DotDot),
            ("./../a/..", Refusal::DotDot),
            ("a\0b", Refusal::BadName),
        ] {
            assert_eq!(normal(path.as_bytes()), Err(refusal), "{path}");
        }
    }

    #[test]
    fn whiteouts() {
        let whiteout = |path: &str| Ok(Name::Whiteout(path.as_bytes().to_vec()));
        assert_eq!(name(b".wh.a", true), whiteout("a"));
        assert_eq!(name(b"d/.wh.a", true), whiteout("d/a"));
        assert_eq!(name(b"d/.wh..a", true), whiteout("d/.a"));
        assert_eq!(name(b"d/.wh...a", true), whiteout("d/..a"));
        assert_eq!(name(b".wh..wh.plnk", true), whiteout(".wh.plnk"));
        assert_eq!(name(b".wh..wh..opq", true), Ok(Name::Opaque(b"")));
        assert_eq!(name(b"d/e/.wh..wh..opq", true), Ok(Name::Opaque(b"d/e")));
        for ordinary in ["", "a.wh.b", "a.wh./b", "wh.a", ".wha", ".wh.a/b", ".wh..wh.plnk/1.2"] {
            assert_eq!(name(ordinary.as_bytes(), true), Ok(Name::Ordinary), "{ordinary}");
        }
        for bad in [".wh.", "d/.wh.", ".wh..", ".wh..."] {
            assert!(matches!(name(bad.as_bytes(), true), Err(Refusal::Whiteout(_))), "{bad}");
            assert_eq!(name(bad.as_bytes(), false), Ok(Name::Ordinary), "{bad}");
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
