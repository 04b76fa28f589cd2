//! Limits of a tree's shape, beyond which the packing tool takes too long or too much memory.

use std::collections::{HashMap, HashSet};

use super::tree::{NodeKind, Tree};
use crate::pack::Duplicates;

/// Most different owners, users and groups together: the size of squashfs's table, less one for its maker.
const OWNERS_MAX: usize = 65_535;
/// Most pairs of names in one directory, over all directories: one with 90,000 names, or two with 65,000. The tool
/// compares each new name with all others of its directory, a hundred million pairs a second or two; and for each
/// further name of an inode, each part of its first name with all others of that part's directory.
const NAME_PAIRS_MAX: u64 = 8_000_000_000;
/// Most pairs of files of one size for which the tool looks for duplicates: 20,000 files of one size. It compares each
/// file with all others, a hundred million pairs a second.
const SIZE_PAIRS_MAX: u64 = 400_000_000;
/// The tool tells sizes apart by their remainder.
const SIZES: u64 = 1 << 16;

/// A tree that cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unpackable {
    /// More owners than squashfs can hold.
    #[error("the files have {0} different owners; {OWNERS_MAX} is the most that an image can hold")]
    Owners(usize),
    /// The tool would compare names for hours.
    #[error(
        "a directory has too many names or hard links to what is in it, or several have: 90,000 in one is the most that \
         is let through; spread them over more directories"
    )]
    Names,
    /// Too many bytes of whole paths that would have to be remembered.
    #[error("the paths of files that have several names hold more than {0} bytes")]
    FirstNames(usize),
}

/// Counts that the tool's memory or time grows with, other than entries and bytes.
#[derive(Debug)]
pub(super) struct Shape {
    owners: usize,
    /// Pairs of names; [`link`](Self::link) adds those of further names of inodes.
    name_pairs: u64,
    size_pairs: u64,
}

impl Shape {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut owners = HashSet::new();
        let mut sizes: HashMap<u64, u64> = HashMap::new();
        let mut name_pairs = 0;
        for inode in tree.inodes() {
            owners.extend([inode.attrs.uid, inode.attrs.gid]);
            match &inode.what {
                NodeKind::Dir(children) => name_pairs += pairs(children.len() as u64),
                NodeKind::File(content) if content.size > 0 => {
                    *sizes.entry(content.size % SIZES).or_default() += 1;
                }
                _ => {}
            }
        }
        Self { owners: owners.len(), name_pairs, size_pairs: sizes.into_values().map(pairs).sum() }
    }

    /// Refuses a tree that cannot be packed at all.
    pub(super) fn check(&self) -> Result<(), Unpackable> {
        if self.owners > OWNERS_MAX {
            return Err(Unpackable::Owners(self.owners));
        }
        self.check_names()
    }

    /// Counts one more name of an inode, whose first name leads through directories of so many names in all.
    pub(super) fn link(&mut self, names: u64) -> Result<(), Unpackable> {
        self.name_pairs += names;
        self.check_names()
    }

    /// Lets so much more be counted.
    #[cfg(test)]
    pub(super) fn leave(&mut self, pairs: u64) {
        self.name_pairs = NAME_PAIRS_MAX - pairs;
    }

    fn check_names(&self) -> Result<(), Unpackable> {
        if self.name_pairs > NAME_PAIRS_MAX { Err(Unpackable::Names) } else { Ok(()) }
    }

    /// The way to treat duplicates that takes a reasonable time.
    pub(super) fn duplicates(&self) -> Duplicates {
        if self.size_pairs > SIZE_PAIRS_MAX { Duplicates::Keep } else { Duplicates::Find }
    }
}

/// Numbers of entries, which are far below 2³².
fn pairs(count: u64) -> u64 {
    count * count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let shape = |owners, name_pairs, size_pairs| Shape { owners, name_pairs, size_pairs };
        shape(OWNERS_MAX, pairs(89_000), 0).check().unwrap();
        assert!(shape(OWNERS_MAX + 1, 0, 0).check().unwrap_err().to_string().contains("owners"));
        assert!(shape(0, pairs(90_000), 0).check().unwrap_err().to_string().contains("90,000"));
        let mut full = shape(0, NAME_PAIRS_MAX - 7, 0);
        full.link(7).unwrap();
        assert!(full.link(1).unwrap_err().to_string().contains("hard links"));
        assert_eq!(shape(0, 0, pairs(20_000)).duplicates(), Duplicates::Find);
        assert_eq!(shape(0, 0, pairs(20_001)).duplicates(), Duplicates::Keep);
    }
}
