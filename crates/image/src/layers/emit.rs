//! The tree, packed in the order of its names.

use std::collections::HashMap;
use std::path::Path;
use std::thread;

use super::Rules;
use super::content::{Content, Piece, Spill};
use super::shape::Shape;
use super::tree::{InodeId, ROOT, Tree, What};
use crate::context::Context;
use crate::error::Result;
use crate::meta::{Meta, Node};
use crate::pack::{Compression, Packer};

/// Writes the image. Gives the bytes of the files' content.
pub(super) fn emit(
    tree: &Tree,
    spills: Vec<Spill>,
    rules: Rules,
    ctx: &Context,
    staging: &Path,
) -> Result<u64> {
    let dir = staging.parent().unwrap_or(staging);
    let shape = Shape::of(tree);
    shape.check()?;
    let packer = Packer::start(staging, Compression::Zstd, shape.duplicates(), rules.max_bytes)?;
    let first_names = HashMap::new();
    let mut emitter = Emitter { tree, spills: &spills, ctx, dir, packer, first_names, unpacked: 0 };
    emitter.inode(ROOT, &mut Vec::new())?;
    let Emitter { packer, unpacked, .. } = emitter;
    thread::scope(|scope| {
        // Giving back what files of gigabytes take keeps a processor busy: not while everybody waits for it.
        scope.spawn(move || drop(spills));
        packer.finish()
    })?;
    Ok(unpacked)
}

struct Emitter<'a> {
    tree: &'a Tree,
    spills: &'a [Spill],
    ctx: &'a Context,
    dir: &'a Path,
    packer: Packer,
    /// Of inodes that have several.
    first_names: HashMap<InodeId, Box<[u8]>>,
    unpacked: u64,
}

impl Emitter<'_> {
    /// The inode of this path, and all that is below it. No deeper than `DEPTH_MAX`, which the paths were held to.
    fn inode(&mut self, id: InodeId, path: &mut Vec<u8>) -> Result<()> {
        self.ctx.check_cancelled()?;
        let tree = self.tree;
        let inode = tree.inode(id);
        let meta = inode.attrs.meta();
        if let Some(first) = self.first_names.get(&id) {
            return self.packer.write(|tar| tar.node(path, &meta, Node::HardLink(first)));
        }
        if inode.links > 1 {
            self.first_names.insert(id, path.as_slice().into());
        }
        match &inode.what {
            What::File(content) => self.file(path, &meta, content),
            What::Symlink(target) => self.packer.write(|tar| tar.node(path, &meta, Node::Symlink(target))),
            What::Char(device) => self.packer.write(|tar| tar.node(path, &meta, Node::Char(*device))),
            What::Block(device) => self.packer.write(|tar| tar.node(path, &meta, Node::Block(*device))),
            What::Fifo => self.packer.write(|tar| tar.node(path, &meta, Node::Fifo)),
            What::Dir(children) => {
                self.packer.write(|tar| tar.dir(path, &meta))?;
                let len = path.len();
                for (name, child) in children {
                    if len > 0 {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name);
                    self.inode(child.inode, path)?;
                    path.truncate(len);
                }
                Ok(())
            }
        }
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
