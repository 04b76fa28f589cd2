//! One writer of a thing at a time, across threads and processes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use vmette_work::{Cancelled, Work};

use crate::error::name_of;
use crate::{Error, Result};

/// How long a wait stays silent. A person notices no less.
const SILENT: Duration = Duration::from_millis(50);

/// Digits and a line's end. More is not a holder's note.
const NOTE_MAX: u64 = 16;

/// A lock that is held. The kernel takes it from a process that dies.
///
/// The lock is on a file that holds its holder's process id and is removed on release, so that no file stays behind.
/// A waiter that had the removed file open finds that it has lost its name, and starts again.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    /// Closed, and thereby unlocked, after `drop` has removed the name.
    file: File,
}

impl FileLock {
    /// Waits up to `limit` for the lock. `waiting` is told once, with the holder's process id, when that takes longer than
    /// a person notices.
    ///
    /// # Errors
    /// [`Error::Held`] after `limit`, [`Error::Cancelled`], [`Error::Io`].
    pub fn acquire(path: &Path, limit: Duration, work: &Work, waiting: &str) -> Result<Self> {
        let deadline = Instant::now().checked_add(limit);
        let mut waiting = Some(waiting);
        loop {
            let file = open(path)?;
            let file = match lock_now(&file, path)? {
                true => file,
                false => Wait { path, deadline, limit, work }.lock(file, &mut waiting)?,
            };
            if let Some(lock) = Self::if_named(path, file) {
                return Ok(lock);
            }
        }
    }

    /// The lock, or `None` when another thread or process has it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        Ok(if lock_now(&file, path)? { Self::if_named(path, file) } else { None })
    }

    /// The previous holder may have removed the name between our open and our lock; a lock on a file without a name
    /// would exclude nobody.
    fn if_named(path: &Path, mut file: File) -> Option<Self> {
        if !is_named(path, &file) {
            return None;
        }
        // The note serves messages only: a full disk must keep nobody from locking, or it could never be emptied.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Some(Self { path: path.to_owned(), file })
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Somebody may have emptied the cache, and another holder's file may have the name by now.
        if is_named(&self.path, &self.file) {
            // A name that stays is used again by the next holder.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// True if the path still leads to this file or folder.
pub(crate) fn is_named(path: &Path, file: &File) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata()
        .and_then(|ours| Ok(identity(fs::symlink_metadata(path)?) == identity(ours)))
        .unwrap_or(false)
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(Error::io("its lock cannot be opened", path))
}

fn lock_now(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(refused(path)(e)),
    }
}

fn refused(path: &Path) -> impl FnOnce(io::Error) -> Error {
    Error::io("its file system refuses locks", path)
}

/// The process id that the holder has written down. `None` when there is none (yet).
fn holder_of(mut file: &File) -> Option<u32> {
    let mut note = String::new();
    file.rewind().ok()?;
    file.take(NOTE_MAX).read_to_string(&mut note).ok()?;
    note.trim_end().parse().ok()
}

struct Wait<'a> {
    path: &'a Path,
    /// `None` when the limit is longer than the clock goes.
    deadline: Option<Instant>,
    limit: Duration,
    work: &'a Work,
}

impl Wait<'_> {
    /// `flock` can neither wait with a limit nor be interrupted from elsewhere, so a thread of its own waits in it. A
    /// thread that was given up ends, and releases, when it gets the lock.
    fn lock(&self, file: File, waiting: &mut Option<&str>) -> Result<File> {
        let (sender, events) = mpsc::channel();
        let cancelled = sender.clone();
        let locking = file.try_clone().map_err(refused(self.path))?;
        let start = thread::Builder::new().name("vmette-lock".into());
        start
            .spawn(move || {
                let locked = loop {
                    match locking.lock() {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        locked => break locked,
                    }
                };
                // Nobody listens any more: the file closes here.
                let _ = sender.send(Ok(locked.map(|()| locking)));
            })
            .map_err(Error::io("no thread can wait for its lock", self.path))?;
        let _guard = self.work.cancel().on_cancel(move || drop(cancelled.send(Err(Cancelled))));
        loop {
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let patience = match (&waiting, left) {
                (Some(_), left) => left.unwrap_or(SILENT).min(SILENT),
                (None, left) => left.unwrap_or(Duration::MAX),
            };
            match events.recv_timeout(patience) {
                Ok(Ok(locked)) => return locked.map_err(refused(self.path)),
                Ok(Err(cancelled)) => return Err(cancelled.into()),
                Err(RecvTimeoutError::Disconnected) => return Err(Cancelled.into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if left.is_some_and(|left| left <= patience) {
                let (path, limit) = (self.path.to_owned(), self.limit);
                return Err(Error::Held { path, holder: holder_of(&file), limit });
            }
            if let Some(waiting) = waiting.take() {
                self.work.step(&format!("{waiting} ({})", name_of(holder_of(&file))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::Receiver;
    use vmette_work::{Cancel, Progress, is_cancelled};

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(60);

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        (dir, path)
    }

    /// Work that sends the steps it is told.
    fn heard(cancel: Cancel) -> (Work, Receiver<String>) {
        let (sender, lines) = mpsc::channel();
        let work = Work::new(cancel).reporting(Arc::new(move |progress| match progress {
            Progress::Step(line) => sender.send((*line).to_owned()).unwrap(),
            other => panic!("{other:?}"),
        }));
        (work, lines)
    }

    #[test]
    fn the_second_waits_says_for_whom_once_and_gets_it() {
        let (_dir, path) = place();
        let first = FileLock::try_acquire(&path).unwrap().unwrap();
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        let (work, lines) = heard(Cancel::new());
        let holding = AtomicUsize::new(1);
        thread::scope(|scope| {
            let second = scope.spawn(|| {
                let lock = FileLock::acquire(&path, LONG, &work, "waiting").unwrap();
                assert_eq!(holding.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                drop(lock);
            });
            // It is told while it waits, so the lock is not had at once.
            assert_eq!(
                lines.recv_timeout(LONG).expect("it waits"),
                format!("waiting (process {})", std::process::id())
            );
            holding.fetch_sub(1, Ordering::SeqCst);
            drop(first);
            second.join().unwrap();
        });
        assert!(lines.try_recv().is_err(), "told once");
        assert!(!path.exists());
    }

    #[test]
    fn a_wait_ends_as_soon_as_it_is_cancelled() {
        let (_dir, path) = place();
        let _held = FileLock::try_acquire(&path).unwrap().unwrap();
        let cancel = Cancel::new();
        let (work, lines) = heard(cancel.clone());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| FileLock::acquire(&path, Duration::MAX, &work, "waiting"));
            lines.recv_timeout(LONG).expect("it waits");
            cancel.cancel();
            let error = waiting.join().unwrap().unwrap_err();
            assert!(is_cancelled(&error), "{error}");
        });
    }

    #[test]
    fn a_wait_has_a_limit_and_names_the_holder() {
        let (_dir, path) = place();
        let _held = FileLock::try_acquire(&path).unwrap().unwrap();
        for limit in [Duration::ZERO, SILENT * 2] {
            let error = FileLock::acquire(&path, limit, &Work::quiet(), "waiting").unwrap_err();
            let text = error.to_string();
            let expected = format!("process {} has held {}", std::process::id(), path.display());
            assert!(text.starts_with(&expected), "{text}");
        }
    }

    #[test]
    fn only_one_has_the_lock_though_its_file_goes_with_each_holder() {
        let (_dir, path) = place();
        let holding = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let lock = FileLock::acquire(&path, LONG, &Work::quiet(), "waiting").unwrap();
                        assert_eq!(holding.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                        holding.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(!path.exists());
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

    #[test]
    fn a_note_that_is_no_number_names_nobody() {
        let (_dir, path) = place();
        for note in ["", "x", "12 34", "99999999999999999999"] {
            fs::write(&path, note).unwrap();
            assert_eq!(holder_of(&open(&path).unwrap()), None, "{note}");
        }
    }
}
