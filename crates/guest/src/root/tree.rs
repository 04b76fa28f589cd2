//! Paths inside of the workload's root. Every look-up is confined by the kernel (`RESOLVE_IN_ROOT`): a symbolic link of
//! a hostile image, absolute or with `..`, leads to another place in the same root and never out of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;

/// How often a look-up is repeated that a rename elsewhere has disturbed.
const RETRIES: usize = 16;

/// A root directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree<'a>(BorrowedFd<'a>);

impl<'a> Tree<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>) -> Self {
        Self(root)
    }

    /// Opens `path`, which is taken to be absolute in this root.
    pub(crate) fn open(self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // openat2 refuses flags that mean nothing together.
        let no_tty = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NOCTTY };
        let mut tries = 0;
        loop {
            match openat2(self.0, path, flags | no_tty | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < RETRIES => tries += 1,
                other => return other.map_err(Into::into),
            }
        }
    }

    /// Finds out whether there is a directory at `path`.
    pub(crate) fn is_dir(self, path: &str) -> bool {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).is_ok()
    }

    /// Opens a regular file, and nothing else: opening a FIFO can wait for ever, opening a device can do anything.
    pub(crate) fn open_regular(self, path: &str, flags: OFlags) -> io::Result<File> {
        let probe = self.open(path, OFlags::PATH, Mode::empty())?;
        refuse_special(&probe)?;
        let file = self.open(path, flags | OFlags::NONBLOCK, Mode::empty())?;
        refuse_special(&file)?;
        Ok(File::from(file))
    }

    /// Creates a regular file for writing, or opens the one that is there.
    pub(crate) fn create(self, path: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK;
        let file = self.open(path, flags, Mode::from_raw_mode(0o644))?;
        refuse_special(&file)?;
        Ok(File::from(file))
    }

    /// Reads a regular file of up to `max` bytes; `None` when there is none.
    pub(crate) fn read(self, path: &str, max: usize) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_regular(path, OFlags::RDONLY) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut bytes = Vec::new();
        file.take(max as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > max {
            return Err(io::Error::other(format!("{path} is larger than {max} bytes")));
        }
        Ok(Some(bytes))
    }

    /// The directory at `path`; missing parts of it are made.
    pub(crate) fn make_dirs(self, path: &str) -> io::Result<OwnedFd> {
        let mut here = self.0.try_clone_to_owned()?;
        let mut prefix = String::new();
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            prefix.push('/');
            prefix.push_str(name);
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            here = match self.open(&prefix, flags, Mode::empty()) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    match mkdirat(&here, name, Mode::from_raw_mode(0o755)) {
                        // A dangling link: what it names is missing, and is not ours to make.
                        Ok(()) | Err(Errno::EXIST) => self.open(&prefix, flags, Mode::empty())?,
                        Err(e) => return Err(e.into()),
                    }
                }
                other => other?,
            };
        }
        Ok(here)
    }
}

fn refuse_special(file: &OwnedFd) -> io::Result<()> {
    match FileType::from_raw_mode(fstat(file)?.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(File::open(dir.path()).unwrap());
        (dir, fd)
    }

    #[test]
    fn links_do_not_lead_out() {
        let (dir, fd) = root();
        let tree = Tree::new(fd.as_fd());
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("/etc", dir.path().join("abs")).unwrap();
        symlink("../../../../../../etc", dir.path().join("up")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "inside").unwrap();
        for path in ["/etc/passwd", "/abs/passwd", "/up/passwd"] {
            assert_eq!(tree.read(path, 100).unwrap().unwrap(), b"inside", "{path}");
        }
        assert!(tree.read("/abs/shadow", 100).unwrap().is_none());
        tree.make_dirs("/abs/x/y").unwrap();
        assert!(dir.path().join("etc/x/y").is_dir());
    }

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let (dir, fd) = root();
        let tree = Tree::new(fd.as_fd());
        rustix::fs::mknodat(fd.as_fd(), "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(tree.read("/fifo", 10).is_err());
        fs::write(dir.path().join("big"), "12345").unwrap();
        assert!(tree.read("/big", 4).is_err());
        assert!(tree.read("/big", 5).is_ok());
        symlink("/nowhere/else", dir.path().join("dangling")).unwrap();
        assert!(tree.make_dirs("/dangling/x").is_err());
    }
}
