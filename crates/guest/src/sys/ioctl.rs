//! Requests to the kernel's random number generator and to network interfaces.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vmette_wire::handshake::ENTROPY_LEN;

/// `RNDADDENTROPY`, `_IOW('R', 3, int[2])` of `linux/random.h`.
const RNDADDENTROPY: u32 = 0x4008_5203;
/// `RNDRESEEDCRNG`, `_IO('R', 7)` of `linux/random.h`.
const RNDRESEEDCRNG: u32 = 0x5207;

/// `struct rand_pool_info` with room for what `hello` carries.
#[repr(C)]
struct PoolInfo {
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    buf: [u8; ENTROPY_LEN],
}

/// Mixes `entropy` into the kernel's generator and makes it draw a new key from it at once, so that two clones of one
/// template part ways here.
///
/// # Errors
/// The kernel's; without `CAP_SYS_ADMIN` it is `EPERM`.
pub(crate) fn add_entropy(random: impl AsFd, entropy: &[u8; ENTROPY_LEN]) -> io::Result<()> {
    let length = libc::c_int::try_from(ENTROPY_LEN).map_err(io::Error::other)?;
    let info = PoolInfo { entropy_count: length * 8, buf_size: length, buf: *entropy };
    let fd = random.as_fd().as_raw_fd();
    // SAFETY: the kernel reads two integers and `buf_size` bytes behind them, all inside `info`.
    if unsafe { libc::ioctl(fd, RNDADDENTROPY as _, &raw const info) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this request has no argument.
    if unsafe { libc::ioctl(fd, RNDRESEEDCRNG as _, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Brings a network interface up.
///
/// # Errors
/// The kernel's: no such interface, or no permission.
pub(crate) fn interface_up(socket: impl AsFd, name: &str) -> io::Result<()> {
    // SAFETY: `ifreq` is plain data, all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the request reads and writes one `ifreq`, which `request` is; its name ends with NUL.
    if unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFFLAGS has just filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    request.ifr_ifru.ifru_flags = flags | up;
    // SAFETY: as above.
    if unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
