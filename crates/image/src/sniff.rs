//! Kinds of files, by their first bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

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

/// Enough for a tar header, whose magic is the furthest in.
const HEAD: u64 = 512;

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
            .map_or(Self::Other, |found| found.2)
    }
}
