//! One writer of a thing at a time, across threads and processes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::{ProviderError, Result};

/// How long another process may take before waiting for it is given up: it may be downloading gigabytes over a slow
/// line. One that died has lost its lock, so only one that hangs or was stopped makes anybody wait this long.
const WAIT_MAX: Duration = Duration::from_secs(60 * 60);
/// How soon a wait notices that it was cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// The lock file is removed on release, so that none stay behind; whoever had it open then tries again.
#[derive(Debug)]
pub(crate) struct FileLock {
    path: PathBuf,
    // Closed, and thereby unlocked, after `drop` has removed the name.
    _file: File,
}

impl FileLock {
    /// Waits for it. The context hears `waiting` once, when that takes longer than a person notices.
    pub(super) fn acquire(path: &Path, ctx: &Context, waiting: &str) -> Result<Self> {
        let started = Instant::now();
        let mut unsaid = Some(waiting);
        loop {
            let file = open(path)?;
            let file = match lock_now(&file, path)? {
                true => file,
                false => lock_later(file, path, ctx, started, &mut unsaid)?,
            };
            if let Some(lock) = Self::if_named(path, file) {
                return Ok(lock);
            }
        }
    }

    /// None when another thread or process has it.
    pub(super) fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        Ok(if lock_now(&file, path)? { Self::if_named(path, file) } else { None })
    }

    /// The holder before may have removed the name between our open and our lock; a lock on a file without a name
    /// would exclude nobody.
    fn if_named(path: &Path, file: File) -> Option<Self> {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let named = file
            .metadata()
            .and_then(|ours| Ok(identity(fs::symlink_metadata(path)?) == identity(ours)))
            .unwrap_or(false);
        named.then(|| Self { path: path.to_owned(), _file: file })
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // A name that stays is swept with the next pruning.
        let _ = fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(ProviderError::cache(dir_of(path), "a lock file cannot be created"))
}

fn dir_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn refused(path: &Path) -> impl FnOnce(io::Error) -> ProviderError {
    ProviderError::cache(dir_of(path), "its file system refuses locks")
}

fn lock_now(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(refused(path)(e)),
    }
}

/// `flock` can neither wait with a limit nor be interrupted from elsewhere, so a thread of its own waits in it. One that
/// is given up on ends, and lets go, when it gets the lock.
fn lock_later(
    file: File,
    path: &Path,
    ctx: &Context,
    started: Instant,
    unsaid: &mut Option<&str>,
) -> Result<File> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let locked = loop {
            match file.lock() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                locked => break locked,
            }
        };
        // Nobody listens any more: the file closes here.
        let _ = sender.send(locked.map(|()| file));
    });
    loop {
        ctx.check_cancelled()?;
        match receiver.recv_timeout(CANCEL_CHECK) {
            Ok(Ok(file)) => return Ok(file),
            Ok(Err(e)) => return Err(refused(path)(e)),
            Err(RecvTimeoutError::Timeout) if started.elapsed() < WAIT_MAX => {
                unsaid.take().iter().for_each(|waiting| ctx.report(waiting));
            }
            Err(_) => {
                return Err(ProviderError::Other(format!(
                    "another process has held {} for more than {} minutes: end it, and try again",
                    path.display(),
                    WAIT_MAX.as_secs() / 60
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        (dir, path)
    }

    #[test]
    fn the_second_waits_says_so_once_and_gets_it() {
        let (dir, path) = place();
        let first = FileLock::try_acquire(&path).unwrap().unwrap();
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        let (sender, receiver) = mpsc::channel();
        let said = Arc::new(AtomicUsize::new(0));
        let ctx = Context::new(dir.path()).with_reporter({
            let said = said.clone();
            Arc::new(move |_| {
                said.fetch_add(1, Ordering::SeqCst);
                sender.send(()).unwrap();
            })
        });
        thread::scope(|scope| {
            let second = scope.spawn(|| FileLock::acquire(&path, &ctx, "waiting").unwrap());
            receiver.recv().unwrap();
            drop(first);
            drop(second.join().unwrap());
        });
        assert_eq!(said.load(Ordering::SeqCst), 1);
        assert!(!path.exists());
    }

    #[test]
    fn a_wait_ends_when_it_is_cancelled() {
        let (dir, path) = place();
        let _held = FileLock::try_acquire(&path).unwrap().unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        let ctx = Context::new(dir.path()).with_cancel_flag(flag.clone()).with_reporter({
            let flag = flag.clone();
            Arc::new(move |_| flag.store(true, Ordering::SeqCst))
        });
        let ended = FileLock::acquire(&path, &ctx, "waiting").unwrap_err();
        assert!(matches!(ended, ProviderError::Cancelled));
    }

    #[test]
    fn a_lock_whose_file_was_replaced_is_none() {
        let (_dir, path) = place();
        let waited_for = open(&path).unwrap();
        drop(FileLock::try_acquire(&path).unwrap().unwrap());
        assert!(lock_now(&waited_for, &path).unwrap());
        assert!(FileLock::if_named(&path, waited_for).is_none(), "its name is gone");
        let waited_for = open(&path).unwrap();
        drop(FileLock::try_acquire(&path).unwrap().unwrap());
        let _next = FileLock::try_acquire(&path).unwrap().unwrap();
        assert!(lock_now(&waited_for, &path).unwrap());
        assert!(FileLock::if_named(&path, waited_for).is_none(), "somebody else's has its name");
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let (dir, path) = place();
        let elsewhere = dir.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(FileLock::try_acquire(&path).is_err());
        assert!(!elsewhere.exists());
    }
}
