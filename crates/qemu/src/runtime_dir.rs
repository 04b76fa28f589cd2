//! Private folders for what needs a path for a moment, and the removal of those that a killed process left.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const PREFIX: &str = "vmette-";

/// Names that are tried before giving up.
const ATTEMPTS: u32 = 100;

/// Entries of the parent folder that one sweep looks at: `/tmp` may be anyone's dump.
const SWEEP_MAX: usize = 10_000;

/// A folder that only this user may enter, removed when dropped. Its name says which process owns it:
/// `vmette-<pid>-<start time of the process>-<number>`.
#[derive(Debug)]
pub(crate) struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// A new one below `XDG_RUNTIME_DIR` or the folder for temporary files.
    pub(crate) fn new() -> io::Result<Self> {
        let parent = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_dir());
        Self::new_in(&parent.unwrap_or_else(std::env::temp_dir))
    }

    pub(crate) fn new_in(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        let pid = std::process::id();
        let owner = format!("{PREFIX}{pid}-{}", start_time(pid).unwrap_or_default());
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for number in 0..ATTEMPTS {
            let path = parent.join(format!("{owner}-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // What cannot be removed now is swept when the next one is made.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes this user's folders whose owner is gone. Best effort: it is not the caller's business that fails here.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let us = rustix::process::geteuid().as_raw();
    for entry in entries.take(SWEEP_MAX).flatten() {
        let name = entry.file_name();
        let Some((pid, started)) = name.to_str().and_then(owner_of) else { continue };
        // No following of links: the parent may be a folder in which anyone can put things.
        let ours = fs::symlink_metadata(entry.path()).is_ok_and(|meta| meta.is_dir() && meta.uid() == us);
        if ours && start_time(pid) != Some(started) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn owner_of(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let owner = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let number: Option<u32> = parts.next()?.parse().ok();
    (number.is_some() && parts.next().is_none()).then_some(owner)
}

/// When a process was started, in ticks since boot: field 22 of its `stat`, counted after the name, which may hold
/// anything. With the number it identifies the process for good. `None` when there is no such process.
#[cfg(target_os = "linux")]
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields = std::str::from_utf8(&stat[after_name..]).ok()?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn start_time(pid: u32) -> Option<u64> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::test_kill_process(pid).is_ok().then_some(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_private_and_goes_with_its_guard() {
        let parent = tempfile::tempdir().unwrap();
        let (one, two) =
            (RuntimeDir::new_in(parent.path()).unwrap(), RuntimeDir::new_in(parent.path()).unwrap());
        assert_ne!(one.path(), two.path());
        assert_eq!(fs::metadata(one.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(one.path().join("socket"), "").unwrap();
        drop((one, two));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_a_dead_process_left_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let alive = RuntimeDir::new_in(parent.path()).unwrap();
        let us = std::process::id();
        let started = start_time(us).unwrap();
        let dead = [format!("vmette-{us}-{}-0", started + 1), format!("vmette-{}-1-0", u32::MAX)];
        let foreign = ["vmette-cache", "vmette-1-2", "vmette-x-1-0", "vmette-4294967295-1-0-more"];
        for name in dead.iter().map(String::as_str).chain(foreign) {
            fs::create_dir(parent.path().join(name)).unwrap();
            fs::write(parent.path().join(name).join("file"), "").unwrap();
        }
        std::os::unix::fs::symlink(
            parent.path().join("vmette-cache"),
            parent.path().join("vmette-4294967294-1-0"),
        )
        .unwrap();
        sweep(parent.path());
        for name in &dead {
            assert!(!parent.path().join(name).exists(), "{name}");
        }
        for name in foreign {
            assert!(parent.path().join(name).join("file").exists(), "{name}");
        }
        assert!(alive.path().exists());
    }
}
