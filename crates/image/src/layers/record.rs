//! Entries of a layer.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::content::Content;
use crate::meta::{Device, Meta};
use crate::tar::{ArchiveError, Budget};

pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The attributes of a [`Meta`], kept small: there may be a million of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attrs {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u32,
    /// Shared by the files that have the same.
    pub(super) xattrs: Option<Arc<Xattrs>>,
}

impl Attrs {
    /// Attributes of a directory that no layer has an entry for.
    pub(super) fn of_missing_dir() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: 0, xattrs: None }
    }

    pub(super) fn meta(&self) -> Meta {
        Meta {
            mode: self.mode.into(),
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: self.xattrs.as_deref().cloned().unwrap_or_default(),
        }
    }
}

/// An entry's effect on the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) attrs: Attrs,
    pub(super) action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Dir,
    File(Content),
    Symlink(Box<[u8]>),
    /// The target's path, normal.
    HardLink(Box<[u8]>),
    Char(Device),
    Block(Device),
    Fifo,
    /// Removes this path from lower layers.
    Whiteout,
    /// Empties this directory of lower layers' names.
    Opaque,
}

/// Sets of attributes, each kept once.
#[derive(Debug, Default)]
pub(super) struct XattrSets {
    sets: HashSet<Arc<Xattrs>>,
}

impl XattrSets {
    pub(super) fn keep(
        &mut self,
        xattrs: Xattrs,
        budget: &Budget,
    ) -> std::result::Result<Option<Arc<Xattrs>>, ArchiveError> {
        if xattrs.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.sets.get(&xattrs) {
            return Ok(Some(Arc::clone(known)));
        }
        budget.xattrs(xattrs.iter().map(|(name, value)| name.len() + value.len()).sum())?;
        let set = Arc::new(xattrs);
        self.sets.insert(Arc::clone(&set));
        Ok(Some(set))
    }
}
