//! Paths in a workload's root, as requests may name them.

/// Longest path, with the NUL at its end, in bytes: Linux takes none that is longer.
pub const PATH_MAX: usize = 4096;

/// `true` if a request may name `path`: it is absolute, without `..` and NUL, and shorter than [`PATH_MAX`].
#[must_use]
pub fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && path.len() < PATH_MAX
        && !path.contains('\0')
        && path.split('/').all(|name| name != "..")
}

/// `true` if `path` is plain and leads below the root, without a `.` on the way: a place to mount something.
#[must_use]
pub fn is_below_root(path: &str) -> bool {
    is_plain(path) && path.bytes().any(|b| b != b'/') && path.split('/').all(|name| name != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_plain_absolute_paths() {
        assert!(is_plain("/a/b..c") && is_plain("/") && is_plain("/a/./b"));
        for path in ["a", "", "/a/../b", "/..", "/a\0b"] {
            assert!(!is_plain(path), "{path:?}");
        }
        assert!(is_plain(&format!("/{}", "a".repeat(PATH_MAX - 2))));
        assert!(!is_plain(&format!("/{}", "a".repeat(PATH_MAX - 1))));
    }

    #[test]
    fn the_root_itself_is_not_below_it() {
        assert!(is_below_root("/mnt/a") && is_below_root("/.hidden"));
        for path in ["", "/", "//", "/.", "/./a", "mnt", "/mnt/../etc", "/a\0"] {
            assert!(!is_below_root(path), "{path:?}");
        }
    }
}
