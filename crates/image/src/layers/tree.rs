//! A file system's tree: inodes, and directories that give them names.

use std::collections::BTreeMap;

use super::content::Content;
use super::name::Name;
use super::record::Attrs;
use super::steps::Steps;
use crate::meta::Device;
use crate::tar::{ArchiveError, ENTRIES_MAX};

/// An inode's place among the tree's.
pub(super) type InodeId = u32;

pub(super) const ROOT: InodeId = 0;

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) attrs: Attrs,
    /// Number of its names. Without any it is gone, and its place is free.
    pub(super) links: u32,
    pub(super) what: NodeKind,
}

#[derive(Debug)]
pub(super) enum NodeKind {
    Dir(BTreeMap<Name, Child>),
    File(Content),
    Symlink(Box<[u8]>),
    Char(Device),
    Block(Device),
    Fifo,
}

/// The meaning of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child {
    pub(super) inode: InodeId,
    /// The last layer that has an entry of this name or of anything below it.
    pub(super) layer: u16,
}

/// All that layers have made so far.
#[derive(Debug)]
pub(super) struct Tree {
    inodes: Vec<Inode>,
    free: Vec<InodeId>,
}

impl Tree {
    /// With a root that a layer need not have an entry for.
    pub(super) fn new() -> Self {
        let root = Inode { attrs: Attrs::of_missing_dir(), links: 1, what: NodeKind::Dir(BTreeMap::new()) };
        Self { inodes: vec![root], free: Vec::new() }
    }

    pub(super) fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id as usize]
    }

    /// All inodes that have a name.
    pub(super) fn inodes(&self) -> impl Iterator<Item = &Inode> {
        self.inodes.iter().filter(|inode| inode.links > 0)
    }

    /// Takes an inode's attributes and kind out of the tree.
    pub(super) fn take(&mut self, id: InodeId) -> (Attrs, NodeKind) {
        let inode = &mut self.inodes[id as usize];
        (inode.attrs.clone(), std::mem::replace(&mut inode.what, NodeKind::Fifo))
    }

    pub(super) fn set_attrs(&mut self, id: InodeId, attrs: Attrs) {
        self.inodes[id as usize].attrs = attrs;
    }

    pub(super) fn is_dir(&self, id: InodeId) -> bool {
        matches!(self.inode(id).what, NodeKind::Dir(_))
    }

    /// The inode of that name in that directory; `None` below anything but a directory.
    pub(super) fn child(&self, dir: InodeId, name: &[u8]) -> Option<Child> {
        match &self.inode(dir).what {
            NodeKind::Dir(children) => children.get(name).copied(),
            _ => None,
        }
    }

    fn children(&mut self, dir: InodeId) -> Option<&mut BTreeMap<Name, Child>> {
        match &mut self.inodes[dir as usize].what {
            NodeKind::Dir(children) => Some(children),
            _ => None,
        }
    }

    /// The names in a directory that this layer does not have, and the inodes that it has.
    pub(super) fn children_by_layer(&self, dir: InodeId, layer: u16) -> (Vec<Name>, Vec<InodeId>) {
        let (mut others, mut own) = (Vec::new(), Vec::new());
        if let NodeKind::Dir(children) = &self.inode(dir).what {
            for (name, child) in children {
                if child.layer == layer {
                    own.push(child.inode);
                } else {
                    others.push(name.clone());
                }
            }
        }
        (others, own)
    }

    /// A new inode, which has no name yet.
    pub(super) fn make(&mut self, attrs: Attrs, what: NodeKind) -> Result<InodeId, ArchiveError> {
        let inode = Inode { attrs, links: 0, what };
        if let Some(id) = self.free.pop() {
            self.inodes[id as usize] = inode;
            return Ok(id);
        }
        let too_many = ArchiveError::TooMany { what: "files and directories", limit: ENTRIES_MAX };
        match InodeId::try_from(self.inodes.len()) {
            Ok(id) if u64::from(id) < ENTRIES_MAX => {
                self.inodes.push(inode);
                Ok(id)
            }
            _ => Err(too_many),
        }
    }

    /// Gives an inode a name that is not taken.
    pub(super) fn link(&mut self, dir: InodeId, name: &[u8], inode: InodeId, layer: u16) {
        if let Some(children) = self.children(dir) {
            children.insert(Name::new(name), Child { inode, layer });
            self.inodes[inode as usize].links += 1;
        }
    }

    /// Notes that a layer has something of that name, or below it.
    pub(super) fn touch(&mut self, dir: InodeId, name: &[u8], layer: u16) {
        if let Some(child) = self.children(dir).and_then(|children| children.get_mut(name)) {
            child.layer = layer;
        }
    }

    /// Removes the name, and everything below it.
    pub(super) fn unlink(
        &mut self,
        dir: InodeId,
        name: &[u8],
        budget: &mut Steps,
    ) -> Result<(), ArchiveError> {
        let Some(child) = self.children(dir).and_then(|children| children.remove(name)) else {
            return Ok(());
        };
        let mut nameless = vec![child.inode];
        while let Some(id) = nameless.pop() {
            budget.step()?;
            let inode = &mut self.inodes[id as usize];
            inode.links -= 1;
            if inode.links == 0 {
                inode.attrs.xattrs = None;
                if let NodeKind::Dir(children) = std::mem::replace(&mut inode.what, NodeKind::Fifo) {
                    nameless.extend(children.into_values().map(|child| child.inode));
                }
                self.free.push(id);
            }
        }
        Ok(())
    }
}
