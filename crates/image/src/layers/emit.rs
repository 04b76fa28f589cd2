//! The tree, packed in the order of its names.
//!
//! The packing tool takes more memory with every entry that it is given. The tree, which takes a fifth as much, is
//! therefore spilled to disk before the tool gets its first entry.

use std::collections::HashMap;
use std::path::Path;
use std::thread;

use vmette_work::Work;

use super::content::{Content, Piece, SpillFile, SpillWriter, unwritable};
use super::conversion::Rules;
use super::entry_log::EntryLog;
use super::error::ConvertError;
use super::record::{Action, Record};
use super::shape::{Shape, Unpackable};
use super::tree::{InodeId, NodeKind, ROOT, Tree};
use crate::meta::{Meta, Node};
use crate::pack::{Compression, Packer};

type Result<T> = std::result::Result<T, ConvertError>;

/// Most bytes of the first names of inodes that have several, as whole paths. Through symbolic links they may be much
/// longer than an archive's own names, whose limit is the same.
const FIRST_NAMES_MAX: usize = 64 << 20;

/// Writes the image. Returns the bytes of the files' content.
pub(super) fn emit(
    tree: Tree,
    spills: Vec<SpillFile>,
    rules: Rules,
    work: &Work,
    staging: &Path,
) -> Result<u64> {
    let dir = staging.parent().unwrap_or(staging);
    let mut shape = Shape::of(&tree);
    shape.check()?;
    let (entries, spilled) = EmitOrder::of(tree, &mut shape, work, dir)?;
    let packer = Packer::start(staging, Compression::Zstd, shape.duplicates(), rules.max_bytes, work)?;
    let mut emitter = Emitter { spills: &spills, work, dir, packer, unpacked: 0 };
    entries.into_each(&spilled, dir, |path, record| emitter.entry(path, record))?;
    let Emitter { packer, unpacked, .. } = emitter;
    thread::scope(|scope| {
        // Freeing files of gigabytes keeps a processor busy: not while everybody waits for it.
        scope.spawn(move || drop(spills));
        packer.finish()
    })?;
    Ok(unpacked)
}

/// A tree's inodes in the order of the archive: each directory before its content.
struct EmitOrder<'a> {
    tree: Tree,
    entries: EntryLog,
    spill: SpillWriter,
    /// Inodes with several names, and the first of them.
    first_names: HashMap<InodeId, FirstName>,
    /// Bytes that further first names may take.
    first_names_left: usize,
    /// Names in all directories from the root to the current inode.
    names_on_way: u64,
    shape: &'a mut Shape,
    work: &'a Work,
    dir: &'a Path,
}

struct FirstName {
    path: Box<[u8]>,
    /// Names in the directories that the path leads through.
    names: u64,
}

impl<'a> EmitOrder<'a> {
    /// Spills the tree to this directory.
    fn of(tree: Tree, shape: &'a mut Shape, work: &'a Work, dir: &'a Path) -> Result<(EntryLog, SpillFile)> {
        let spill = SpillWriter::new(dir).map_err(unwritable(dir))?;
        let (entries, first_names) = (EntryLog::default(), HashMap::new());
        let (first_names_left, names_on_way) = (FIRST_NAMES_MAX, 0);
        let mut list =
            Self { tree, entries, spill, first_names, first_names_left, names_on_way, shape, work, dir };
        list.inode(ROOT, &mut Vec::new())?;
        Ok((list.entries, list.spill.finish().map_err(unwritable(dir))?))
    }

    fn push(&mut self, path: &[u8], record: Record) -> Result<()> {
        Ok(self.entries.push(path, record, &mut self.spill).map(drop).map_err(unwritable(self.dir))?)
    }

    /// Adds the inode of this path, and everything below it. Recurses no deeper than `DEPTH_MAX`, the limit of paths.
    fn inode(&mut self, id: InodeId, path: &mut Vec<u8>) -> Result<()> {
        self.work.check()?;
        if let Some(first) = self.first_names.get(&id) {
            self.shape.link(first.names)?;
            let (attrs, action) = (self.tree.inode(id).attrs.clone(), Action::HardLink(first.path.clone()));
            return self.push(path, Record { attrs, action });
        }
        if self.tree.inode(id).links > 1 {
            let left = self.first_names_left.checked_sub(path.len());
            self.first_names_left = left.ok_or(Unpackable::FirstNames(FIRST_NAMES_MAX))?;
            let first = FirstName { path: path.as_slice().into(), names: self.names_on_way };
            self.first_names.insert(id, first);
        }
        let (attrs, what) = self.tree.take(id);
        let (action, children) = match what {
            NodeKind::File(content) => (Action::File(content), None),
            NodeKind::Symlink(target) => (Action::Symlink(target), None),
            NodeKind::Char(device) => (Action::Char(device), None),
            NodeKind::Block(device) => (Action::Block(device), None),
            NodeKind::Fifo => (Action::Fifo, None),
            NodeKind::Dir(children) => (Action::Dir, Some(children)),
        };
        self.push(path, Record { attrs, action })?;
        let len = path.len();
        let names = children.as_ref().map_or(0, |children| children.len() as u64);
        self.names_on_way += names;
        for (name, child) in children.into_iter().flatten() {
            if len > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            self.inode(child.inode, path)?;
            path.truncate(len);
        }
        self.names_on_way -= names;
        Ok(())
    }
}

struct Emitter<'a> {
    spills: &'a [SpillFile],
    work: &'a Work,
    dir: &'a Path,
    packer: Packer,
    unpacked: u64,
}

impl Emitter<'_> {
    fn entry(&mut self, path: &[u8], Record { attrs, action }: Record) -> Result<()> {
        self.work.check()?;
        let meta = attrs.meta();
        let node = match &action {
            Action::File(content) => return self.file(path, &meta, content),
            Action::Dir => return Ok(self.packer.write(|tar| tar.dir(path, &meta))?),
            Action::Symlink(target) => Node::Symlink(target),
            Action::HardLink(first) => Node::HardLink(first),
            Action::Char(device) => Node::Char(*device),
            Action::Block(device) => Node::Block(*device),
            Action::Fifo => Node::Fifo,
            // A tree has none: they were about lower layers.
            Action::Whiteout | Action::Opaque => return Ok(()),
        };
        Ok(self.packer.write(|tar| tar.node(path, &meta, node))?)
    }

    fn file(&mut self, path: &[u8], meta: &Meta, content: &Content) -> Result<()> {
        let (work, packer) = (self.work, &mut self.packer);
        packer.write(|tar| tar.begin_file(path, meta, content.size))?;
        let pieces = |piece: Piece<'_>| {
            work.check()?;
            match piece {
                Piece::Data(bytes) => packer.write(|tar| tar.data(bytes))?,
                Piece::Hole(len) => packer.write(|tar| tar.zeros(len))?,
            }
            Ok::<(), ConvertError>(())
        };
        self.spills[usize::from(content.layer)].read(content, pieces, self.dir)?;
        self.unpacked += content.size;
        Ok(self.packer.write(|tar| tar.end_file(content.size))?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::apply::Applier;
    use super::super::record::Attrs;
    use super::*;
    use crate::notes::Notes;

    fn apply(applier: &mut Applier<'_>, path: &str, action: Action) {
        applier.apply(0, path.as_bytes(), Record { attrs: Attrs::of_missing_dir(), action }).unwrap();
    }

    /// What is done to the shape stands for what else the tree might have.
    fn list(applier: Applier<'_>, change: fn(&mut Shape)) -> Result<()> {
        let (tree, dir) = (applier.into_tree(), tempfile::tempdir().unwrap());
        let mut shape = Shape::of(&tree);
        change(&mut shape);
        EmitOrder::of(tree, &mut shape, &Work::quiet(), dir.path()).map(|_| ())
    }

    /// The tool looks at all names on the way to a file for each further one that it has.
    #[test]
    fn names_that_hard_links_lead_through_are_counted() {
        let of_links = |links: usize, change| {
            let notes = Notes::default();
            let mut applier = Applier::new(&notes);
            for path in ["a", "d/1", "d/2", "d/e/1", "d/e/2", "d/e/3", "d/e/4", "e"] {
                apply(&mut applier, path, Action::Fifo);
            }
            for n in 0..links {
                apply(&mut applier, &format!("z/{n}"), Action::HardLink(b"d/e/4".as_slice().into()));
            }
            list(applier, change)
        };
        // Four in the root with z, three, and four, for each of two.
        of_links(2, |shape| shape.leave(2 * (4 + 3 + 4))).unwrap();
        let refused = of_links(2, |shape| shape.leave(2 * (4 + 3 + 4) - 1)).unwrap_err();
        assert!(refused.to_string().contains("hard links"), "{refused}");
    }

    /// Its paths are as long as paths can be, though the archive's are short.
    #[test]
    fn first_names_are_bounded_however_they_were_written() {
        const DEEP: usize = 4000;
        let listed = |files: usize| {
            let notes = Notes::default();
            let mut applier = Applier::new(&notes);
            let mut apply = |path: &str, action| apply(&mut applier, path, action);
            let deep = vec!["d".repeat(249); DEEP / 250].join("/");
            apply(&deep, Action::Dir);
            apply("l", Action::Symlink(deep.as_bytes().into()));
            for n in 0..files {
                apply(&format!("l/{n:05}"), Action::Fifo);
                apply(&format!("m/{n:05}"), Action::HardLink(format!("l/{n:05}").as_bytes().into()));
            }
            list(applier, |_| {})
        };
        let most = FIRST_NAMES_MAX / (DEEP + "/00000".len() - 1);
        listed(most).unwrap();
        let refused = listed(most + 1).unwrap_err().to_string();
        assert!(refused.contains("several names"), "{refused}");
    }
}
