//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

/// An argument that is unknown, or empty if one is missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown or incomplete argument {0:?}; usage: vmette-virtiofsd --shared-dir DIR --tag TAG [--readonly] [--owner UID:GID], or vmette-virtiofsd --probe"
)]
pub(crate) struct Usage(OsString);

/// What the program is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Options {
    /// Serve a folder.
    Serve(Share),
    /// Say whether folders can be served on this host.
    Probe,
}

/// The folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) folder: PathBuf,
    pub(crate) tag: String,
    pub(crate) read_only: bool,
    /// The guest's user and group that the files of this process's user belong to.
    pub(crate) owner: (u32, u32),
}

/// Two numbers.
fn owner(text: &OsString) -> Option<(u32, u32)> {
    let (uid, gid) = text.to_str()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

impl Options {
    pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, Usage> {
        let (mut folder, mut tag, mut read_only, mut probe) = (None, None, false, false);
        let mut owned_by = (0, 0);
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--shared-dir") => folder = args.next(),
                Some("--tag") => tag = args.next().and_then(|tag| tag.into_string().ok()),
                Some("--readonly") => read_only = true,
                Some("--owner") => {
                    let value = args.next().unwrap_or_default();
                    owned_by = owner(&value).ok_or(Usage(value))?;
                }
                Some("--probe") => probe = true,
                _ => return Err(Usage(arg)),
            }
        }
        match (folder, tag) {
            (Some(folder), Some(tag)) if !probe => {
                Ok(Self::Serve(Share { folder: folder.into(), tag, read_only, owner: owned_by }))
            }
            (None, None) if probe && !read_only => Ok(Self::Probe),
            _ => Err(Usage("".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Usage> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_folder_is_served_or_the_host_is_asked_and_never_both() {
        let share = |read_only| {
            Options::Serve(Share { folder: "/a".into(), tag: "t".into(), read_only, owner: (0, 0) })
        };
        assert_eq!(parse("--shared-dir /a --tag t").unwrap(), share(false));
        let Options::Serve(owned) = parse("--shared-dir /a --tag t --owner 1000:50").unwrap() else {
            panic!()
        };
        assert_eq!(owned.owner, (1000, 50));
        assert_eq!(parse("--tag t --readonly --shared-dir /a").unwrap(), share(true));
        assert_eq!(parse("--probe").unwrap(), Options::Probe);
        for wrong in [
            "",
            "--shared-dir /a",
            "--probe --readonly",
            "--probe --shared-dir /a --tag t",
            "--x",
            "--shared-dir /a --tag t --owner 7",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
