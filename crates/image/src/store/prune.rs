//! Keeping the store within its size.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::lock::KeyLock;
use super::{IMAGE_SUFFIX, LOCK_SUFFIX, STAGING_INFIX, Store, remove_if_there};
use crate::error::Result;

/// An image that was asked for this recently is kept: its session may be about to hold it.
const GRACE: Duration = Duration::from_secs(60);

/// What a pruning did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images removed.
    pub images: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

struct Candidate {
    path: PathBuf,
    used: SystemTime,
    bytes: u64,
}

impl Store {
    /// Removes images, the longest unused first, until the store's images take at most `max_bytes`. Never removes one
    /// that is held, that was used within the last minute, or `keep`. Also removes what killed conversions left.
    ///
    /// # Errors
    /// [`ProviderError::Cache`](crate::ProviderError::Cache) when the directory cannot be listed.
    pub fn prune(&self, max_bytes: u64, keep: Option<&Path>) -> Result<Pruned> {
        self.sweep()?;
        let mut candidates = self.images()?;
        candidates.sort_by_key(|candidate| candidate.used);
        let mut total: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
        let now = SystemTime::now();
        let mut pruned = Pruned::default();
        for candidate in candidates {
            if total <= max_bytes {
                break;
            }
            // A time in the future says nothing about use; such an image is as old as any.
            let recent = now.duration_since(candidate.used).is_ok_and(|age| age < GRACE);
            if recent || keep == Some(&candidate.path) || !remove_unheld(&candidate.path) {
                continue;
            }
            total -= candidate.bytes;
            pruned.images += 1;
            pruned.bytes += candidate.bytes;
        }
        Ok(pruned)
    }

    fn images(&self) -> Result<Vec<Candidate>> {
        let suffix = format!(".{IMAGE_SUFFIX}");
        let candidate = |name: String| {
            let path = self.dir.join(name);
            // Gone between listing and now: another process prunes too.
            let metadata = fs::symlink_metadata(&path).ok()?;
            let used = metadata.modified().ok()?;
            metadata.is_file().then_some(Candidate { path, used, bytes: metadata.len() })
        };
        Ok(self.names()?.into_iter().filter(|name| name.ends_with(&suffix)).filter_map(candidate).collect())
    }

    /// Removes staging and lock files whose key nobody has locked: their process is dead.
    fn sweep(&self) -> Result<()> {
        for name in self.names()? {
            let key = match name.split_once(STAGING_INFIX) {
                Some((key, _)) => key,
                None => match name.strip_suffix(LOCK_SUFFIX).and_then(|rest| rest.strip_suffix('.')) {
                    Some(key) => key,
                    None => continue,
                },
            };
            if let Some(_lock) = KeyLock::try_acquire(&self.dir.join(format!("{key}.{LOCK_SUFFIX}")))? {
                // Under the lock nobody writes it. What cannot be removed now is tried again next time.
                let _ = remove_if_there(&self.dir.join(&name));
            }
        }
        Ok(())
    }
}

/// Whether the image is gone: an exclusive lock is to be had only when nobody holds it.
fn remove_unheld(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok() && fs::remove_file(path).is_ok())
}
