//! Commands that are longer than the kernel lets one argument be live in a file while they run.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, fchmod, fchown, openat, unlinkat};

use crate::root::tree::Tree;
use crate::sys::Credentials;
use crate::world::Place;

/// A shell command of this many bytes or more goes through a file: the kernel's limit for one argument is 128 KiB.
pub(crate) const INLINE_MAX: usize = 96 << 10;

/// A file with a command; removed by its guard.
#[derive(Debug)]
pub(crate) struct Script {
    dir: OwnedFd,
    name: String,
}

impl Script {
    /// Writes `parts` into `name` and returns the guard and the path as the command sees it.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn write(
        place: &Place<'_>,
        name: String,
        parts: &[&[u8]],
        owner: Option<&Credentials>,
    ) -> io::Result<(Self, String)> {
        let dir =
            Tree::new(place.root).open(place.scripts, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        // A file of that name can only be a stranger's: the guard of an earlier one has removed it.
        let _ = unlinkat(dir.as_fd(), name.as_str(), AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(dir.as_fd(), name.as_str(), flags, Mode::from_raw_mode(0o700))?;
        let seen = format!("{}/{name}", place.scripts_seen.trim_end_matches('/'));
        let script = Self { dir, name };
        let mut file = std::fs::File::from(file);
        for part in parts {
            file.write_all(part)?;
        }
        fchmod(&file, Mode::from_raw_mode(0o700))?;
        if let Some(owner) = owner {
            fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
        }
        Ok((script, seen))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // The workload may have removed it.
        let _ = unlinkat(self.dir.as_fd(), self.name.as_str(), AtFlags::empty());
    }
}
