//! A layer's entries, as they wait for their turn.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::content::Content;
use crate::error::Result;
use crate::meta::{Device, Meta};
use crate::tar::{ArchiveError, Budget};

pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What [`Meta`] has, small: there may be a million of these.
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
    /// Of a directory that no layer has an entry for.
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

/// What an entry does to the tree.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) attrs: Attrs,
    pub(super) action: Action,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    Dir,
    File(Content),
    Symlink(Box<[u8]>),
    /// The target's path, normal.
    HardLink(Box<[u8]>),
    Char(Device),
    Block(Device),
    Fifo,
    /// Removes what lower layers have under this path.
    Whiteout,
    /// Removes what lower layers have in this directory.
    Opaque,
}

/// Entries in the order they came. Paths are kept without what they have in common with the one before.
#[derive(Debug, Default)]
pub(super) struct Records {
    records: Vec<(Record, Joint)>,
    tails: Vec<u8>,
    last: Vec<u8>,
}

/// How a path is put together.
#[derive(Debug, Clone, Copy)]
struct Joint {
    /// Bytes of the path before.
    kept: u16,
    /// Bytes that follow them.
    added: u16,
}

impl Records {
    /// The path is normal, and so shorter than 64 KiB.
    pub(super) fn push(
        &mut self,
        path: &[u8],
        record: Record,
        budget: &Budget,
    ) -> std::result::Result<(), ArchiveError> {
        let common = self.last.iter().zip(path).take_while(|(one, other)| one == other).count();
        let kept = u16::try_from(common).unwrap_or(u16::MAX);
        let tail = &path[kept.into()..];
        let target = match &record.action {
            Action::Symlink(target) | Action::HardLink(target) => target.len(),
            _ => 0,
        };
        budget.names(tail.len() + target)?;
        let added = u16::try_from(tail.len()).map_err(|_| {
            crate::tar::Refusal::PathTooLong { len: path.len(), max: u16::MAX.into() }.of(path)
        })?;
        self.tails.extend_from_slice(tail);
        self.last.truncate(kept.into());
        self.last.extend_from_slice(tail);
        self.records.push((record, Joint { kept, added }));
        Ok(())
    }

    /// Gives each to `to`, in order.
    pub(super) fn into_each(self, mut to: impl FnMut(&[u8], Record) -> Result<()>) -> Result<()> {
        let mut path = Vec::new();
        let mut tails = self.tails.as_slice();
        for (record, joint) in self.records {
            let (tail, rest) = tails.split_at(joint.added.into());
            path.truncate(joint.kept.into());
            path.extend_from_slice(tail);
            tails = rest;
            to(&path, record)?;
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn paths_come_back(paths in proptest::collection::vec("[ab/]{0,12}", 0..20)) {
            let budget = Budget::new(0, "");
            let mut records = Records::default();
            for path in &paths {
                let record = Record { attrs: Attrs::of_missing_dir(), action: Action::Dir };
                records.push(path.as_bytes(), record, &budget).unwrap();
            }
            let mut back = Vec::new();
            records.into_each(|path, _| { back.push(String::from_utf8(path.to_vec()).unwrap()); Ok(()) }).unwrap();
            prop_assert_eq!(back, paths);
        }
    }
}
