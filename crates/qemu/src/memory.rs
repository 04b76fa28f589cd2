//! The guest's memory as a descriptor.

use std::io;
use std::os::fd::OwnedFd;

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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn its_size_cannot_be_changed() {
        let memory = File::from(anonymous(1 << 20).unwrap());
        assert!(memory.set_len(0).is_err());
        assert!(memory.set_len(2 << 20).is_err());
    }
}
