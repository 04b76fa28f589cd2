//! The meaning of the kernel's errors to a program on the host.

use std::io;

use vmette_wire::streams::FailureKind;

/// The kind of a failure whose cause is an I/O error.
pub(crate) fn kind_of(error: &io::Error) -> FailureKind {
    match error.raw_os_error() {
        Some(libc::ENOENT) => FailureKind::NotFound,
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => FailureKind::NotPermitted,
        Some(libc::ENOSPC | libc::EDQUOT | libc::ENOMEM) => FailureKind::NoSpace,
        Some(libc::EISDIR | libc::ENOTDIR | libc::ELOOP | libc::EINVAL | libc::ENAMETOOLONG) => {
            FailureKind::Invalid
        }
        Some(_) => FailureKind::Other,
        None => match error.kind() {
            io::ErrorKind::NotFound => FailureKind::NotFound,
            io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => FailureKind::Invalid,
            _ => FailureKind::Other,
        },
    }
}
