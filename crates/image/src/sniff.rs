//! Kinds of files, by their first bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crate::header::{BLOCK, Header};

/// Kinds of file that a rootfs spec may meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Squashfs,
    Tar,
    Gzip,
    Zstd,
    Xz,
    Elf,
    Other,
}

/// Enough for the header of a tar archive.
const HEAD: u64 = BLOCK as u64;

impl FileKind {
    /// Looks at the start of the file and rewinds it.
    pub(crate) fn of(file: &mut File) -> io::Result<Self> {
        let mut head = Vec::new();
        file.by_ref().take(HEAD).read_to_end(&mut head)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(Self::of_bytes(&head))
    }

    pub(crate) fn of_bytes(head: &[u8]) -> Self {
        const MAGICS: [(usize, &[u8], FileKind); 6] = [
            (0, b"hsqs", FileKind::Squashfs),
            (0, &[0x1f, 0x8b], FileKind::Gzip),
            (0, &[0x28, 0xb5, 0x2f, 0xfd], FileKind::Zstd),
            (0, &[0xfd, b'7', b'z', b'X', b'Z', 0], FileKind::Xz),
            (0, b"\x7fELF", FileKind::Elf),
            (257, b"ustar", FileKind::Tar),
        ];
        MAGICS
            .iter()
            .find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
            .map(|found| found.2)
            .or_else(|| is_header(head).then_some(Self::Tar))
            .unwrap_or(Self::Other)
    }
}

/// The oldest tar archives have no magic; a header's checksum tells.
fn is_header(head: &[u8]) -> bool {
    head.first_chunk().is_some_and(|block| Header::of(block).is_some())
}
