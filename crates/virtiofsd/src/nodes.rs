//! The files that the guest knows, of which only some have a descriptor.
//!
//! A guest may know more files than a process may have open. The file system behind this one needs a descriptor for
//! each file that it knows, so it is made to forget those that the guest has not used lately. What remains is the file's
//! place: its folder and its name there, and its number in the host's file system. With these it is found again.

use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// The shared folder.
pub(crate) const ROOT: u64 = virtiofsd::filesystem::ROOT_ID;

/// Most folders between a file and the shared folder: more than a path can name.
const DEPTH_MAX: usize = 2048;

/// Recognises a file that was found at the same place again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    /// Its number in the host's file system.
    pub(crate) ino: u64,
    /// Its type, as in `st_mode`.
    pub(crate) kind: u32,
}

/// A file in its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) parent: u64,
    pub(crate) name: Arc<CStr>,
    pub(crate) identity: Identity,
}

#[derive(Debug)]
struct Node {
    /// Its number in the file system behind this one, which has a descriptor for it.
    inner: Option<u64>,
    place: Place,
    /// Times that the guest was told of it and has not forgotten it.
    lookups: u64,
    /// Open files. They keep the descriptor.
    handles: u32,
    /// The last name that was known has been removed: nothing would lead to it again.
    nameless: bool,
    /// Used since its last turn.
    recent: bool,
    /// In the queue of turns.
    queued: bool,
    /// The guest has locked it.
    locks: u32,
    /// Until when the guest may rely on what it was told of the file's state.
    trusted_until: Option<Instant>,
}

/// The state of a file that was just looked up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It has this number, and the file system behind counts it once for this table.
    Once(u64),
    /// It has this number, and the file system behind counts it once too often.
    Again(u64),
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: HashMap<u64, Node>,
    by_inner: HashMap<u64, u64>,
    by_name: HashMap<(u64, Arc<CStr>), u64>,
    /// Files without a descriptor.
    resting: HashMap<Identity, u64>,
    turns: VecDeque<u64>,
    next: u64,
    /// Most files that the guest may know.
    limit: usize,
    /// Files with a descriptor.
    described: usize,
    /// Open files.
    handles: usize,
}

fn stale() -> io::Error {
    Errno::STALE.into()
}

impl Nodes {
    pub(crate) fn new(limit: usize) -> Self {
        let mut nodes = Self {
            nodes: HashMap::new(),
            by_inner: HashMap::new(),
            by_name: HashMap::new(),
            resting: HashMap::new(),
            turns: VecDeque::new(),
            next: ROOT + 1,
            limit,
            described: 0,
            handles: 0,
        };
        nodes.clear();
        nodes
    }

    /// Only the shared folder is known.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.by_inner.clear();
        self.by_name.clear();
        self.resting.clear();
        self.turns.clear();
        let place =
            Place { parent: ROOT, name: Arc::from(c""), identity: Identity { ino: 0, kind: 0o040_000 } };
        let root = Node { handles: 1, nameless: true, ..Node::new(Some(ROOT), place) };
        self.nodes.insert(ROOT, root);
        self.by_inner.insert(ROOT, ROOT);
        self.described = 1;
        self.handles = 0;
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Descriptors that the guest's files need at the moment.
    pub(crate) fn descriptors(&self) -> usize {
        self.described + self.handles
    }

    /// The file's number in the file system behind, if that knows it.
    pub(crate) fn inner(&mut self, node: u64) -> Option<u64> {
        let known = self.nodes.get_mut(&node)?;
        known.recent = true;
        known.inner
    }

    /// The files whose descriptors are missing on the way to this one, the last first, and itself at the end.
    ///
    /// # Errors
    /// `EBADF` if the guest was never told of it, `ESTALE` if nothing leads to it.
    pub(crate) fn missing(&self, node: u64) -> io::Result<Vec<(u64, Place)>> {
        let mut missing = Vec::new();
        let mut at = node;
        loop {
            let Some(known) = self.nodes.get(&at) else {
                return Err(if at == node { Errno::BADF.into() } else { stale() });
            };
            if known.inner.is_some() {
                missing.reverse();
                return Ok(missing);
            }
            // The host may have moved a folder into one that was below it.
            if known.nameless || missing.len() == DEPTH_MAX {
                return Err(stale());
            }
            missing.push((at, known.place.clone()));
            at = known.place.parent;
        }
    }

    /// A known file has a descriptor again.
    pub(crate) fn describe(&mut self, node: u64, inner: u64) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        if known.inner.replace(inner).is_none() {
            self.described += 1;
        }
        let identity = known.place.identity;
        self.wake(node, identity);
        self.by_inner.entry(inner).or_insert(node);
        self.give_turn(node);
    }

    /// The file system behind has found a file for the guest.
    ///
    /// # Errors
    /// `ENFILE` if the guest knows too many.
    pub(crate) fn enter(&mut self, inner: u64, place: Place) -> io::Result<Entered> {
        let key = (place.parent, place.name.clone());
        let (node, entered): (u64, fn(u64) -> Entered) = if let Some(&node) = self.by_inner.get(&inner) {
            (node, Entered::Again)
        } else if let Some(&node) = self.by_name.get(&key)
            && self.nodes.get(&node).is_some_and(|n| n.inner.is_none() && n.place.identity == place.identity)
        {
            self.describe(node, inner);
            (node, Entered::Once)
        } else {
            if self.nodes.len() >= self.limit {
                return Err(Errno::NFILE.into());
            }
            let node = self.next;
            self.next += 1;
            self.nodes.insert(node, Node::new(Some(inner), place.clone()));
            self.by_inner.insert(inner, node);
            self.described += 1;
            self.give_turn(node);
            (node, Entered::Once)
        };
        if let Some(known) = self.nodes.get_mut(&node)
            && node != ROOT
        {
            known.lookups += 1;
            known.recent = true;
            known.nameless = false;
            let old = std::mem::replace(&mut known.place, place);
            self.lose_name(node, old);
            self.by_name.insert(key, node);
        }
        Ok(entered(node))
    }

    /// A file without a descriptor that may be the one that was just found under another name.
    pub(crate) fn resting(&self, identity: Identity) -> Option<u64> {
        self.resting.get(&identity).copied()
    }

    fn wake(&mut self, node: u64, identity: Identity) {
        if self.resting.get(&identity) == Some(&node) {
            self.resting.remove(&identity);
        }
    }

    fn lose_name(&mut self, node: u64, place: Place) {
        let key = (place.parent, place.name);
        if self.by_name.get(&key) == Some(&node) {
            self.by_name.remove(&key);
        }
    }

    /// The file that the guest knows by this name.
    pub(crate) fn named(&self, parent: u64, name: &CStr) -> Option<u64> {
        self.by_name.get(&(parent, Arc::from(name))).copied()
    }

    /// A name was removed, or leads to another file now.
    pub(crate) fn removed(&mut self, parent: u64, name: &CStr) {
        if let Some(node) = self.by_name.remove(&(parent, Arc::from(name)))
            && let Some(known) = self.nodes.get_mut(&node)
        {
            known.nameless = true;
        }
    }

    /// A file has another name. The one that had it before has none, or the file's own if they were exchanged.
    pub(crate) fn renamed(&mut self, from: (u64, &CStr), to: (u64, &CStr), exchanged: bool) {
        let moved = self.named(from.0, from.1);
        let other = self.named(to.0, to.1).filter(|_| exchanged);
        self.removed(from.0, from.1);
        self.removed(to.0, to.1);
        self.name(moved, to);
        self.name(other, from);
    }

    fn name(&mut self, node: Option<u64>, (parent, name): (u64, &CStr)) {
        let Some(node) = node else { return };
        let Some(known) = self.nodes.get_mut(&node) else { return };
        known.nameless = false;
        known.place.parent = parent;
        known.place.name = Arc::from(name);
        self.by_name.insert((parent, known.place.name.clone()), node);
    }

    /// The guest has forgotten a file so many times. Returns what the file system behind is to forget, once.
    pub(crate) fn forget(&mut self, node: u64, times: u64) -> Option<u64> {
        let known = self.nodes.get_mut(&node).filter(|_| node != ROOT)?;
        known.lookups = known.lookups.saturating_sub(times);
        if known.lookups > 0 {
            return None;
        }
        let known = self.nodes.remove(&node)?;
        self.wake(node, known.place.identity);
        self.lose_name(node, known.place);
        self.undescribe(node, known.inner)
    }

    fn undescribe(&mut self, node: u64, inner: Option<u64>) -> Option<u64> {
        let inner = inner?;
        self.described -= 1;
        if self.by_inner.get(&inner) == Some(&node) {
            self.by_inner.remove(&inner);
        }
        Some(inner)
    }

    fn give_turn(&mut self, node: u64) {
        if let Some(known) = self.nodes.get_mut(&node).filter(|known| !known.queued) {
            known.queued = true;
            self.turns.push_back(node);
        }
    }

    /// Takes the descriptor of a file that was not used lately and is not `keep`. Returns what the file system behind is to forget, once.
    pub(crate) fn undescribe_one(&mut self, keep: u64) -> Option<u64> {
        // Each has two turns at most: the first takes the mark of its use.
        for _ in 0..2 * self.turns.len() {
            let node = self.turns.pop_front()?;
            let Some(known) = self.nodes.get_mut(&node) else { continue };
            if known.inner.is_none() {
                known.queued = false;
            } else if known.recent || known.handles > 0 || known.nameless || node == keep {
                known.recent = false;
                self.turns.push_back(node);
            } else {
                known.queued = false;
                let inner = known.inner.take();
                self.resting.insert(known.place.identity, node);
                return self.undescribe(node, inner);
            }
        }
        None
    }

    /// The guest has opened a file.
    pub(crate) fn opened(&mut self, node: u64) {
        self.handles += 1;
        if let Some(known) = self.nodes.get_mut(&node) {
            known.handles += 1;
        }
    }

    /// The guest has closed a file.
    pub(crate) fn closed(&mut self, node: u64) {
        self.handles = self.handles.saturating_sub(1);
        if let Some(known) = self.nodes.get_mut(&node) {
            known.handles = known.handles.saturating_sub(1);
        }
    }

    /// The last name under which the file was known.
    pub(crate) fn last_name(&self, node: u64) -> Option<Arc<CStr>> {
        self.nodes.get(&node).map(|known| known.place.name.clone())
    }

    /// How often the guest has locked the file.
    pub(crate) fn locks(&self, node: u64) -> u32 {
        self.nodes.get(&node).map_or(0, |known| known.locks)
    }

    /// The guest has locked the file once more.
    pub(crate) fn locked(&mut self, node: u64) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.locks = known.locks.wrapping_add(1).max(1);
        }
    }

    /// The guest is told of the file's state and relies on it for so long.
    pub(crate) fn trusts(&mut self, node: u64, time: Duration) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.trusted_until = known.trusted_until.max(Instant::now().checked_add(time));
        }
    }

    /// Until when the guest relies on what it was told.
    pub(crate) fn trusted_until(&self, node: u64) -> Option<Instant> {
        self.nodes.get(&node).and_then(|known| known.trusted_until)
    }

    /// True if the guest itself has removed the file's last known name.
    pub(crate) fn is_nameless(&self, node: u64) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.nameless)
    }
}

impl Node {
    fn new(inner: Option<u64>, place: Place) -> Self {
        Self {
            inner,
            place,
            lookups: 0,
            handles: 0,
            nameless: false,
            recent: true,
            queued: false,
            locks: 0,
            trusted_until: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FILE: u32 = 0o100_000;

    fn place(parent: u64, name: &CStr, ino: u64) -> Place {
        Place { parent, name: Arc::from(name), identity: Identity { ino, kind: FILE } }
    }

    fn entered(nodes: &mut Nodes, inner: u64, place: Place) -> u64 {
        match nodes.enter(inner, place).unwrap() {
            Entered::Once(node) | Entered::Again(node) => node,
        }
    }

    #[test]
    fn a_file_keeps_its_number_when_its_descriptor_goes_and_comes() {
        let mut nodes = Nodes::new(100);
        let folder = entered(&mut nodes, 10, place(ROOT, c"folder", 1));
        let file = entered(&mut nodes, 11, place(folder, c"file", 2));
        assert_eq!(nodes.descriptors(), 3);
        // The first turns take the marks of use.
        assert_eq!(nodes.undescribe_one(ROOT), Some(10));
        assert_eq!(nodes.undescribe_one(ROOT), Some(11));
        assert_eq!((nodes.undescribe_one(ROOT), nodes.descriptors()), (None, 1));
        let missing: Vec<u64> = nodes.missing(file).unwrap().into_iter().map(|(node, _)| node).collect();
        assert_eq!(missing, [folder, file]);
        nodes.describe(folder, 12);
        assert_eq!(nodes.enter(13, place(folder, c"file", 2)).unwrap(), Entered::Once(file));
        assert_eq!(nodes.inner(file), Some(13));
        assert_eq!(nodes.forget(file, 1), None);
        assert_eq!(nodes.forget(file, 1), Some(13));
        assert_eq!(nodes.forget(file, 1), None);
        assert_eq!(nodes.missing(file).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn another_file_under_the_name_has_another_number() {
        let mut nodes = Nodes::new(100);
        let old = entered(&mut nodes, 10, place(ROOT, c"a", 1));
        assert_eq!(nodes.undescribe_one(ROOT), Some(10));
        let new = entered(&mut nodes, 11, place(ROOT, c"a", 2));
        assert_ne!(old, new);
        assert_eq!(nodes.named(ROOT, c"a"), Some(new));
        assert_eq!(nodes.forget(old, 1), None);
        assert_eq!(nodes.named(ROOT, c"a"), Some(new));
    }

    #[test]
    fn open_files_and_files_without_a_name_keep_their_descriptors() {
        let mut nodes = Nodes::new(100);
        let open = entered(&mut nodes, 10, place(ROOT, c"open", 1));
        nodes.opened(open);
        let removed = entered(&mut nodes, 11, place(ROOT, c"removed", 2));
        nodes.removed(ROOT, c"removed");
        assert_eq!(nodes.undescribe_one(ROOT), None);
        assert_eq!((nodes.inner(open), nodes.inner(removed)), (Some(10), Some(11)));
        assert!(nodes.is_nameless(removed) && nodes.named(ROOT, c"removed").is_none());
        nodes.closed(open);
        assert_eq!(nodes.undescribe_one(ROOT), Some(10));
    }

    #[test]
    fn names_follow_renames() {
        let mut nodes = Nodes::new(100);
        let a = entered(&mut nodes, 10, place(ROOT, c"a", 1));
        let b = entered(&mut nodes, 11, place(ROOT, c"b", 2));
        nodes.renamed((ROOT, c"a"), (ROOT, c"b"), true);
        assert_eq!((nodes.named(ROOT, c"a"), nodes.named(ROOT, c"b")), (Some(b), Some(a)));
        nodes.renamed((ROOT, c"a"), (ROOT, c"b"), false);
        assert_eq!((nodes.named(ROOT, c"a"), nodes.named(ROOT, c"b")), (None, Some(b)));
        assert!(nodes.is_nameless(a) && !nodes.is_nameless(b));
    }

    #[test]
    fn folders_that_the_host_has_moved_into_one_another_lead_nowhere() {
        let mut nodes = Nodes::new(100);
        let a = entered(&mut nodes, 10, place(ROOT, c"a", 1));
        let b = entered(&mut nodes, 11, place(a, c"b", 2));
        assert_eq!(entered(&mut nodes, 10, place(b, c"a", 1)), a);
        while nodes.undescribe_one(ROOT).is_some() {}
        assert_eq!(nodes.missing(a).unwrap_err().raw_os_error(), Some(libc::ESTALE));
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let mut nodes = Nodes::new(3);
        entered(&mut nodes, 10, place(ROOT, c"a", 1));
        entered(&mut nodes, 11, place(ROOT, c"b", 2));
        let error = nodes.enter(12, place(ROOT, c"c", 3)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENFILE));
        assert_eq!(entered(&mut nodes, 10, place(ROOT, c"a", 1)), 2);
    }
}
