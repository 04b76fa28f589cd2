//! One conversion of a key at a time, across processes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{ProviderError, Result};

/// How long another process may take for its conversion before waiting for it is given up.
const WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// `flock` cannot wait with a limit, so it is asked this often.
const POLL: Duration = Duration::from_millis(20);

/// The lock file is removed on release, so that none stay behind; whoever had it open then tries again.
#[derive(Debug)]
pub(super) struct KeyLock {
    path: PathBuf,
    // Closed, and thereby unlocked, after `drop` has removed the name.
    _file: File,
}

impl KeyLock {
    pub(super) fn acquire(path: &Path, report: &dyn Fn(&str)) -> Result<Self> {
        let started = Instant::now();
        let mut reported = false;
        loop {
            if let Some(lock) = Self::try_acquire(path)? {
                return Ok(lock);
            }
            if !reported {
                report("waiting for another process that is making the same image");
                reported = true;
            }
            if started.elapsed() > WAIT_MAX {
                return Err(ProviderError::Other(format!(
                    "another process has been making the same image for more than {} minutes and holds {}: end it, and \
                     try again",
                    WAIT_MAX.as_secs() / 60,
                    path.display()
                )));
            }
            thread::sleep(POLL);
        }
    }

    /// None when another process has it.
    pub(super) fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let dir = path.parent().unwrap_or(path);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(ProviderError::cache(dir, "a lock file cannot be created"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => {
                return Err(ProviderError::cache(dir, "its file system refuses locks")(e));
            }
        }
        // The holder before may have removed the name between our open and our lock; a lock on a file without a name
        // would exclude nobody.
        let named = file.metadata().and_then(|ours| Ok(fs::metadata(path)?.ino() == ours.ino()));
        Ok(matches!(named, Ok(true)).then(|| Self { path: path.to_owned(), _file: file }))
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // A name that stays is swept with the next pruning.
        let _ = fs::remove_file(&self.path);
    }
}
