//! What a file is, by its first bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

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

    /// What to call it, and the spec that would take it, if one does.
    pub(crate) fn advice(self, path: &Path) -> String {
        let saved = format!("docker-archive:{} if an image was saved in it", path.display());
        let url = |scheme: &str| format!("use {scheme}+file://{}", crate::spec::encode_path(path));
        match self {
            Self::Squashfs => format!("a squashfs image: {}", url("squashfs")),
            Self::Tar => format!("a tar archive: {}; {saved}", url("tar")),
            Self::Gzip | Self::Zstd | Self::Xz => {
                format!("a compressed file: if it is a tar archive, {}; {saved}", url("tar"))
            }
            Self::Elf => {
                "a program, not a rootfs: name a directory, a squashfs image or a tar archive".to_owned()
            }
            Self::Other => "neither a directory, nor a squashfs image, nor a tar archive".to_owned(),
        }
    }
}
