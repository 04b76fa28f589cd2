//! The first 96 bytes of a squashfs 4.0 image: <https://docs.kernel.org/filesystems/squashfs.html>.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// `hsqs`.
const MAGIC: [u8; 4] = *b"hsqs";
/// Length on disk.
pub(crate) const LEN: usize = 96;
/// The only version that Linux mounts.
const VERSION: (u16, u16) = (4, 0);
/// Offset of `root_inode`.
pub(crate) const ROOT_INODE_AT: u64 = 32;

/// The fields that matter here. Offsets count from the start of the image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Superblock {
    pub(crate) root_inode: u64,
    pub(crate) bytes_used: u64,
    pub(crate) inode_table: u64,
    pub(crate) directory_table: u64,
}

/// A file that is not a squashfs image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuperblockError {
    /// The system cannot read it.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is something else.
    #[error("is not a squashfs image: it does not begin with hsqs")]
    Magic,
    /// It is of another version.
    #[error("is squashfs version {0}.{1}; Linux reads 4.0 only")]
    Version(u16, u16),
    /// It contradicts itself.
    #[error("is a damaged squashfs image: {0}")]
    Damaged(&'static str),
    /// Its end is missing.
    #[error("is a truncated squashfs image: {used} bytes by its superblock, {len} in the file")]
    Truncated {
        /// Bytes by its superblock.
        used: u64,
        /// Bytes in the file.
        len: u64,
    },
}

impl Superblock {
    /// Reads it and checks that it fits the file.
    pub(crate) fn read(file: &File) -> Result<Self, SuperblockError> {
        let mut bytes = [0; LEN];
        file.read_exact_at(&mut bytes, 0).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => SuperblockError::Magic,
            _ => SuperblockError::Read(e),
        })?;
        Self::parse(&bytes, file.metadata()?.len())
    }

    fn parse(bytes: &[u8; LEN], len: u64) -> Result<Self, SuperblockError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u64_at = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(field)
        };
        if bytes[..4] != MAGIC {
            return Err(SuperblockError::Magic);
        }
        let version = (u16_at(28), u16_at(30));
        if version != VERSION {
            return Err(SuperblockError::Version(version.0, version.1));
        }
        let block = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let block_log = u32::from(u16_at(22));
        if !(12..=20).contains(&block_log) || block != 1 << block_log {
            return Err(SuperblockError::Damaged("its block size is impossible"));
        }
        let found = Self {
            root_inode: u64_at(32),
            bytes_used: u64_at(40),
            inode_table: u64_at(64),
            directory_table: u64_at(72),
        };
        if found.bytes_used > len {
            return Err(SuperblockError::Truncated { used: found.bytes_used, len });
        }
        if found.inode_table < LEN as u64
            || found.inode_table > found.directory_table
            || found.directory_table > found.bytes_used
        {
            return Err(SuperblockError::Damaged("its tables lie outside of it"));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_superblock_panics(mut bytes in proptest::array::uniform32(any::<[u8; 3]>()), magic: bool, len: u64) {
            if magic {
                bytes[0] = *b"hsq";
                bytes[1][0] = b's';
            }
            let flat: Vec<u8> = bytes.concat();
            let _ = Superblock::parse(flat.as_slice().try_into().unwrap(), len);
        }
    }
}
