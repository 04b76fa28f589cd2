//! System calls that cannot be interrupted, waited for on another thread.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use vmette_work::Cancel;

/// Longest time between two looks at the cancel token: long enough to cost nothing, too short for a person to notice.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// Runs `work`, a look-up of a name or a connect, on a thread of its own, and returns its result.
///
/// The system cannot interrupt such a call. On a cancel or after `limit`, which is [`io::ErrorKind::TimedOut`], the
/// thread stays behind and ends with its call.
pub(super) fn apart<T: Send + 'static>(
    cancel: &Cancel,
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let until = Instant::now() + limit;
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new().name("vmette-connect".to_owned()).spawn(move || {
        // The receiver is gone after a cancel or a time-out.
        let _ = sender.send(work());
    })?;
    loop {
        cancel.check()?;
        let left = until.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(SLICE)) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the thread that connects died"));
            }
        }
    }
}
