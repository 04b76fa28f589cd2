//! The tree, packed in the order of its names.
//!
//! The packing tool takes more memory with every entry that it is given. The tree, which takes a fifth as much, is
//! therefore put aside as a list before the tool has its first entry.

use std::collections::HashMap;
use std::path::Path;
use std::thread;

use super::Rules;
use super::content::{Content, Piece, Spill, SpillWriter};
use super::record::{Action, Record};
use super::records::Records;
use super::shape::Shape;
use super::tree::{InodeId, ROOT, Tree, What};
use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::meta::{Meta, Node};
use crate::pack::{Compression, Packer};

/// What cannot be done in a directory where nothing can be put aside.
pub(super) const ASIDE: &str = "cannot put content aside in";

/// Most bytes of the first names of what has several, as whole paths. Through symbolic links they may be much longer
/// than an archive's own names, whose limit is the same.
const FIRST_NAMES_MAX: usize = 64 << 20;

/// Writes the image. Gives the bytes of the files' content.
pub(super) fn emit(
    tree: Tree,
    spills: Vec<Spill>,
    rules: Rules,
    ctx: &Context,
    staging: &Path,
) -> Result<u64> {
    let dir = staging.parent().unwrap_or(staging);
    let mut shape = Shape::of(&tree);
    shape.check()?;
    let (list, aside) = List::of(tree, &mut shape, ctx, dir)?;
    let packer = Packer::start(staging, Compression::Zstd, shape.duplicates(), rules.max_bytes, ctx)?;
    let mut emitter = Emitter { spills: &spills, ctx, dir, packer, unpacked: 0 };
    list.into_each(&aside, dir, |path, record| emitter.entry(path, record))?;
    let Emitter { packer, unpacked, .. } = emitter;
    thread::scope(|scope| {
        // Giving back what files of gigabytes take keeps a processor busy: not while everybody waits for it.
        scope.spawn(move || drop(spills));
        packer.finish()
    })?;
    Ok(unpacked)
}

/// A tree's inodes, each directory before what is in it.
struct List<'a> {
    tree: Tree,
    records: Records,
    aside: SpillWriter,
    /// Of inodes that have several.
    first_names: HashMap<InodeId, FirstName>,
    /// Bytes that these may still have.
    first_names_left: usize,
    /// Names in all directories on the way to where it is.
    names_on_way: u64,
    shape: &'a mut Shape,
    ctx: &'a Context,
    dir: &'a Path,
}

struct FirstName {
    path: Box<[u8]>,
    /// In the directories that it leads through.
    names: u64,
}

impl<'a> List<'a> {
    /// Put aside in this directory.
    fn of(tree: Tree, shape: &'a mut Shape, ctx: &'a Context, dir: &'a Path) -> Result<(Records, Spill)> {
        let aside = SpillWriter::new(dir).map_err(unwritable(dir))?;
        let (records, first_names) = (Records::default(), HashMap::new());
        let (first_names_left, names_on_way) = (FIRST_NAMES_MAX, 0);
        let mut list =
            Self { tree, records, aside, first_names, first_names_left, names_on_way, shape, ctx, dir };
        list.inode(ROOT, &mut Vec::new())?;
        Ok((list.records, list.aside.finish().map_err(unwritable(dir))?))
    }

    fn push(&mut self, path: &[u8], record: Record) -> Result<()> {
        self.records.push(path, record, &mut self.aside).map(|_| ()).map_err(unwritable(self.dir))
    }

    /// The inode of this path, and all that is below it. No deeper than `DEPTH_MAX`, which the paths were held to.
    fn inode(&mut self, id: InodeId, path: &mut Vec<u8>) -> Result<()> {
        self.ctx.check_cancelled()?;
        if let Some(first) = self.first_names.get(&id) {
            self.shape.link(first.names)?;
            let (attrs, action) = (self.tree.inode(id).attrs.clone(), Action::HardLink(first.path.clone()));
            return self.push(path, Record { attrs, action });
        }
        if self.tree.inode(id).links > 1 {
            self.first_names_left = self.first_names_left.checked_sub(path.len()).ok_or_else(|| {
                ProviderError::Other(format!(
                    "the paths of files that have several names hold more than {FIRST_NAMES_MAX} bytes"
                ))
            })?;
            let first = FirstName { path: path.as_slice().into(), names: self.names_on_way };
            self.first_names.insert(id, first);
        }
        let (attrs, what) = self.tree.take(id);
        let (action, children) = match what {
            What::File(content) => (Action::File(content), None),
            What::Symlink(target) => (Action::Symlink(target), None),
            What::Char(device) => (Action::Char(device), None),
            What::Block(device) => (Action::Block(device), None),
            What::Fifo => (Action::Fifo, None),
            What::Dir(children) => (Action::Dir, Some(children)),
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
    spills: &'a [Spill],
    ctx: &'a Context,
    dir: &'a Path,
    packer: Packer,
    unpacked: u64,
}

impl Emitter<'_> {
    fn entry(&mut self, path: &[u8], Record { attrs, action }: Record) -> Result<()> {
        self.ctx.check_cancelled()?;
        let meta = attrs.meta();
        let node = match &action {
            Action::File(content) => return self.file(path, &meta, content),
            Action::Dir => return self.packer.write(|tar| tar.dir(path, &meta)),
            Action::Symlink(target) => Node::Symlink(target),
            Action::HardLink(first) => Node::HardLink(first),
            Action::Char(device) => Node::Char(*device),
            Action::Block(device) => Node::Block(*device),
            Action::Fifo => Node::Fifo,
            // A tree has none: they were about lower layers.
            Action::Whiteout | Action::Opaque => return Ok(()),
        };
        self.packer.write(|tar| tar.node(path, &meta, node))
    }

    fn file(&mut self, path: &[u8], meta: &Meta, content: &Content) -> Result<()> {
        let (ctx, packer) = (self.ctx, &mut self.packer);
        packer.write(|tar| tar.begin_file(path, meta, content.size))?;
        let pieces = |piece: Piece<'_>| {
            ctx.check_cancelled()?;
            match piece {
                Piece::Data(bytes) => packer.write(|tar| tar.data(bytes)),
                Piece::Hole(len) => packer.write(|tar| tar.zeros(len)),
            }
        };
        self.spills[usize::from(content.layer)].read(content, pieces, self.dir)?;
        self.unpacked += content.size;
        self.packer.write(|tar| tar.end_file(content.size))
    }
}

fn unwritable(dir: &Path) -> impl FnOnce(std::io::Error) -> ProviderError {
    ProviderError::write(dir, ASIDE)
}

#[cfg(test)]
mod tests {
    use super::super::apply::Applier;
    use super::super::record::Attrs;
    use super::*;

    fn apply(applier: &mut Applier, path: &str, action: Action) {
        applier.apply(0, path.as_bytes(), Record { attrs: Attrs::of_missing_dir(), action }).unwrap();
    }

    /// What is done to the shape stands for what else the tree might have.
    fn list(applier: Applier, change: fn(&mut Shape)) -> Result<()> {
        let (tree, dir) = (applier.into_tree(), tempfile::tempdir().unwrap());
        let mut shape = Shape::of(&tree);
        change(&mut shape);
        List::of(tree, &mut shape, &Context::new(dir.path()), dir.path()).map(|_| ())
    }

    /// The tool looks at all names on the way to a file for each further one that it has.
    #[test]
    fn names_that_hard_links_lead_through_are_counted() {
        let of_links = |links: usize, change| {
            let mut applier = Applier::new();
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
            let mut applier = Applier::new();
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
