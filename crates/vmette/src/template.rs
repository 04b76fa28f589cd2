//! Templates: the saved state of a machine that has booted and whose agent waits. Booting takes seconds, restoring a
//! fraction of one.
//!
//! A template's folder is named by a key of everything it depends on, so a stale one is never found, only left behind
//! and pruned. Making one is guarded by a lock: the second of two first runs waits for the first. Whatever goes wrong
//! with a template costs a cold boot and a warning, never the run.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use vmette_vmm::{Hypervisor, MachineSpec};
use vmette_wire::agent::{Boot, PROTOCOL_VERSION};

use crate::Error;
use crate::assets::{CacheRoot, FileStamp, Key};

/// How long a run waits for another one that is making the same template.
const LOCK_TIMEOUT: Duration = Duration::from_secs(90);

/// Templates kept; the least recently used go first. Each holds about 90 MiB.
const TEMPLATES_MAX: usize = 8;

/// Free space without which no template is made: its memory, its state, and room for the run itself.
const FREE_SPACE_MIN: u64 = 256 << 20;

/// Where one machine shape's template is, or would be.
pub(crate) struct Template {
    folder: PathBuf,
    key: String,
}

impl Template {
    /// The place for machines like `spec`; with a `root`, for those that have it built from the spec's rootfs already.
    pub(crate) fn locate(
        engine: &dyn Hypervisor,
        spec: &MachineSpec,
        root: Option<&Boot>,
        cache: &CacheRoot,
    ) -> Result<Self, Error> {
        let stamp = |path: &Path| {
            FileStamp::of(path).map_err(|e| Error::InvalidConfig(format!("{}: {e}", path.display())))
        };
        let mut key = Key::new()
            .text(&engine.fingerprint(spec)?)
            .file(&stamp(&spec.kernel)?)
            .file(&stamp(&spec.initramfs)?)
            .text(&spec.cmdline)
            .text(&format!("protocol {PROTOCOL_VERSION}"));
        if let (Some(boot), Some(rootfs)) = (root, &spec.rootfs) {
            let boot =
                serde_json::to_string(boot).map_err(|e| Error::StartFailed(format!("template: {e}")))?;
            // The store names an image by what it was made of, and changes its times with every use.
            key = key.text(&boot).text(&rootfs.to_string_lossy());
        }
        Ok(Self { folder: folder_in(cache), key: key.hex() })
    }

    /// The template's folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(&self.key)
    }

    /// Whether there is one.
    pub(crate) fn exists(&self) -> bool {
        self.path().is_dir()
    }

    /// Notes that it was used, for pruning.
    pub(crate) fn touch(&self) {
        // Only the order of pruning depends on it.
        if let Ok(dir) = File::open(self.path()) {
            let _ = dir.set_modified(SystemTime::now());
        }
    }

    /// Takes the lock under which a template is made. Another process that holds it is waited for; one that died has
    /// lost it.
    pub(crate) fn lock(&self) -> Result<MakerLock, String> {
        fs::create_dir_all(&self.folder).map_err(|e| format!("{}: {e}", self.folder.display()))?;
        let path = self.folder.join(format!("{}.lock", self.key));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(MakerLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(e) => return Err(format!("{}: {e}", path.display())),
        }
        // flock has no deadline of its own, and its holder may be stopped for ever.
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let locked = flock(&file, FlockOperation::LockExclusive);
            drop(sender.send(locked.map(|()| file)));
        });
        match receiver.recv_timeout(LOCK_TIMEOUT) {
            Ok(Ok(file)) => Ok(MakerLock { _file: file }),
            Ok(Err(e)) => Err(format!("{}: {e}", path.display())),
            Err(_) => Err(format!(
                "another run has been making the template for more than {} s",
                LOCK_TIMEOUT.as_secs()
            )),
        }
    }

    /// Whether the cache has room for one.
    pub(crate) fn check_space(&self) -> Result<(), String> {
        let stat =
            rustix::fs::statvfs(&self.folder).map_err(|e| format!("{}: {e}", self.folder.display()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < FREE_SPACE_MIN {
            return Err(format!(
                "{} has {} MiB free, {} MiB are needed",
                self.folder.display(),
                free >> 20,
                FREE_SPACE_MIN >> 20
            ));
        }
        Ok(())
    }

    /// Removes a template that did not work, so that the next run makes a new one.
    pub(crate) fn condemn(&self) -> io::Result<()> {
        remove(&self.path())
    }

    /// Removes the least recently used templates beyond [`TEMPLATES_MAX`], and what killed makers left. A machine that
    /// runs from a removed one keeps its files open.
    pub(crate) fn prune(&self) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !entry.file_type()?.is_dir() || name == self.key.as_str() {
                continue;
            }
            if name.len() == self.key.len() {
                kept.push((entry.metadata()?.modified()?, entry.path()));
            } else if self.abandoned(&name) {
                remove(&entry.path())?;
            }
        }
        kept.sort();
        let surplus = (kept.len() + 1).saturating_sub(TEMPLATES_MAX);
        for (_, path) in kept.into_iter().take(surplus) {
            remove(&path)?;
        }
        Ok(())
    }

    /// Whether `name` is a half-made folder whose maker is gone: its lock can be had.
    fn abandoned(&self, name: &str) -> bool {
        let Some(key) = name.get(..self.key.len()) else { return false };
        if key == self.key {
            // We hold that lock.
            return true;
        }
        match File::open(self.folder.join(format!("{key}.lock"))) {
            Ok(file) => flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(_) => true,
        }
    }
}

fn folder_in(cache: &CacheRoot) -> PathBuf {
    cache.path().join("templates")
}

/// How many templates a cache holds.
pub(crate) fn count(cache: &CacheRoot) -> usize {
    let Ok(entries) = fs::read_dir(folder_in(cache)) else { return 0 };
    let is_template = |entry: &fs::DirEntry| entry.path().is_dir() && entry.path().extension().is_none();
    entries.flatten().filter(is_template).count()
}

/// Held while a template is made.
pub(crate) struct MakerLock {
    _file: File,
}

/// Removes a folder under another name first, so that nobody finds half of it.
fn remove(path: &Path) -> io::Result<()> {
    let trash = path.with_extension(format!("trash.{}", std::process::id()));
    match fs::rename(path, &trash) {
        Ok(()) => fs::remove_dir_all(&trash),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(folder: &Path, digit: char) -> Template {
        Template { folder: folder.to_owned(), key: digit.to_string().repeat(64) }
    }

    #[test]
    fn the_second_maker_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = template(dir.path(), 'a').lock().unwrap();
        let (sender, receiver) = mpsc::channel();
        let path = dir.path().to_owned();
        let second = std::thread::spawn(move || {
            let lock = template(&path, 'a').lock().unwrap();
            sender.send(()).unwrap();
            drop(lock);
        });
        assert!(receiver.try_recv().is_err());
        drop(first);
        receiver.recv().unwrap();
        second.join().unwrap();
    }

    #[test]
    fn pruning_keeps_the_latest_and_the_current_and_sweeps_leavings() {
        let dir = tempfile::tempdir().unwrap();
        for (i, digit) in ('0'..='9').enumerate() {
            let t = template(dir.path(), digit);
            fs::create_dir_all(t.path()).unwrap();
            let age = Duration::from_secs(1000 - i as u64);
            File::open(t.path()).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        let current = template(dir.path(), '0');
        let _lock = current.lock().unwrap();
        let leaving = dir.path().join(format!("{}.tmp", "f".repeat(64)));
        fs::create_dir(&leaving).unwrap();
        current.prune().unwrap();
        assert!(current.exists() && !leaving.exists());
        assert!(!template(dir.path(), '1').exists() && !template(dir.path(), '2').exists());
        assert_eq!(('3'..='9').filter(|d| template(dir.path(), *d).exists()).count(), TEMPLATES_MAX - 1);
    }

    #[test]
    fn a_condemned_template_is_gone_and_condemning_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let t = template(dir.path(), 'b');
        fs::create_dir_all(t.path().join("sub")).unwrap();
        t.condemn().unwrap();
        t.condemn().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
