//! Granted folders on the command line, with the options that docker and podman know for them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vmette::ShareMount;

/// The value of `-v`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) read_only: bool,
}

impl Volume {
    /// A share with a tag of its own.
    pub(crate) fn into_share(self, index: usize) -> ShareMount {
        ShareMount {
            tag: format!("volume{index}"),
            path: self.host,
            read_only: self.read_only,
            target: Some(self.guest),
        }
    }
}

/// `TAG=PATH[:OPTION,…]`. The words behind the last colon belong to the path unless all of them are options, since a path
/// may contain colons.
pub(crate) fn share(text: &OsStr) -> Result<ShareMount, String> {
    let at = text.as_bytes().iter().position(|b| *b == b'=').ok_or("expects TAG=PATH")?;
    let (tag, path) = (&text.as_bytes()[..at], &text.as_bytes()[at + 1..]);
    let tag = str::from_utf8(tag).map_err(|_| "expects TAG=PATH; the tag is not UTF-8")?;
    let (path, read_only) = match path.iter().rposition(|b| *b == b':') {
        Some(colon) if is_all_options(&path[colon + 1..]) => (&path[..colon], read_only(&path[colon + 1..])?),
        _ => (path, false),
    };
    if path.is_empty() {
        return Err("expects TAG=PATH; the path is empty".into());
    }
    Ok(ShareMount { read_only, ..ShareMount::new(tag, Path::new(OsStr::from_bytes(path))) })
}

/// `HOST:GUEST[:OPTION,…]`. The tag is made when all volumes are known.
pub(crate) fn volume(text: &OsStr) -> Result<Volume, String> {
    let text = text.as_bytes();
    // The last `:/`: a host path may contain colons, a guest path starts with a slash.
    let at = text.windows(2).rposition(|two| two == b":/");
    let at = at.ok_or("expects HOST:GUEST[:ro], GUEST being an absolute path")?;
    let (host, guest) = (&text[..at], &text[at + 1..]);
    if host.is_empty() {
        return Err("expects HOST:GUEST[:ro]; the host path is empty".into());
    }
    let (guest, read_only) = match guest.iter().position(|b| *b == b':') {
        Some(colon) => (&guest[..colon], read_only(&guest[colon + 1..])?),
        None => (guest, false),
    };
    let guest = str::from_utf8(guest).map_err(|_| "the path in the guest is not UTF-8")?;
    Ok(Volume { host: OsStr::from_bytes(host).into(), guest: clean(guest), read_only })
}

/// The path without repeated slashes and without one at its end: two spellings of one place are one. `.` and `..` stay, to be
/// refused with the path.
fn clean(path: &str) -> String {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    format!("/{}", names.join("/"))
}

/// The meaning of an option here.
enum Meaning {
    ReadOnly,
    ReadWrite,
    /// A share is so in any case, or the option has nothing to change on a host of Linux.
    Granted,
    /// A share cannot be so.
    Refused(&'static str),
}

fn meaning(option: &str) -> Option<Meaning> {
    Some(match option {
        "ro" => Meaning::ReadOnly,
        "rw" => Meaning::ReadWrite,
        // Labels of SELinux: the folder is served by a process of the user's own, with the user's label.
        "z" | "Z" => Meaning::Granted,
        // How soon each side sees the other's changes; of docker's for macOS.
        "consistent" | "cached" | "delegated" => Meaning::Granted,
        // Nothing is ever copied from the image into a folder, and the folders below are granted with it.
        "nocopy" | "rbind" => Meaning::Granted,
        // No mount of one side shows on the other.
        "private" | "rprivate" => Meaning::Granted,
        // Programs on a share can be executed.
        "exec" => Meaning::Granted,
        "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => {
            Meaning::Refused("mounts are not passed on between host and guest")
        }
        "O" => Meaning::Refused("a share has no overlay; :ro keeps the guest from writing"),
        "U" => Meaning::Refused("vmette does not change the owners of your files"),
        "copy" => Meaning::Refused("vmette copies nothing into your folder"),
        "bind" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" | "idmap" => {
            Meaning::Refused("a share cannot be mounted so")
        }
        _ => return None,
    })
}

fn is_all_options(words: &[u8]) -> bool {
    str::from_utf8(words).is_ok_and(|words| words.split(',').all(|word| meaning(word).is_some()))
}

/// Whether the options make the share read-only. All of them are looked at: one that is passed over could be the one
/// that was to keep the guest from something.
fn read_only(words: &[u8]) -> Result<bool, String> {
    let words = str::from_utf8(words).map_err(|_| "its options are not UTF-8")?;
    let (mut read_only, mut read_write) = (false, false);
    for word in words.split(',') {
        match meaning(word) {
            Some(Meaning::ReadOnly) => read_only = true,
            Some(Meaning::ReadWrite) => read_write = true,
            Some(Meaning::Granted) => {}
            Some(Meaning::Refused(why)) => return Err(format!("option {word:?}: {why}")),
            None => {
                return Err(format!(
                    "option {word:?} is not known; HOST:GUEST takes ro or rw behind it, and GUEST has no colon"
                ));
            }
        }
    }
    if read_only && read_write {
        return Err("ro and rw exclude each other".into());
    }
    Ok(read_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Volume, String> {
        volume(text.as_ref())
    }

    fn is_read_only(text: &str) -> bool {
        let volume = parsed(text).unwrap();
        assert_eq!((volume.host.to_str(), volume.guest.as_str()), (Some("/a"), "/b"), "{text}");
        volume.read_only
    }

    #[test]
    fn shares_have_a_tag_and_a_path() {
        let of = |text: &str| share(text.as_ref());
        let s = of("work=/a=b:ro").unwrap();
        assert_eq!((s.tag.as_str(), s.path.to_str(), s.read_only), ("work", Some("/a=b"), true));
        assert!(!of("w=/a:rw").unwrap().read_only);
        assert!(of("w=/a:z,ro").unwrap().read_only);
        assert_eq!(of("w=/a:b").unwrap().path, Path::new("/a:b"));
        assert!(of("w=/a:ro,slave").is_err());
        assert!(of("/a").is_err() && of("w=").is_err() && of("w=:ro").is_err());
    }

    #[test]
    fn a_volume_has_a_host_path_and_a_guest_path() {
        let v = parsed("./a:b:/work/c:ro").unwrap();
        assert_eq!(v, Volume { host: "./a:b".into(), guest: "/work/c".into(), read_only: true });
        assert_eq!(parsed("/a:/b").unwrap().into_share(3).tag, "volume3");
        assert_eq!(parsed("/a://b//c/").unwrap().guest, "/b/c");
        for wrong in ["/a", "/a:b", ":/b", "", ":ro"] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn paths_need_not_be_text() {
        let host = OsStr::from_bytes(b"/\xff\xfe");
        let v = volume(OsStr::from_bytes(b"/\xff\xfe:/b:ro")).unwrap();
        assert_eq!((v.host.as_os_str(), v.read_only), (host, true));
        assert_eq!(share(OsStr::from_bytes(b"t=/\xff\xfe")).unwrap().path.as_os_str(), host);
        let error = volume(OsStr::from_bytes(b"/a:/\xff")).unwrap_err();
        assert!(error.contains("in the guest is not UTF-8"), "{error}");
    }

    #[test]
    fn options_are_honoured() {
        for text in ["/a:/b:ro", "/a:/b:ro,z", "/a:/b:Z,ro", "/a:/b:cached,ro,rprivate"] {
            assert!(is_read_only(text), "{text}");
        }
        let writable =
            ["rw", "z", "Z", "cached", "delegated", "consistent", "nocopy", "private", "rbind", "exec"];
        for option in writable {
            assert!(!is_read_only(&format!("/a:/b:{option}")), "{option}");
        }
    }

    #[test]
    fn an_option_that_cannot_be_honoured_is_an_error_and_never_a_part_of_the_path() {
        for option in ["foo", "", "ro,", "RO", "ro,rw", "rslave", "shared", "O", "U", "copy", "noexec", "c/d"]
        {
            let error = parsed(&format!("/a:/b:{option}")).expect_err(option);
            assert!(error.contains("option") || error.contains("exclude"), "{option}: {error}");
        }
    }
}
