//! The guest's memory as a descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Bytes copied at once: small enough to stay in the processor's cache between reading and writing.
const CHUNK: usize = 256 << 10;

/// New memory of that many bytes, all zero. Its size is sealed: whoever else has the descriptor (a share server) cannot
/// shrink it under QEMU, which would die of it.
#[cfg(target_os = "linux")]
pub(crate) fn anonymous(size: u64) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let fd = rustix::fs::memfd_create("vmette-guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, size)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn anonymous(_size: u64) -> io::Result<OwnedFd> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Copies the parts of `from` that hold data to the same places in `to`. Where `from` has holes `to` is left alone, so
/// it must be new.
pub(crate) fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from.as_fd(), SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data up to the end.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(from.as_fd(), SeekFrom::Hole(start))?.min(size);
        copy_range(from, to, start, end, &mut buffer)?;
        at = end;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let part = &mut buffer[..left];
        from.read_exact_at(part, at)?;
        to.write_all_at(part, at)?;
        at += left as u64;
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn data_is_copied_and_holes_stay_holes() {
        const SIZE: u64 = 64 << 20;
        let from = File::from(anonymous(SIZE).unwrap());
        from.write_all_at(b"first", 0).unwrap();
        from.write_all_at(b"across two chunks", 20 << 20).unwrap();
        from.write_all_at(&vec![7; CHUNK * 2 + 1], 40 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        to.set_len(SIZE).unwrap();
        copy_data(&from, &to).unwrap();
        let mut text = [0; 17];
        to.read_exact_at(&mut text, 20 << 20).unwrap();
        assert_eq!(&text, b"across two chunks");
        let mut last = [0; 2];
        to.read_exact_at(&mut last, (40 << 20) + CHUNK as u64 * 2).unwrap();
        assert_eq!(last, [7, 0]);
        assert_eq!(to.metadata().unwrap().len(), SIZE);
        assert!(to.metadata().unwrap().blocks() * 512 < SIZE / 8);
    }

    #[test]
    fn nothing_is_copied_from_empty_memory() {
        let from = File::from(anonymous(1 << 20).unwrap());
        let to = tempfile::tempfile().unwrap();
        copy_data(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 0);
    }

    #[test]
    fn its_size_cannot_be_changed() {
        let memory = File::from(anonymous(1 << 20).unwrap());
        assert!(memory.set_len(0).is_err());
        assert!(memory.set_len(2 << 20).is_err());
    }
}
