//! Making a directory of an image its root.
//!
//! `mksquashfs` gives the root of an image made from an archive its own owner and the current time. The archive's tree
//! is therefore one directory deeper, and afterwards the superblock's `root_inode` is pointed at that directory. Inodes
//! and directories of such an image are not compressed, which makes this a matter of following two references; the old
//! root stays as 32 unused bytes, and its time is cleared, so that equal input makes equal images.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::clean_tar::ROOT_DIR;
use crate::superblock::{ROOT_INODE_AT, Superblock, SuperblockError};

/// Set in a metadata block's header when its content is not compressed; the rest is its length.
const UNCOMPRESSED: u16 = 1 << 15;
/// Header of a metadata block.
const BLOCK_HEADER: u64 = 2;
/// Content of a metadata block, except a table's last one.
const BLOCK_LEN: u64 = 8192;
/// A basic directory's type, and its inode's length.
const DIRECTORY: u16 = 1;
const DIRECTORY_INODE_LEN: usize = 32;
/// Offset of `mtime` in an inode.
const MTIME_AT: u64 = 8;
/// A directory's header, and its one entry up to the name.
const LISTING_LEN: usize = 12 + 8;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RerootError {
    #[error("{0}")]
    Superblock(#[from] SuperblockError),
    #[error("cannot be completed: {0}")]
    Io(#[from] io::Error),
    #[error("is not laid out as expected: {0}")]
    Layout(&'static str),
}

pub(super) fn reroot(image: &Path) -> Result<(), RerootError> {
    let file = OpenOptions::new().read(true).write(true).open(image)?;
    let superblock = Superblock::read(&file)?;
    let inodes = Table { file: &file, start: superblock.inode_table };
    let (block, offset) = (superblock.root_inode >> 16, superblock.root_inode & 0xffff);

    let mut inode = [0; DIRECTORY_INODE_LEN];
    inodes.read(block, offset, &mut inode)?;
    if u16_at(&inode, 0) != DIRECTORY {
        return Err(RerootError::Layout("its root is not a plain directory"));
    }
    let listing = Table { file: &file, start: superblock.directory_table };
    let mut entry = [0; LISTING_LEN + ROOT_DIR.len()];
    listing.read(u32_at(&inode, 16).into(), u16_at(&inode, 26).into(), &mut entry)?;
    let (count, name_len) = (u32_at(&entry, 0), usize::from(u16_at(&entry, 18)) + 1);
    if count != 0 || name_len != ROOT_DIR.len() || &entry[LISTING_LEN..] != ROOT_DIR.as_bytes() {
        return Err(RerootError::Layout("its root holds something else"));
    }
    let root = (u64::from(u32_at(&entry, 4)) << 16) | u64::from(u16_at(&entry, 12));

    for byte in 0..4 {
        file.write_all_at(&[0], inodes.position(block, offset + MTIME_AT + byte)?)?;
    }
    file.write_all_at(&root.to_le_bytes(), ROOT_INODE_AT)?;
    Ok(())
}

/// A chain of metadata blocks.
struct Table<'a> {
    file: &'a File,
    start: u64,
}

impl Table<'_> {
    /// Where in the file the byte is that a reference, with an offset that may run past its block, means.
    fn position(&self, block: u64, offset: u64) -> Result<u64, RerootError> {
        let mut block = self.start + block;
        let mut offset = offset;
        loop {
            let mut header = [0; 2];
            self.file.read_exact_at(&mut header, block)?;
            let header = u16::from_le_bytes(header);
            if header & UNCOMPRESSED == 0 {
                return Err(RerootError::Layout("its inodes are compressed"));
            }
            if offset < BLOCK_LEN {
                return Ok(block + BLOCK_HEADER + offset);
            }
            offset -= BLOCK_LEN;
            block += BLOCK_HEADER + BLOCK_LEN;
        }
    }

    fn read(&self, block: u64, offset: u64, into: &mut [u8]) -> Result<(), RerootError> {
        for (index, byte) in (0..).zip(into) {
            self.file.read_exact_at(std::slice::from_mut(byte), self.position(block, offset + index)?)?;
        }
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
