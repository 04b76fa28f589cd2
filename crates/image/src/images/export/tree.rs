//! An image's tree as a tar archive, by the distribution's `sqfs2tar`.
//!
//! A squashfs image that was imported or fetched is a stranger's, and given to that program as it is.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmette_spawn::{Command, Tool};
use vmette_work::Work;

use crate::error::Result;
use crate::providers::TarLimits;
use crate::providers::limits::{OCI_MAX_VARIABLE, TAR_MAX_VARIABLE, oci_max};
use crate::read_error::ReadError;
use crate::store::{ImageKind, StoredImage};
use crate::tool::{self, Output};

const TOOL: &str = "sqfs2tar";
const PACKAGE: &str = "squashfs-tools-ng";
/// The largest images take minutes; a tool that hangs is ended.
const TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// Its address space in bytes: it has the whole tree in memory, with some 300 bytes for each of a million entries.
const ADDRESS_SPACE_MAX: u64 = 2 << 30;

/// The archive, with the root's own owner, mode and time as its first entry. Of at most as many bytes as what such an
/// image is made of: a squashfs image of some KiB may hold files of any size.
pub(super) struct Archive {
    output: Output,
    image: PathBuf,
    /// Bytes that may still come.
    left: u64,
    /// Most bytes, and the variable that raises it.
    limit: (u64, &'static str),
}

impl Archive {
    pub(super) fn of(image: &StoredImage, work: &Work) -> Result<Self> {
        let limit = match image.description.kind {
            ImageKind::Oci => (oci_max()?, OCI_MAX_VARIABLE),
            _ => (TarLimits::from_env()?.max_bytes, TAR_MAX_VARIABLE),
        };
        Self::within(&image.path, limit, work)
    }

    fn within(image: &Path, limit: (u64, &'static str), work: &Work) -> Result<Self> {
        let program = tool::require(TOOL, PACKAGE)?;
        let command = Command::new(program)
            // An entry that cannot be stored is an error: an archive without it would be another tree.
            .args(["--root-becomes", ".", "--no-skip", "--"])
            .arg(image)
            // It writes to nothing but us.
            .limits(tool::limits(0, ADDRESS_SPACE_MAX));
        let output = Output::start(Tool::new(TOOL, command, TIME_MAX), image.to_owned(), work)?;
        Ok(Self { output, image: image.to_owned(), left: limit.0, limit })
    }
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.output.read(buffer)?;
        let Some(left) = self.left.checked_sub(read as u64) else {
            let (limit, variable) = self.limit;
            return Err(ReadError::TooLong { path: self.image.clone(), limit, variable }.into());
        };
        self.left = left;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Meta;
    use crate::pack::{Compression, Duplicates, Packer};

    /// A few KiB, and what they hold.
    #[test]
    fn a_small_image_does_not_become_an_archive_of_any_size() {
        const HELD: u64 = 64 << 20;
        let dir = tempfile::tempdir().unwrap();
        let (work, image) = (Work::quiet(), dir.path().join("image"));
        let mut packer = Packer::start(&image, Compression::Zstd, Duplicates::Find, HELD, &work).unwrap();
        packer
            .write(|tar| {
                tar.dir(b"", &Meta::root_owned(0o755))?;
                tar.begin_file(b"f", &Meta::root_owned(0o644), HELD)?;
                tar.zeros(HELD)?;
                tar.end_file(HELD)
            })
            .unwrap();
        packer.finish().unwrap();
        assert!(image.metadata().unwrap().len() < 1 << 20);

        let mut whole = Archive::within(&image, (2 * HELD, "VARIABLE"), &work).unwrap();
        let len = io::copy(&mut whole, &mut io::sink()).unwrap();
        assert!(len > HELD);
        let exact =
            io::copy(&mut Archive::within(&image, (len, "VARIABLE"), &work).unwrap(), &mut io::sink());
        assert_eq!(exact.unwrap(), len);
        let mut written = Vec::new();
        let refused =
            io::copy(&mut Archive::within(&image, (len - 1, "VARIABLE"), &work).unwrap(), &mut written);
        let refused = ReadError::of(refused.unwrap_err()).to_string();
        assert!(refused.contains("raise VARIABLE"), "{refused}");
        assert!((written.len() as u64) < len);
    }
}
