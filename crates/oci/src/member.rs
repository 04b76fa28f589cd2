//! Names of an archive's members.

/// Longest name or link target in bytes.
const NAME_MAX: usize = 4096;

/// Most links from one file to the next. Docker writes one, for a layer that comes twice.
pub const LINKS_MAX: usize = 8;

/// The name without `.` and empty parts. With `from`, the name of a symbolic link, `path` is that link's target. `None`
/// if the path is absolute, leads out of the archive, is too long or is not UTF-8.
#[must_use]
pub fn member_name(from: &str, path: &[u8]) -> Option<String> {
    let path =
        std::str::from_utf8(path).ok().filter(|path| path.len() <= NAME_MAX && !path.starts_with('/'))?;
    let mut parts: Vec<_> = from.split('/').collect();
    // The link's own name.
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}
