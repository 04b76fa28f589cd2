//! The kernel's conduct when memory runs out.

use std::fs;
use std::io;

/// For how many milliseconds the kernel must be able to keep what was just used. When it cannot, it kills the greediest
/// process. Without that a guest whose memory is full of files would be busy for ever with reading programs that it
/// drops again at once: it stands still, and nothing is killed.
const WORKING_SET_MS: &[u8] = b"1000";

/// The multi-generational LRU: since Linux 6.1, where it is built in.
const FOLDER: &str = "/sys/kernel/mm/lru_gen";

/// Makes the kernel kill rather than thrash. A kernel that does not know how goes on as it always did.
///
/// # Errors
/// The kernel's.
pub(crate) fn kill_rather_than_thrash() -> io::Result<()> {
    for (name, value) in [("enabled", &b"y"[..]), ("min_ttl_ms", WORKING_SET_MS)] {
        match fs::write(format!("{FOLDER}/{name}"), value) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}
