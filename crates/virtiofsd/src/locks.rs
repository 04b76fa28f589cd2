//! Locks of the guest's processes, held on the host's files, where programs of the host and other machines meet them.
//!
//! A lock of a whole open file (`flock`) is held by the open file itself. A lock of a range belongs to a process of the
//! guest, or to an open file of it: each of these owners has an open file of its own here, since the host's kernel
//! tells owners apart by that.
//!
//! **The exception: an index that is mapped.** SQLite's write-ahead log has an index beside it, a file whose name ends in
//! `-shm`, which every process that uses the database maps into its memory. What a guest and the host map of one file
//! are two copies. So a machine as a whole locks such a file against everybody else, and locks of its processes
//! among one another are held on memory of this server.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_getfl, flock, openat};
use rustix::io::Errno;

/// Most owners of ranges, each of which has a descriptor here.
pub(crate) const OWNERS_MAX: usize = 1024;

/// The end of the name of an index that processes map.
const INDEX: &[u8] = b"-shm";

/// Bytes of an index that can be locked; SQLite locks some below 136.
const INDEX_BYTES: i64 = 4096;

/// The end of a range that ends with the file, however long that gets.
const END_OF_FILE: u64 = i64::MAX as u64;

const SHARED: u32 = libc::F_RDLCK as u32;
const EXCLUSIVE: u32 = libc::F_WRLCK as u32;
const NONE: u32 = libc::F_UNLCK as u32;

/// A request of the guest's about a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) node: u64,
    pub(crate) handle: u64,
    /// The process, or the open file, as the guest tells them apart.
    pub(crate) owner: u64,
    /// A lock of the whole open file.
    pub(crate) whole: bool,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(crate) kind: u32,
    /// First and last byte.
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Only asks who is in the way.
    pub(crate) test: bool,
}

impl Request {
    /// True if the guest has a lock when this succeeds.
    pub(crate) fn takes(&self) -> bool {
        !self.test && matches!(self.kind, SHARED | EXCLUSIVE)
    }
}

/// What a request came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is done.
    Yes,
    /// Somebody else has a lock that excludes it.
    No,
    /// It is to be made again, and not before.
    NotBefore(Instant),
    /// The answer to a test: kind, first and last byte of the lock that is in the way.
    InTheWay { kind: u32, start: u64, end: u64 },
}

/// A range as the host's kernel takes it.
#[derive(Debug, Clone, Copy)]
struct Range {
    kind: u32,
    start: i64,
    /// 0 is to the end of the file.
    len: i64,
}

/// The locks of ranges.
pub(crate) struct Locks {
    /// `/proc/self/fd`, by which an open file is opened once more.
    descriptors: File,
    /// Memory on which locks of indexes are held.
    memory: File,
    /// Files may be opened for writing. On a share that is read-only none is, not even for a lock.
    writable: bool,
    held: HashMap<(u64, u64), Held>,
    indexes: HashMap<u64, Index>,
}

/// An owner's open file.
struct Held {
    file: File,
    /// The guest's open files by which the owner has locked.
    handles: Vec<u64>,
}

/// A mapped index that this machine has locked.
struct Index {
    /// Holds the machine's lock, for as long as a process of it has one.
    _machine: File,
    /// First byte of the memory for its locks.
    base: i64,
}

impl Locks {
    /// No locks. `descriptors` is the folder `/proc/self/fd`.
    pub(crate) fn new(descriptors: File, writable: bool) -> io::Result<Self> {
        let memory = rustix::fs::memfd_create("locks", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(Self {
            descriptors,
            memory: memory.into(),
            writable,
            held: HashMap::new(),
            indexes: HashMap::new(),
        })
    }

    /// No lock is held any more.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
        self.indexes.clear();
    }

    /// The guest has closed a descriptor: the owner has no lock of the file any more.
    pub(crate) fn flushed(&mut self, node: u64, owner: u64) {
        if self.held.remove(&(node, owner)).is_some() {
            self.let_go(node);
        }
    }

    /// The guest has closed an open file: an owner that has locked by no other has no lock any more.
    pub(crate) fn released(&mut self, node: u64, handle: u64) {
        let before = self.held.len();
        self.held.retain(|(of, _), held| {
            if *of == node {
                held.handles.retain(|other| *other != handle);
            }
            *of != node || !held.handles.is_empty()
        });
        if self.held.len() != before {
            self.let_go(node);
        }
    }

    fn let_go(&mut self, node: u64) {
        if !self.held.keys().any(|(of, _)| *of == node) {
            self.indexes.remove(&node);
        }
    }

    /// Does what the guest asks, without waiting. `file` is its open file of the handle.
    pub(crate) fn request(&mut self, file: &File, name: &CStr, request: &Request) -> io::Result<Taken> {
        if request.whole {
            return whole(file, request);
        }
        let range = range(request)?;
        if name.to_bytes().ends_with(INDEX) {
            return self.index(file, request, range);
        }
        if request.test {
            let owner = self.held.get(&(request.node, request.owner)).map(|held| &held.file);
            return test(owner.unwrap_or(file), range, 0);
        }
        self.take(request, range, |locks| locks.reopen(file))
    }

    /// Locks or unlocks for an owner, whose open file is made if it has none.
    fn take(
        &mut self,
        request: &Request,
        range: Range,
        open: impl FnOnce(&Self) -> io::Result<File>,
    ) -> io::Result<Taken> {
        let key = (request.node, request.owner);
        if !self.held.contains_key(&key) {
            if range.kind == NONE {
                return Ok(Taken::Yes);
            }
            if self.held.len() >= OWNERS_MAX {
                return Err(Errno::NOLCK.into());
            }
            let held = Held { file: open(self)?, handles: Vec::new() };
            self.held.insert(key, held);
        }
        let Some(held) = self.held.get_mut(&key) else { return Err(Errno::NOLCK.into()) };
        let taken = set(&held.file, range);
        if matches!(taken, Ok(Taken::Yes)) && range.kind != NONE && !held.handles.contains(&request.handle) {
            held.handles.push(request.handle);
        }
        let all = range.kind == NONE && request.start == 0 && request.end >= END_OF_FILE;
        if all || held.handles.is_empty() {
            self.held.remove(&key);
            self.let_go(request.node);
        }
        taken
    }

    fn index(&mut self, file: &File, request: &Request, range: Range) -> io::Result<Taken> {
        if range.len == 0 || range.start + range.len > INDEX_BYTES {
            // To let go of everything is to let go of all that can be locked.
            let all = range.kind == NONE && !request.test;
            return if all { Ok(self.all(request)) } else { Err(Errno::NOLCK.into()) };
        }
        if !self.indexes.contains_key(&request.node) {
            if request.test {
                return test(file, range, 0);
            }
            if range.kind == NONE {
                return Ok(Taken::Yes);
            }
            let machine = self.reopen(file)?;
            let everything = Range { kind: EXCLUSIVE, start: 0, len: 0 };
            if set(&machine, everything)? == Taken::No {
                return Ok(Taken::No);
            }
            let used: Vec<i64> = self.indexes.values().map(|index| index.base).collect();
            let base = (0..).map(|n| n * INDEX_BYTES).find(|base| !used.contains(base)).unwrap_or_default();
            self.indexes.insert(request.node, Index { _machine: machine, base });
        }
        let base = self.indexes.get(&request.node).map_or(0, |index| index.base);
        let range = Range { start: base + range.start, ..range };
        if request.test {
            let owner = self.held.get(&(request.node, request.owner)).map(|held| &held.file);
            return test(owner.unwrap_or(&self.memory), range, base);
        }
        let taken = self.take(request, range, |locks| Ok(locks.again(&locks.memory, OFlags::RDWR)?));
        self.let_go(request.node);
        taken
    }

    fn all(&mut self, request: &Request) -> Taken {
        self.flushed(request.node, request.owner);
        Taken::Yes
    }

    /// The same file, opened once more. For reading and writing if it can be, since either is needed for one kind of lock.
    fn reopen(&self, file: &File) -> io::Result<File> {
        let same = |_| self.again(file, fcntl_getfl(file)? & OFlags::RWMODE);
        let both = if self.writable { self.again(file, OFlags::RDWR) } else { Err(Errno::ROFS) };
        Ok(both.or_else(same)?)
    }

    fn again(&self, file: &File, access: OFlags) -> rustix::io::Result<File> {
        let flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK | access;
        let path = file.as_raw_fd().to_string();
        openat(&self.descriptors, path.as_str(), flags, Mode::empty()).map(File::from)
    }
}

/// A lock of a whole open file is the open file's own.
fn whole(file: &File, request: &Request) -> io::Result<Taken> {
    let operation = match request.kind {
        _ if request.test => return Err(Errno::INVAL.into()),
        SHARED => FlockOperation::NonBlockingLockShared,
        EXCLUSIVE => FlockOperation::NonBlockingLockExclusive,
        NONE => FlockOperation::NonBlockingUnlock,
        _ => return Err(Errno::INVAL.into()),
    };
    match flock(file, operation) {
        Ok(()) => Ok(Taken::Yes),
        Err(Errno::WOULDBLOCK) => Ok(Taken::No),
        Err(e) => Err(e.into()),
    }
}

fn range(request: &Request) -> io::Result<Range> {
    let invalid = || io::Error::from(Errno::INVAL);
    if !matches!(request.kind, SHARED | EXCLUSIVE | NONE) || request.start > request.end {
        return Err(invalid());
    }
    let start = i64::try_from(request.start).map_err(|_| invalid())?;
    let len = if request.end >= END_OF_FILE {
        0
    } else {
        i64::try_from(request.end - request.start + 1).map_err(|_| invalid())?
    };
    Ok(Range { kind: request.kind, start, len })
}

fn kernels(range: Range) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: i16::try_from(range.kind).map_err(|_| Errno::INVAL)?,
        l_whence: i16::try_from(libc::SEEK_SET).map_err(|_| Errno::INVAL)?,
        l_start: range.start,
        l_len: range.len,
        l_pid: 0,
    })
}

fn set(file: &File, range: Range) -> io::Result<Taken> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&kernels(range)?)) {
        Ok(_) => Ok(Taken::Yes),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(Taken::No),
        // Not opened for what the lock needs, as by a guest that lies about it, or on a share that is read only.
        Err(nix::errno::Errno::EBADF) => Err(Errno::NOLCK.into()),
        Err(e) => Err(e.into()),
    }
}

fn test(file: &File, range: Range, base: i64) -> io::Result<Taken> {
    let mut found = kernels(range)?;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(io::Error::from)?;
    let kind = u32::from(found.l_type.unsigned_abs());
    if kind == NONE {
        return Ok(Taken::InTheWay { kind, start: 0, end: 0 });
    }
    let start = u64::try_from(found.l_start.saturating_sub(base)).unwrap_or_default();
    let end = match u64::try_from(found.l_len) {
        Ok(len) if len > 0 => start.saturating_add(len - 1),
        _ => END_OF_FILE,
    };
    Ok(Taken::InTheWay { kind, start, end })
}

#[cfg(test)]
mod tests;
