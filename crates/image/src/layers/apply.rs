//! Applying entries to the tree, with the effect that extracting them would have on a directory.

use std::collections::BTreeMap;

use super::path;
use super::record::{Action, Attrs, Record};
use super::resolve::resolve;
use super::steps::Steps;
use super::tree::{Child, InodeId, NodeKind, ROOT, Tree};
use crate::notes::{Note, Notes};
use crate::tar::{ArchiveError, Refusal, shown};

type Result<T> = std::result::Result<T, ArchiveError>;

/// Permission bits of every symbolic link on Linux.
const SYMLINK_MODE: u16 = 0o777;

/// The permission bit that lets everybody enter a folder.
const OTHERS_ENTER: u16 = 0o001;

/// Applies layers, the lowest first, entry by entry.
#[derive(Debug)]
pub(super) struct Applier<'a> {
    tree: Tree,
    steps: Steps,
    notes: &'a Notes,
}

impl<'a> Applier<'a> {
    pub(super) fn new(notes: &'a Notes) -> Self {
        Self { tree: Tree::new(), steps: Steps::new(), notes }
    }

    pub(super) fn into_tree(self) -> Tree {
        self.tree
    }

    /// Applies an entry of this layer, whose path is normal.
    pub(super) fn apply(&mut self, layer: u16, path: &[u8], record: Record) -> Result<()> {
        let Record { attrs, action } = record;
        if path.is_empty() && action != Action::Opaque {
            self.root(attrs, &action);
            return Ok(());
        }
        let what = match action {
            Action::Whiteout => return self.whiteout(layer, path),
            Action::Opaque => return self.opaque(layer, path),
            Action::HardLink(target) => return self.hard_link(layer, path, &target),
            Action::Dir => return self.dir(layer, path, attrs),
            Action::Symlink(target) => {
                return self.place(
                    layer,
                    path,
                    Attrs { mode: SYMLINK_MODE, ..attrs },
                    NodeKind::Symlink(target),
                );
            }
            Action::File(content) => NodeKind::File(super::content::Content { layer, ..content }),
            Action::Char(device) => NodeKind::Char(device),
            Action::Block(device) => NodeKind::Block(device),
            Action::Fifo => NodeKind::Fifo,
        };
        self.place(layer, path, attrs, what)
    }

    /// An entry of the root itself. One that keeps others out is passed over, as containerd passes over all: packed from a
    /// folder that only its owner may enter, no other user could run anything.
    fn root(&mut self, attrs: Attrs, action: &Action) {
        if *action == Action::Dir && attrs.mode & OTHERS_ENTER != 0 {
            self.tree.set_attrs(ROOT, attrs);
        } else {
            self.notes.add(Note::Root);
        }
    }

    /// A directory that is there already takes the entry's attributes; anything else gives way.
    fn dir(&mut self, layer: u16, path: &[u8], attrs: Attrs) -> Result<()> {
        let (dir, name) = self.parent(layer, path)?;
        match self.tree.child(dir, name) {
            Some(Child { inode, .. }) if self.tree.is_dir(inode) => {
                self.tree.set_attrs(inode, attrs);
                self.tree.touch(dir, name, layer);
                Ok(())
            }
            _ => self.replace(layer, dir, name, attrs, NodeKind::Dir(BTreeMap::new())),
        }
    }

    /// Replaces everything of that name, with all that is below it.
    fn place(&mut self, layer: u16, path: &[u8], attrs: Attrs, what: NodeKind) -> Result<()> {
        let (dir, name) = self.parent(layer, path)?;
        self.replace(layer, dir, name, attrs, what)
    }

    fn replace(&mut self, layer: u16, dir: InodeId, name: &[u8], attrs: Attrs, what: NodeKind) -> Result<()> {
        self.tree.unlink(dir, name, &mut self.steps)?;
        let inode = self.tree.make(attrs, what)?;
        self.tree.link(dir, name, inode, layer);
        Ok(())
    }

    /// One more name for an inode, which keeps its own attributes. The target's path may lead through links, but it is
    /// not followed if it is one itself.
    fn hard_link(&mut self, layer: u16, path: &[u8], target: &[u8]) -> Result<()> {
        let refuse = || Refusal::HardLink { target: shown(target) }.of(path);
        let (dir, name) = self.parent(layer, path)?;
        // First, as in extraction: a link to what it replaces is a link to nothing.
        self.tree.unlink(dir, name, &mut self.steps)?;
        let (target_dir, target_name) = path::split(target);
        let target_dir = self.find(layer, target_dir, path)?.ok_or_else(refuse)?;
        match self.tree.child(target_dir, target_name) {
            Some(Child { inode, .. }) if !self.tree.is_dir(inode) => {
                self.tree.link(dir, name, inode, layer);
                Ok(())
            }
            _ => Err(refuse()),
        }
    }

    /// Removes the name from lower layers. This layer's own entries stay, whichever came first, with the directories on
    /// the way to them.
    fn whiteout(&mut self, layer: u16, path: &[u8]) -> Result<()> {
        let (dir, name) = path::split(path);
        let Some(dir) = self.find(layer, dir, path)? else { return Ok(()) };
        match self.tree.child(dir, name) {
            None => Ok(()),
            Some(child) if child.layer == layer => self.clear(layer, child.inode),
            Some(_) => self.tree.unlink(dir, name, &mut self.steps),
        }
    }

    /// Empties that directory of lower layers' names.
    fn opaque(&mut self, layer: u16, path: &[u8]) -> Result<()> {
        match self.find(layer, path, path)? {
            Some(dir) => self.clear(layer, dir),
            None => Ok(()),
        }
    }

    fn clear(&mut self, layer: u16, dir: InodeId) -> Result<()> {
        let mut dirs = vec![dir];
        while let Some(dir) = dirs.pop() {
            let (others, own) = self.tree.children_by_layer(dir, layer);
            for name in others {
                self.tree.unlink(dir, &name, &mut self.steps)?;
            }
            for inode in own {
                self.steps.step()?;
                if self.tree.is_dir(inode) {
                    dirs.push(inode);
                }
            }
        }
        Ok(())
    }

    /// The directory that this path leads to. `None` if there is no such directory.
    fn find(&mut self, layer: u16, dir: &[u8], entry: &[u8]) -> Result<Option<InodeId>> {
        match resolve(&self.tree, dir, layer, &mut self.steps, entry) {
            Ok(steps) => Ok(steps.last().map_or(Some(ROOT), |step| step.inode)),
            Err(ArchiveError::Entry { refusal: Refusal::ThroughFile { .. }, .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The directory that the path's last name belongs to, and that name. Directories that are missing are made, in the
    /// place of a lower layer's file if there is one, and all on the way count as this layer's.
    fn parent<'p>(&mut self, layer: u16, path: &'p [u8]) -> Result<(InodeId, &'p [u8])> {
        let (dir, name) = path::split(path);
        let steps = resolve(&self.tree, dir, layer, &mut self.steps, path)?;
        let mut at = ROOT;
        for step in steps {
            match step.inode {
                Some(inode) => {
                    self.tree.touch(at, &step.name, layer);
                    at = inode;
                }
                None => {
                    if self.tree.child(at, &step.name).is_some() {
                        self.tree.unlink(at, &step.name, &mut self.steps)?;
                        self.notes.add(Note::GaveWay);
                    }
                    let made = self.tree.make(Attrs::of_missing_dir(), NodeKind::Dir(BTreeMap::new()))?;
                    self.tree.link(at, &step.name, made, layer);
                    at = made;
                }
            }
        }
        Ok((at, name))
    }
}
