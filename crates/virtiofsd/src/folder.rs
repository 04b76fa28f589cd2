//! The shared folder as the guest's file system: what the library passes through to the host, with numbers of files that
//! outlive their descriptors, with locks, and with every number of the guest's in bounds.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use virtiofsd::filesystem::{Context, Entry, FileSystem, ZeroCopyWriter};
use virtiofsd::fuse::Attr;

use crate::locks::{Locks, Request, Taken};
use crate::nodes::{Entered, Identity, Nodes, Place};

/// Time for which the guest may rely on a name without asking again.
pub(crate) const NAME_TIME: Duration = Duration::from_secs(1);

/// Time for which the guest may rely on a file's size and times, and so on the content that it has read. The first lock
/// of a file is granted when it is over.
const FILE_TIME: Duration = Duration::from_millis(100);

/// Time for which an answer may have been under way before the guest took it.
const UNDER_WAY: Duration = Duration::from_millis(50);

/// Descriptors that one request needs while it is served.
const SPARE_FDS: usize = 16;

/// Attempts to have two files at once when there are hardly any descriptors.
const ATTEMPTS: usize = 3;

/// Part of a file's time, in nanoseconds, that tells the guest that its copy of a locked file's content is old.
const MARK: u32 = 1 << 16;

/// The bits of a mode that are the file's type.
const KIND: u32 = libc::S_IFMT;

const SECOND_IN_NANOSECONDS: u32 = 1_000_000_000;

/// Bounds of a share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Most descriptors of the guest's files.
    pub(crate) descriptors: usize,
    /// Most files that the guest may know.
    pub(crate) files: usize,
    /// Largest size of a file. A write beyond it would end this process.
    pub(crate) size: u64,
}

/// A file system that serves several threads.
pub(crate) trait Files: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static {}

impl<P: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static> Files for P {}

/// A host folder as a file system. Copies are the same one.
pub(crate) struct Folder<P>(Arc<State<P>>);

struct State<P> {
    fs: P,
    bounds: Bounds,
    nodes: Mutex<Nodes>,
    locks: Mutex<Locks>,
    /// A list of files is being made, for which one that cannot be looked up has a name all the same.
    listing: std::sync::atomic::AtomicBool,
}

impl<P> Clone for Folder<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid() -> io::Error {
    Errno::INVAL.into()
}

/// A name is one step: nothing of the guest's leads anywhere by itself.
fn name(name: &CStr) -> io::Result<&CStr> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(invalid()),
        bytes if bytes.contains(&b'/') => Err(invalid()),
        _ => Ok(name),
    }
}

impl<P: Files> Folder<P> {
    pub(crate) fn new(fs: P, bounds: Bounds, locks: Locks) -> Self {
        Self(Arc::new(State {
            fs,
            bounds,
            nodes: Mutex::new(Nodes::new(bounds.files)),
            locks: Mutex::new(locks),
            listing: false.into(),
        }))
    }

    /// The guest has so much memory, and cannot know more files than fit.
    pub(crate) fn set_files_max(&self, files: usize) {
        lock(&self.0.nodes).set_limit(files);
    }

    /// A file that cannot be looked up is listed by its name only until this is set to false.
    pub(crate) fn set_listing(&self, listing: bool) {
        self.0.listing.store(listing, std::sync::atomic::Ordering::Relaxed);
    }

    fn fs(&self) -> &P {
        &self.0.fs
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        lock(&self.0.nodes)
    }

    /// Takes descriptors of files that were not used lately, and not of this one, until there is room for one request's.
    fn make_room(&self, ctx: Context, keep: u64) {
        loop {
            let mut nodes = self.nodes();
            if nodes.descriptors() + SPARE_FDS <= self.0.bounds.descriptors {
                return;
            }
            let Some(inner) = nodes.undescribe_one(keep) else { return };
            drop(nodes);
            self.fs().forget(ctx, inner, 1);
        }
    }

    /// The number of the guest's file in the file system behind this one, which has a descriptor for it then, and room
    /// for others.
    fn inner(&self, ctx: Context, node: u64) -> io::Result<u64> {
        self.make_room(ctx, node);
        if let Some(inner) = self.nodes().inner(node) {
            return Ok(inner);
        }
        let missing = self.nodes().missing(node)?;
        for (at, place) in missing {
            self.make_room(ctx, place.parent);
            let parent = self.nodes().inner(place.parent).ok_or(Errno::STALE)?;
            let entry = self.fs().lookup(ctx, parent, &place.name).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Errno::STALE.into(),
                _ => e,
            })?;
            if identity(&entry.attr) != place.identity {
                self.fs().forget(ctx, entry.inode, 1);
                return Err(Errno::STALE.into());
            }
            self.nodes().describe(at, entry.inode);
        }
        self.nodes().inner(node).ok_or_else(|| Errno::STALE.into())
    }

    fn two(&self, ctx: Context, one: u64, other: u64) -> io::Result<(u64, u64)> {
        for _ in 0..ATTEMPTS {
            let first = self.inner(ctx, one)?;
            let second = self.inner(ctx, other)?;
            // The second one may have needed the first one's descriptor.
            if self.nodes().inner(one) == Some(first) {
                return Ok((first, second));
            }
        }
        Err(Errno::NFILE.into())
    }

    /// What the file system behind has found, in the guest's numbers.
    fn enter(&self, ctx: Context, parent: u64, name: &CStr, mut entry: Entry) -> io::Result<Entry> {
        let identity = identity(&entry.attr);
        // Another name of a file that the guest knows already: both are to have one number.
        let other = if entry.attr.nlink > 1 { self.nodes().resting(identity) } else { None };
        if let Some(other) = other {
            // If it is not to be found any more, it is none.
            let _ = self.inner(ctx, other);
        }
        let place = Place { parent, name: Arc::from(name), identity };
        let entered = self.nodes().enter(entry.inode, place);
        let node = match entered {
            Ok(Entered::Once(node)) => node,
            Ok(Entered::Again(node)) => {
                self.fs().forget(ctx, entry.inode, 1);
                node
            }
            Err(e) => {
                self.fs().forget(ctx, entry.inode, 1);
                return Err(e);
            }
        };
        entry.inode = node;
        entry.entry_timeout = NAME_TIME;
        entry.attr_timeout = self.attributes(node, &mut entry.attr);
        Ok(entry)
    }

    /// Marks the attributes of a file that the guest locks, and tells how long the guest may rely on them.
    fn attributes(&self, node: u64, attr: &mut Attr) -> Duration {
        if attr.mode & KIND == libc::S_IFDIR {
            return NAME_TIME;
        }
        let mut nodes = self.nodes();
        match nodes.locks(node) {
            0 => {
                nodes.trusts(node, FILE_TIME);
                FILE_TIME
            }
            // A guest's kernel drops its copy of a file's content when the file's time is another one. The host's clock
            // may not have moved between two changes.
            locks => {
                let part = attr.mtimensec - attr.mtimensec % MARK;
                attr.mtimensec = part.saturating_add(locks % MARK).min(SECOND_IN_NANOSECONDS - 1);
                Duration::ZERO
            }
        }
    }

    /// Before the guest takes a name away from a file: nothing but its descriptor will lead to it.
    fn hold_on(&self, ctx: Context, parent: u64, name: &CStr) {
        let node = self.nodes().named(parent, name);
        if let Some(node) = node {
            // If it is not there any more, it has no name to lose.
            let _ = self.inner(ctx, node);
        }
    }

    /// The end of a file that is written to must be in bounds.
    fn end(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(invalid)?;
        if end > self.0.bounds.size { Err(Errno::FBIG.into()) } else { Ok(()) }
    }

    /// Does something with an open file of the guest's.
    fn with_file<T>(
        &self,
        ctx: Context,
        node: u64,
        handle: u64,
        does: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let inner = self.inner(ctx, node)?;
        let mut borrowed = Borrow { does: Some(does), result: None };
        // Nothing is read: this is the library's one way to an open file.
        self.fs().read(ctx, inner, handle, &mut borrowed, 1, 0, None, 0)?;
        borrowed.result.unwrap_or_else(|| Err(Errno::BADF.into()))
    }

    /// Takes, tests or gives back a lock without waiting for anybody.
    pub(crate) fn lock(&self, ctx: Context, request: &Request) -> io::Result<Taken> {
        let Request { node, handle, .. } = *request;
        if request.takes() && self.nodes().locks(node) == 0 {
            let trusted = self.nodes().trusted_until(node).map(|until| until + UNDER_WAY);
            if let Some(until) = trusted.filter(|until| Instant::now() < *until) {
                return Ok(Taken::NotBefore(until));
            }
        }
        let name = self.nodes().last_name(node).ok_or(Errno::BADF)?;
        let taken =
            self.with_file(ctx, node, handle, |file| lock(&self.0.locks).request(file, &name, request))?;
        if request.takes() && matches!(taken, Taken::Yes) {
            self.nodes().locked(node);
        }
        Ok(taken)
    }

    /// No file is locked.
    pub(crate) fn unlock_all(&self) {
        lock(&self.0.locks).clear();
    }

    fn opened(&self, node: u64, handle: Option<u64>) {
        if handle.is_some() {
            self.nodes().opened(node);
        }
    }
}

fn identity(attr: &Attr) -> Identity {
    Identity { ino: attr.ino, kind: attr.mode & KIND }
}

struct Borrow<F, T> {
    does: Option<F>,
    result: Option<io::Result<T>>,
}

impl<T, F: FnOnce(&File) -> io::Result<T>> ZeroCopyWriter for &mut Borrow<F, T> {
    fn read_from_file_at(
        &mut self,
        file: &File,
        _count: usize,
        _offset: u64,
        _flags: Option<virtiofsd::oslib::ReadvFlags>,
    ) -> io::Result<usize> {
        if let Some(does) = self.does.take() {
            self.result = Some(does(file));
        }
        Ok(0)
    }
}

mod calls;
#[cfg(test)]
mod tests;
