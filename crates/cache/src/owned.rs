//! Folders that go with their process, however that ends.

use std::ffi::OsString;
use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::lock::is_named;

/// Characters of the random end of a name, of those that file systems keep apart.
const RANDOM: usize = 12;

/// Names that are tried before giving up: another process's sweep may take a folder that is not locked yet.
const ATTEMPTS: u32 = 100;

/// The system's folders for temporary files, in which anyone may make some.
const SYSTEMS: &[&str] =
    if cfg!(target_os = "linux") { &["/tmp", "/var/tmp", "/dev/shm"] } else { &["/tmp", "/var/tmp"] };

/// Entries of the parent that one sweep looks at: `/tmp` may be anyone's dump.
const SWEEP_MAX: usize = 10_000;

/// A folder that only this user may enter (mode 0700), removed when dropped.
///
/// It is locked as long as its owner lives, and a killed owner's lock is gone. So the next one that is made beside it
/// knows, in whatever PID namespace it runs and however numbers were used again, which leftovers to remove.
#[derive(Debug)]
pub struct OwnedFolder {
    path: PathBuf,
    _lock: File,
}

impl OwnedFolder {
    /// A folder `PREFIX-<12 random characters>` in the first of these places that takes one: `$XDG_RUNTIME_DIR` if that is
    /// this user's own, `$TMPDIR`, and the system's folders for temporary files. Variables are inherited: after `su` they
    /// name another user's folder, in a service or a container one that is not there.
    ///
    /// # Errors
    /// None of them can be written; the error names each of them.
    pub fn new(prefix: &str) -> io::Result<Self> {
        Self::new_in_one_of(&places(|name| std::env::var_os(name)), prefix)
    }

    fn new_in_one_of(places: &[Place], prefix: &str) -> io::Result<Self> {
        let mut tried = Vec::new();
        let mut kind = io::ErrorKind::NotFound;
        for Place { path, variable } in places {
            match Self::new_in(path, prefix) {
                Ok(folder) => return Ok(folder),
                Err(e) => {
                    kind = e.kind();
                    let named = variable.map(|variable| format!("{variable}=")).unwrap_or_default();
                    // The library's error names the folder too, under a random name that nobody looks for.
                    let reason = e.raw_os_error().map_or(e, io::Error::from_raw_os_error);
                    tried.push(format!("{named}{}: {reason}", path.display()));
                }
            }
        }
        let tried = tried.join("; ");
        let message = format!("no folder takes temporary files ({tried}); set TMPDIR to one of yours");
        Err(io::Error::new(kind, message))
    }

    /// The same below `parent`, whose leftovers of this prefix are removed first.
    ///
    /// # Errors
    /// The parent cannot be written.
    pub fn new_in(parent: &Path, prefix: &str) -> io::Result<Self> {
        sweep(parent, prefix);
        for _ in 0..ATTEMPTS {
            let made = tempfile::Builder::new()
                .prefix(&format!("{prefix}-"))
                .rand_bytes(RANDOM)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(parent)?;
            if let Some(lock) = lock(made.path())? {
                return Ok(Self { path: made.keep(), _lock: lock });
            }
        }
        Err(io::Error::other(format!("every new folder in {} was taken away", parent.display())))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnedFolder {
    fn drop(&mut self) {
        // A folder that cannot be removed now is swept when the next one is made.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A folder for temporary files, and the variable that names it.
struct Place {
    path: PathBuf,
    variable: Option<&'static str>,
}

fn places(env: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    let us = rustix::process::geteuid().as_raw();
    let own = |dir: &PathBuf| fs::metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == us);
    let named = |name| env(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let runtime = named("XDG_RUNTIME_DIR").filter(own);
    let variables = [(runtime, "XDG_RUNTIME_DIR"), (named("TMPDIR"), "TMPDIR")];
    let variables = variables
        .into_iter()
        .filter_map(|(path, variable)| Some(Place { path: path?, variable: Some(variable) }));
    let systems = SYSTEMS.iter().map(|path| Place { path: path.into(), variable: None });
    variables.chain(systems).collect()
}

/// Locks the folder. `None` when another process has it, or has removed it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(folder) => File::from(folder),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    match folder.try_lock() {
        Ok(()) => Ok(is_named(path, &folder).then_some(folder)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Removes this user's folders whose owner is gone. Best effort: it is not the caller's business that fails here.
fn sweep(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let us = rustix::process::geteuid().as_raw();
    for entry in entries.take(SWEEP_MAX).flatten() {
        if !entry.file_name().to_str().is_some_and(|name| is_name(name, prefix)) {
            continue;
        }
        let path = entry.path();
        // No following of links: anyone may be able to put things into the parent.
        let ours = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir() && found.uid() == us);
        if ours && let Ok(Some(_lock)) = lock(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn is_name(name: &str, prefix: &str) -> bool {
    let random = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_goes_with_its_guard() {
        let parent = tempfile::tempdir().unwrap();
        let make = || OwnedFolder::new_in(parent.path(), "vmette").unwrap();
        let (one, two) = (make(), make());
        assert_ne!(one.path(), two.path());
        assert_eq!(fs::metadata(one.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(one.path().join("socket"), "").unwrap();
        drop((one, two));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_place_that_takes_no_folder_is_passed_over() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        let place = |path: &Path, variable| Place { path: path.to_owned(), variable };
        let missing = || place(&parent.path().join("missing"), Some("XDG_RUNTIME_DIR"));
        let made = OwnedFolder::new_in_one_of(
            &[missing(), place(&file, Some("TMPDIR")), place(parent.path(), None)],
            "v",
        );
        assert_eq!(made.unwrap().path().parent(), Some(parent.path()));
        let error = OwnedFolder::new_in_one_of(&[missing(), place(&file, Some("TMPDIR"))], "v").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("XDG_RUNTIME_DIR={}/missing: No such", parent.path().display())),
            "{text}"
        );
        assert!(
            text.contains(&format!("TMPDIR={}: Not a dir", file.display())) && text.ends_with("of yours"),
            "{text}"
        );
    }

    #[test]
    fn inherited_variables_are_taken_for_what_they_are_worth() {
        let own = tempfile::tempdir().unwrap();
        let of = |runtime: &str, temp: &str| {
            let (runtime, temp) = (OsString::from(runtime), OsString::from(temp));
            let found = places(move |name| match name {
                "XDG_RUNTIME_DIR" => Some(runtime.clone()),
                "TMPDIR" => Some(temp.clone()),
                _ => None,
            });
            found.iter().filter_map(|place| place.variable).collect::<Vec<_>>()
        };
        let path = own.path().to_str().unwrap();
        assert_eq!(of(path, "/missing"), ["XDG_RUNTIME_DIR", "TMPDIR"]);
        assert_eq!(of("/nonexistent", "relative"), [""; 0]);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(own.path(), Some(12345), None).unwrap();
            assert_eq!(of(path, path), ["TMPDIR"], "another user's is no place for this user's sockets");
        }
    }

    #[test]
    fn only_leftovers_of_dead_owners_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let alive = OwnedFolder::new_in(parent.path(), "vmette").unwrap();
        let put = |name: &str| {
            fs::create_dir(parent.path().join(name)).unwrap();
            fs::write(parent.path().join(name).join("file"), "").unwrap();
        };
        let foreign =
            ["vmette-cache", "vmette-0123456789a", "vmette-0123456789abc", "vmette-0123456789-b", "other"];
        foreign.into_iter().for_each(put);
        put("vmette-0123456789ab");
        let link = parent.path().join("vmette-0123456789ac");
        std::os::unix::fs::symlink(parent.path().join("other"), &link).unwrap();
        let next = OwnedFolder::new_in(parent.path(), "vmette").unwrap();
        assert!(!parent.path().join("vmette-0123456789ab").exists());
        for name in foreign {
            assert!(parent.path().join(name).join("file").exists(), "{name}");
        }
        assert!(alive.path().exists() && next.path().exists() && link.is_symlink());
    }

    #[test]
    fn many_at_once_never_take_each_others() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let folder = OwnedFolder::new_in(parent.path(), "vmette").unwrap();
                        fs::write(folder.path().join("file"), "x").unwrap();
                        assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"x");
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
