#![allow(clippy::unwrap_used)]

use super::*;
use std::fs;
use std::path::{Path, PathBuf};

fn locks() -> Locks {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Locks::new(openat(rustix::fs::CWD, "/proc/self/fd", flags, Mode::empty()).unwrap().into(), true).unwrap()
}

fn open(path: &Path) -> File {
    fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn made(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, [0; 64]).unwrap();
    (dir, path)
}

fn ask(owner: u64, kind: u32, bytes: std::ops::RangeInclusive<u64>) -> Request {
    let (start, end) = bytes.into_inner();
    Request { node: 2, handle: owner, owner, whole: false, kind, start, end, test: false }
}

/// A program of the host's, with an open file of its own.
fn host(file: &File, kind: u32, start: i64, len: i64) -> Taken {
    set(file, Range { kind, start, len }).unwrap()
}

const ALL: std::ops::RangeInclusive<u64> = 0..=u64::MAX;

#[test]
fn ranges_of_the_guests_processes_and_of_the_host_exclude_each_other() {
    let (_dir, path) = made("a");
    let (mut locks, file, other) = (locks(), open(&path), open(&path));
    assert_eq!(locks.request(&file, c"a", &ask(1, EXCLUSIVE, 0..=9)).unwrap(), Taken::Yes);
    assert_eq!(locks.request(&file, c"a", &ask(2, SHARED, 5..=5)).unwrap(), Taken::No);
    assert_eq!(locks.request(&file, c"a", &ask(2, SHARED, 10..=19)).unwrap(), Taken::Yes);
    assert_eq!(host(&other, SHARED, 9, 1), Taken::No);
    assert_eq!(host(&other, SHARED, 10, 5), Taken::Yes);
    assert_eq!(locks.request(&file, c"a", &ask(2, EXCLUSIVE, 10..=10)).unwrap(), Taken::No);
    // The owner's own lock is in nobody's way, and is told to others with its bounds.
    let test = |owner| Request { test: true, ..ask(owner, EXCLUSIVE, 0..=9) };
    let free = Taken::InTheWay { kind: NONE, start: 0, end: 0 };
    assert_eq!(locks.request(&file, c"a", &test(1)).unwrap(), free);
    let found = Taken::InTheWay { kind: EXCLUSIVE, start: 0, end: 9 };
    assert_eq!(locks.request(&file, c"a", &test(3)).unwrap(), found);
    // Closing gives back, whichever way the guest tells of it.
    locks.flushed(2, 1);
    assert_eq!(locks.request(&file, c"a", &test(3)).unwrap(), free);
    locks.released(2, 2);
    assert_eq!(host(&other, EXCLUSIVE, 0, 0), Taken::Yes);
    assert_eq!(locks.request(&file, c"a", &ask(1, SHARED, 0..=0)).unwrap(), Taken::No);
    assert!(locks.held.is_empty());
    assert_eq!(host(&other, NONE, 0, 0), Taken::Yes);
    assert_eq!(locks.request(&file, c"a", &ask(1, EXCLUSIVE, ALL)).unwrap(), Taken::Yes);
    assert_eq!(host(&other, SHARED, i64::MAX - 1, 0), Taken::No);
    assert_eq!(locks.request(&file, c"a", &ask(1, NONE, ALL)).unwrap(), Taken::Yes);
    assert!(locks.held.is_empty());
}

#[test]
fn locks_of_whole_files_of_the_guest_and_the_host_exclude_each_other() {
    let (_dir, path) = made("a");
    let (mut locks, file, second, other) = (locks(), open(&path), open(&path), open(&path));
    let whole = |kind| Request { whole: true, ..ask(1, kind, ALL) };
    assert_eq!(locks.request(&file, c"a", &whole(SHARED)).unwrap(), Taken::Yes);
    assert_eq!(locks.request(&second, c"a", &whole(SHARED)).unwrap(), Taken::Yes);
    assert!(other.try_lock().is_err());
    other.try_lock_shared().unwrap();
    assert_eq!(locks.request(&file, c"a", &whole(EXCLUSIVE)).unwrap(), Taken::No);
    other.unlock().unwrap();
    drop(second);
    assert_eq!(locks.request(&file, c"a", &whole(EXCLUSIVE)).unwrap(), Taken::Yes);
    assert!(other.try_lock_shared().is_err());
    assert_eq!(locks.request(&file, c"a", &whole(NONE)).unwrap(), Taken::Yes);
    other.try_lock().unwrap();
    assert!(locks.request(&file, c"a", &whole(7)).is_err());
}

#[test]
fn a_mapped_index_is_one_machines_or_the_hosts_and_its_processes_share_it() {
    let (_dir, path) = made("db-shm");
    let (mut locks, file, other) = (locks(), open(&path), open(&path));
    let mut guest = |request: Request| locks.request(&file, c"db-shm", &request).unwrap();
    // As SQLite does it: everybody has a shared lock of byte 128 for as long as the database is open.
    assert_eq!(host(&other, SHARED, 128, 1), Taken::Yes);
    assert_eq!(guest(ask(1, SHARED, 128..=128)), Taken::No);
    assert_eq!(host(&other, NONE, 128, 1), Taken::Yes);
    assert_eq!(guest(ask(1, SHARED, 128..=128)), Taken::Yes);
    assert_eq!(guest(ask(2, SHARED, 128..=128)), Taken::Yes);
    assert_eq!(host(&other, SHARED, 128, 1), Taken::No, "the host would map another copy");
    assert_eq!(guest(ask(1, EXCLUSIVE, 120..=120)), Taken::Yes);
    assert_eq!(guest(ask(2, EXCLUSIVE, 120..=120)), Taken::No);
    let test = Request { test: true, ..ask(2, EXCLUSIVE, 128..=128) };
    assert_eq!(guest(test), Taken::InTheWay { kind: SHARED, start: 128, end: 128 });
    // The machine lets go when its last process has.
    assert_eq!(guest(ask(1, NONE, ALL)), Taken::Yes);
    assert_eq!(host(&other, SHARED, 128, 1), Taken::No);
    assert_eq!(guest(ask(2, NONE, ALL)), Taken::Yes);
    assert_eq!(host(&other, SHARED, 128, 1), Taken::Yes);
    let error = locks.request(&file, c"db-shm", &ask(1, SHARED, 0..=5000)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOLCK));
}

#[test]
fn a_file_that_is_open_for_reading_only_has_shared_locks() {
    let (_dir, path) = made("a");
    let mut locks = locks();
    let file = File::open(&path).unwrap();
    let sealed = Range { kind: EXCLUSIVE, start: 0, len: 1 };
    assert_eq!(set(&file, sealed).unwrap_err().raw_os_error(), Some(libc::ENOLCK));
    assert_eq!(locks.request(&file, c"a", &ask(1, SHARED, 0..=0)).unwrap(), Taken::Yes);
    // On a share that is read-only no file is opened for writing, whatever the lock.
    locks.clear();
    locks.writable = false;
    let error = locks.request(&file, c"a", &ask(1, EXCLUSIVE, 0..=0)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOLCK));
    assert_eq!(locks.request(&file, c"a", &ask(1, SHARED, 0..=0)).unwrap(), Taken::Yes);
}

#[test]
fn nonsense_is_refused_and_owners_are_bounded() {
    let (_dir, path) = made("a");
    let (mut locks, file) = (locks(), open(&path));
    let mut refused = |request: Request| locks.request(&file, c"a", &request).unwrap_err().raw_os_error();
    assert_eq!(refused(ask(1, 9, 0..=0)), Some(libc::EINVAL));
    assert_eq!(refused(ask(1, SHARED, u64::MAX..=u64::MAX)), Some(libc::EINVAL));
    assert_eq!(refused(Request { start: 2, end: 1, ..ask(1, SHARED, ALL) }), Some(libc::EINVAL));
    for owner in 0..OWNERS_MAX as u64 {
        let taken = locks.request(&file, c"a", &ask(owner, SHARED, 0..=0));
        match taken {
            Ok(taken) => assert_eq!(taken, Taken::Yes),
            // This process may have fewer descriptors than that.
            Err(e) if e.raw_os_error() == Some(libc::EMFILE) => return,
            Err(e) => panic!("{e}"),
        }
    }
    let one_more = locks.request(&file, c"a", &ask(OWNERS_MAX as u64, SHARED, 0..=0));
    assert_eq!(one_more.unwrap_err().raw_os_error(), Some(libc::ENOLCK));
    locks.clear();
    assert!(locks.held.is_empty());
}
