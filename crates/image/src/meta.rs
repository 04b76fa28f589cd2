//! The metadata of an image's inode, whatever it was made from.

use std::collections::BTreeMap;

/// Permission bits, owner, time and extended attributes. Sorted attributes, so that equal input makes equal images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The low twelve bits of a mode.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, which is all that squashfs can hold.
    pub(crate) mtime: u32,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Meta {
    /// Owned by root, of the first second of 1970.
    pub(crate) fn root_owned(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }
    }
}

/// An inode without content of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node<'a> {
    Symlink(&'a [u8]),
    /// Another name of an earlier entry.
    HardLink(&'a [u8]),
    Char(Device),
    Block(Device),
    Fifo,
}

/// A device's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}
