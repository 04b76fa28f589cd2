//! Templates: the saved state of a machine that has booted and whose agent waits. Booting takes seconds, restoring a
//! fraction of one.
//!
//! A template's folder is named by a key of everything it depends on, so a stale one is never found, only left behind
//! and pruned. Making one is guarded by a lock: the second of two first runs waits for the first. Whatever goes wrong
//! with a template costs a cold boot and a warning, never the run.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use vmette_cache::{CacheRoot, FileLock, FileStamp, KeyBuilder};
use vmette_vmm::{Hypervisor, MachineSpec};
use vmette_wire::handshake::PROTOCOL_VERSION;
use vmette_wire::{Boot, Root};
use vmette_work::Work;

use crate::error::{ConfigError, Error, StartError};
use crate::folder_stamps::FolderStamps;

/// How long a run waits for another one that is making the same template.
const LOCK_TIMEOUT: Duration = Duration::from_secs(90);

/// Templates kept; the least recently used go first. Each holds about 90 MiB: together hardly more than one large image.
const TEMPLATES_MAX: usize = 12;

/// A template that was used within this time does not make room for that of another root: runs that take turns between
/// many images would make templates all the time, each at the cost of a boot, and use none.
const IN_USE: Duration = Duration::from_secs(3600);

/// Free space without which no template is made: its memory, its state, and room for the run itself.
const FREE_SPACE_MIN: u64 = 256 << 20;

/// Behind the key in the name of a lock.
const LOCK_SUFFIX: &str = ".lock";

/// In a template's folder: the engine's own folder, and the stamps of its files.
const MACHINE: &str = "machine";
const STAMPS: &str = "stamps.json";

/// Beside them when the last guest that was started from it did not come up.
const FAILED_START: &str = "failed-start";

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
        root: Option<(&Boot, &Root)>,
        cache: &CacheRoot,
    ) -> Result<Self, Error> {
        let stamp = |path: &Path| FileStamp::of(path).map_err(ConfigError::file("file", path));
        let mut key = KeyBuilder::new()
            .text(&engine.fingerprint(spec)?)
            .file(&stamp(&spec.kernel)?)
            .file(&stamp(&spec.initramfs)?)
            .text(&spec.cmdline)
            .text(&format!("protocol {PROTOCOL_VERSION}"));
        if let (Some(boot), Some(rootfs)) = (root, &spec.rootfs) {
            let boot =
                serde_json::to_string(&boot).map_err(|e| StartError::Internal(format!("template: {e}")))?;
            // The guest has read parts of the image before it was saved: it must never find other bytes in their place,
            // not even those of the same content in another order. Images of the store are written once.
            key = key.text(&boot).file(&stamp(rootfs)?);
        }
        Ok(Self { folder: folder_in(cache), key: key.finish().to_string() })
    }

    /// The template's folder.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(&self.key)
    }

    /// The saved machine in it. [`Error::RestoreFailed`] when that is not what was saved.
    pub(crate) fn machine(&self) -> Result<PathBuf, Error> {
        let machine = self.path().join(MACHINE);
        FolderStamps::check(&self.path().join(STAMPS), &machine)?;
        Ok(machine)
    }

    /// Makes the template: `save` writes the machine to the folder it is given. The caller holds the lock.
    pub(crate) fn make(&self, save: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
        // Swept, when its maker is killed, like the folders that are being removed.
        let staging = self.path().with_extension("new");
        fs::DirBuilder::new().mode(0o700).create(&staging)?;
        let made = save(&staging.join(MACHINE)).and_then(|()| {
            FolderStamps::of(&staging.join(MACHINE))?.write(&staging.join(STAMPS))?;
            Ok(fs::rename(&staging, self.path())?)
        });
        if made.is_err() {
            // What cannot be removed now is swept by the next one that makes a template.
            let _ = fs::remove_dir_all(&staging);
        }
        made
    }

    /// Whether there is one.
    pub(crate) fn exists(&self) -> bool {
        self.path().is_dir()
    }

    /// Notes that a guest did not come up in a start that began at `begun`. Returns whether it is the second failure in
    /// succession: a start that begins after one was noted, and fails too. Starts at the same time count as one.
    pub(crate) fn record_failed_start(&self, begun: SystemTime) -> bool {
        let mark = self.path().join(FAILED_START);
        let noted = fs::metadata(&mark).and_then(|mark| mark.modified());
        if noted.as_ref().is_ok_and(|noted| *noted < begun) {
            return true;
        }
        if noted.is_err() {
            // A template in a folder that cannot be written cannot be removed either.
            let _ = File::create_new(mark);
        }
        false
    }

    /// Notes that it was used, for pruning, and that it works.
    pub(crate) fn touch(&self) {
        // There hardly ever is one.
        let _ = fs::remove_file(self.path().join(FAILED_START));
        // Only the order of pruning depends on it.
        if let Ok(dir) = File::open(self.path()) {
            let _ = dir.set_modified(SystemTime::now());
        }
    }

    /// Takes the lock under which a template is made. Another process that holds it is waited for.
    pub(crate) fn lock(&self, work: &Work) -> vmette_cache::Result<FileLock> {
        fs::create_dir_all(&self.folder)
            .map_err(vmette_cache::Error::io("it cannot be made", &self.folder))?;
        let path = self.folder.join(format!("{}{LOCK_SUFFIX}", self.key));
        let waiting = "waiting for another run that is making the same template";
        FileLock::acquire(&path, LOCK_TIMEOUT, work, waiting)
    }

    /// Whether there is room for one more without removing one that is in use.
    pub(crate) fn has_room(&self) -> bool {
        let Ok(kept) = self.others() else { return true };
        let idle = |used: &SystemTime| used.elapsed().is_ok_and(|age| age > IN_USE);
        kept.len() < TEMPLATES_MAX || kept.first().is_some_and(|(used, _)| idle(used))
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
        self.sweep()?;
        let kept = self.others()?;
        let surplus = (kept.len() + 1).saturating_sub(TEMPLATES_MAX);
        for (_, path) in kept.into_iter().take(surplus) {
            remove(&path)?;
        }
        Ok(())
    }

    /// The other templates, the least recently used first.
    fn others(&self) -> io::Result<Vec<(SystemTime, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.len() == self.key.len() && name != self.key.as_str() && entry.file_type()?.is_dir() {
                found.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes half-made folders and locks whose maker is gone. The caller holds the lock of its own key.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Some((key, rest)) = name.split_at_checked(self.key.len()) else { continue };
            if entry.file_type()?.is_dir() {
                if rest.starts_with('.') && (key == self.key || is_abandoned(&self.folder, key)) {
                    remove(&entry.path())?;
                }
            } else if rest == LOCK_SUFFIX && key != self.key {
                // Taken and dropped, it removes itself.
                drop(FileLock::try_acquire(&entry.path()));
            }
        }
        Ok(())
    }
}

/// Whether nobody makes the template of that key.
fn is_abandoned(folder: &Path, key: &str) -> bool {
    let path = folder.join(format!("{key}{LOCK_SUFFIX}"));
    !path.exists() || matches!(FileLock::try_acquire(&path), Ok(Some(_)))
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

    const DIGITS: &str = "0123456789defg";

    fn template(folder: &Path, digit: char) -> Template {
        Template { folder: folder.to_owned(), key: digit.to_string().repeat(64) }
    }

    fn lock(template: &Template) -> FileLock {
        template.lock(&Work::quiet()).unwrap()
    }

    #[test]
    fn makers_of_the_same_template_exclude_each_other_and_others_do_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let _held = lock(&template(dir.path(), 'a'));
        drop(lock(&template(dir.path(), 'b')));
        let (sender, told) = std::sync::mpsc::channel();
        let work = Work::quiet()
            .reporting(std::sync::Arc::new(move |told| sender.send(format!("{told:?}")).unwrap()));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| template(dir.path(), 'a').lock(&work));
            let line = told.recv().unwrap();
            assert!(line.contains("waiting for another run"), "{line}");
            work.cancel().cancel();
            assert!(vmette_work::is_cancelled(&second.join().unwrap().unwrap_err()));
        });
    }

    #[test]
    fn pruning_keeps_the_latest_and_the_current_and_sweeps_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        for (i, digit) in DIGITS.chars().enumerate() {
            let t = template(dir.path(), digit);
            fs::create_dir_all(t.path()).unwrap();
            let age = Duration::from_secs(1000 - i as u64);
            File::open(t.path()).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        let current = template(dir.path(), '0');
        let _lock = lock(&current);
        let leftover = dir.path().join(format!("{}.tmp", "f".repeat(64)));
        fs::create_dir(&leftover).unwrap();
        current.prune().unwrap();
        assert!(current.exists() && !leftover.exists());
        assert!(!template(dir.path(), '1').exists() && !template(dir.path(), '2').exists());
        let kept = DIGITS[3..].chars().filter(|d| template(dir.path(), *d).exists()).count();
        assert_eq!(kept, TEMPLATES_MAX - 1);
    }

    #[test]
    fn templates_in_use_do_not_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let next = template(dir.path(), 'x');
        for digit in DIGITS.chars().take(TEMPLATES_MAX) {
            assert!(next.has_room(), "{digit}");
            fs::create_dir_all(template(dir.path(), digit).path()).unwrap();
        }
        assert!(!next.has_room());
        let idle = File::open(template(dir.path(), '3').path()).unwrap();
        idle.set_modified(SystemTime::now() - IN_USE - Duration::from_secs(1)).unwrap();
        assert!(next.has_room());
    }

    #[test]
    fn locks_go_with_their_holders_and_those_of_the_killed_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(&template(dir.path(), 'a'));
        let lock_of = |digit: char| dir.path().join(format!("{}{LOCK_SUFFIX}", digit.to_string().repeat(64)));
        fs::write(lock_of('b'), "").unwrap();
        let current = template(dir.path(), 'c');
        let lock = lock(&current);
        current.prune().unwrap();
        assert!(lock_of('a').exists() && !lock_of('b').exists() && lock_of('c').exists());
        drop((held, lock));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_second_failure_in_succession_is_told_from_one_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let t = template(dir.path(), 'a');
        fs::create_dir(t.path()).unwrap();
        let minute = Duration::from_secs(60);
        let (before, after) = (SystemTime::now() - minute, SystemTime::now() + minute);
        assert!(
            !t.record_failed_start(before) && !t.record_failed_start(before),
            "they began before the first was noted"
        );
        t.touch();
        assert!(!t.record_failed_start(after), "one has worked since");
        assert!(t.record_failed_start(after));
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
