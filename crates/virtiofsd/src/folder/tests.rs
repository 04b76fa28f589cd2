#![allow(clippy::unwrap_used)]

use super::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use virtiofsd::filesystem::{Extensions, FsOptions, SetattrValid};
use virtiofsd::fuse::SetattrIn;
use virtiofsd::passthrough::{Config, PassthroughFs};

use crate::nodes::ROOT;

const RDWR: u32 = libc::O_RDWR as u32;

fn context() -> Context {
    Context { uid: 0.into(), gid: 0.into(), pid: 1 }
}

fn locks() -> Locks {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Locks::new(rustix::fs::open("/proc/self/fd", flags, Mode::empty()).unwrap().into(), true).unwrap()
}

/// The folder as a guest sees it that may have so many descriptors.
fn shared(dir: &Path, descriptors: usize) -> Folder<PassthroughFs> {
    let root_dir = dir.to_str().unwrap().to_owned();
    let config = Config { root_dir, xattr: true, guest_fd_limit: descriptors as u64, ..Config::default() };
    let bounds = Bounds { descriptors, files: 100_000, size: 1 << 30 };
    let folder = Folder::new(PassthroughFs::new(config).unwrap(), bounds, locks());
    let wanted = folder.init(FsOptions::all()).unwrap();
    assert!(wanted.contains(FsOptions::POSIX_LOCKS | FsOptions::FLOCK_LOCKS));
    folder
}

fn node(folder: &Folder<PassthroughFs>, parent: u64, name: &CStr) -> u64 {
    folder.lookup(context(), parent, name).unwrap().inode
}

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().unwrap().raw_os_error().unwrap()
}

#[test]
fn a_guest_knows_many_more_files_than_there_are_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    let folder = shared(dir.path(), 64);
    for i in 0..20 {
        let sub = format!("folder{i}");
        fs::create_dir(dir.path().join(&sub)).unwrap();
        let parent = node(&folder, ROOT, &std::ffi::CString::new(sub.clone()).unwrap());
        for j in 0..50 {
            let path = dir.path().join(&sub).join(format!("file{j}"));
            fs::write(&path, format!("{i} {j}")).unwrap();
            let name = std::ffi::CString::new(format!("file{j}")).unwrap();
            all.push((parent, node(&folder, parent, &name), path));
        }
    }
    for (parent, file, path) in &all {
        let (attr, _) = folder.getattr(context(), *file, None).unwrap();
        assert_eq!(attr.ino, fs::metadata(path).unwrap().ino());
        let (handle, _) = folder.open(context(), *file, false, RDWR).unwrap();
        assert!(folder.getattr(context(), *parent, None).is_ok());
        folder.release(context(), *file, 0, handle.unwrap(), false, false, None).unwrap();
        assert!(folder.nodes().descriptors() <= 64);
    }
    for (parent, file, _) in &all {
        folder.forget(context(), *file, 1);
        assert_eq!(errno(folder.getattr(context(), *file, None)), libc::EBADF);
        assert!(folder.getattr(context(), *parent, None).is_ok());
    }
}

/// Lets go of the descriptors of all files that can be found again.
fn rest(folder: &Folder<PassthroughFs>) {
    loop {
        let inner = folder.nodes().undescribe_one(ROOT);
        let Some(inner) = inner else { break };
        folder.fs().forget(context(), inner, 1);
    }
}

#[test]
fn a_file_without_a_descriptor_is_found_where_the_guest_has_put_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    fs::write(dir.path().join("b"), "b").unwrap();
    fs::hard_link(dir.path().join("b"), dir.path().join("sub/c")).unwrap();
    let folder = shared(dir.path(), 64);
    let (sub, a, b) = (node(&folder, ROOT, c"sub"), node(&folder, ROOT, c"a"), node(&folder, ROOT, c"b"));
    rest(&folder);
    assert_eq!(node(&folder, sub, c"c"), b, "two names of one file");
    rest(&folder);
    folder.rename(context(), ROOT, c"a", sub, c"d", 0).unwrap();
    rest(&folder);
    assert_eq!(folder.getattr(context(), a, None).unwrap().0.size, 1);
    // Removed by the guest: it still has the file.
    rest(&folder);
    folder.unlink(context(), sub, c"d").unwrap();
    rest(&folder);
    assert_eq!(folder.getattr(context(), a, None).unwrap().0.nlink, 0);
    let (handle, _) = folder.open(context(), a, false, RDWR).unwrap();
    assert!(handle.is_some());
    // Replaced by another file by the guest: the one that was there is kept.
    fs::write(dir.path().join("e"), "ee").unwrap();
    let e = node(&folder, ROOT, c"e");
    rest(&folder);
    folder.rename(context(), ROOT, c"e", sub, c"c", 0).unwrap();
    rest(&folder);
    assert_eq!(folder.getattr(context(), b, None).unwrap().0.size, 1);
    assert_eq!(folder.getattr(context(), e, None).unwrap().0.size, 2);
}

#[test]
fn what_the_host_has_moved_away_is_stale_and_never_another_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/a"), "a").unwrap();
    let folder = shared(dir.path(), 64);
    let sub = node(&folder, ROOT, c"sub");
    let a = node(&folder, sub, c"a");
    rest(&folder);
    fs::rename(dir.path().join("sub/a"), dir.path().join("elsewhere")).unwrap();
    assert_eq!(errno(folder.getattr(context(), a, None)), libc::ESTALE);
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("sub/a")).unwrap();
    assert_eq!(errno(folder.open(context(), a, false, 0)), libc::ESTALE);
    // A folder on the way that became a link is not followed.
    fs::rename(dir.path().join("sub"), dir.path().join("other")).unwrap();
    std::os::unix::fs::symlink("other", dir.path().join("sub")).unwrap();
    fs::remove_file(dir.path().join("other/a")).unwrap();
    fs::rename(dir.path().join("elsewhere"), dir.path().join("other/a")).unwrap();
    rest(&folder);
    assert_eq!(errno(folder.getattr(context(), a, None)), libc::ESTALE);
}

#[test]
fn a_name_that_the_host_has_removed_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("journal"), "x").unwrap();
    let folder = shared(dir.path(), 64);
    let journal = node(&folder, ROOT, c"journal");
    fs::remove_file(dir.path().join("journal")).unwrap();
    assert_eq!(errno(folder.open(context(), journal, false, 0)), libc::ESTALE);
    // One that the guest itself has removed can be opened, as by `/proc/self/fd`.
    fs::write(dir.path().join("mine"), "x").unwrap();
    let mine = node(&folder, ROOT, c"mine");
    folder.unlink(context(), ROOT, c"mine").unwrap();
    assert!(folder.open(context(), mine, false, 0).is_ok());
}

#[test]
fn names_and_numbers_are_in_bounds_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    let folder = shared(dir.path(), 64);
    let a = node(&folder, ROOT, c"a");
    for wrong in [c"", c".", c"..", c"/etc", c"a/b", c"../a"] {
        assert_eq!(errno(folder.lookup(context(), ROOT, wrong)), libc::EINVAL, "{wrong:?}");
        assert_eq!(errno(folder.unlink(context(), ROOT, wrong)), libc::EINVAL, "{wrong:?}");
        let create = folder.create(context(), ROOT, wrong, 0o644, false, RDWR, 0, Extensions::default());
        assert_eq!(errno(create), libc::EINVAL, "{wrong:?}");
    }
    let (handle, _) = folder.open(context(), a, false, RDWR).unwrap();
    let handle = handle.unwrap();
    for offset in [1 << 63, u64::MAX, i64::MAX as u64] {
        let mut nothing = Borrow { does: Some(|_: &File| Ok(())), result: None };
        let read = folder.read(context(), a, handle, &mut nothing, 4096, offset, None, 0);
        assert_eq!(errno(read), libc::EINVAL);
        assert_eq!(errno(folder.fallocate(context(), a, handle, 0, offset, 4096)), libc::EINVAL);
    }
    let size = SetattrIn { size: (1 << 30) + 1, ..SetattrIn::default() };
    let grown = folder.setattr(context(), a, size, None, SetattrValid::SIZE);
    assert_eq!(errno(grown), libc::EFBIG);
    assert_eq!(errno(folder.fallocate(context(), a, handle, 0, 1 << 30, 1)), libc::EFBIG);
    // The shared folder itself is never forgotten.
    folder.forget(context(), ROOT, u64::MAX);
    assert!(folder.getattr(context(), ROOT, None).is_ok());
}

#[test]
fn a_list_has_the_name_of_a_file_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = shared(dir.path(), 64);
    assert_eq!(errno(folder.lookup(context(), ROOT, c"gone")), libc::ENOENT);
    folder.set_listing(true);
    assert_eq!(folder.lookup(context(), ROOT, c"gone").unwrap().inode, 0);
    folder.forget(context(), 0, 1);
}

#[test]
fn files_that_cannot_be_opened_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let folder = shared(dir.path(), 64);
    for i in 0..200 {
        fs::create_dir(dir.path().join(format!("{i}"))).unwrap();
        let name = std::ffi::CString::new(format!("{i}")).unwrap();
        let create = folder.create(context(), ROOT, &name, 0o644, false, RDWR, 0, Extensions::default());
        assert_eq!(errno(create), libc::EISDIR);
    }
    assert!(folder.lookup(context(), ROOT, c"1").is_ok());
}

#[test]
fn the_first_lock_of_a_file_waits_until_the_guest_asks_for_its_state_and_each_lock_makes_it_ask() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    let folder = shared(dir.path(), 64);
    let a = node(&folder, ROOT, c"a");
    let handle = folder.open(context(), a, false, RDWR).unwrap().0.unwrap();
    let whole = |kind: i32| Request {
        node: a,
        handle,
        owner: 1,
        whole: true,
        kind: kind.try_into().unwrap(),
        start: 0,
        end: u64::MAX,
        test: false,
    };
    let (_, time) = folder.getattr(context(), a, None).unwrap();
    assert_eq!(time, FILE_TIME);
    folder.nodes().trusts(a, Duration::from_secs(3600));
    let taken = folder.lock(context(), &whole(libc::F_WRLCK)).unwrap();
    assert!(matches!(taken, Taken::NotBefore(until) if until > Instant::now() + Duration::from_secs(3000)));
    // Another file, of which the guest was told a moment ago.
    fs::write(dir.path().join("b"), "b").unwrap();
    let a = node(&folder, ROOT, c"b");
    let handle = folder.open(context(), a, false, RDWR).unwrap().0.unwrap();
    let whole = |kind| Request { node: a, handle, ..whole(kind) };
    // A machine that is so slow that the time has passed grants it at once.
    let until = match folder.lock(context(), &whole(libc::F_WRLCK)).unwrap() {
        Taken::NotBefore(until) => until,
        other => {
            assert_eq!(other, Taken::Yes);
            Instant::now()
        }
    };
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
    let mut times = Vec::new();
    for _ in 0..3 {
        assert_eq!(folder.lock(context(), &whole(libc::F_WRLCK)).unwrap(), Taken::Yes);
        let (attr, time) = folder.getattr(context(), a, None).unwrap();
        assert_eq!(time, Duration::ZERO);
        assert!(!times.contains(&attr.mtimensec));
        times.push(attr.mtimensec);
        assert_eq!(folder.lock(context(), &whole(libc::F_UNLCK)).unwrap(), Taken::Yes);
    }
}
