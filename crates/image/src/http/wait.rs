//! Waiting that notices when it is given up.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::Result;

/// How often a wait looks whether it was given up: seldom enough to cost nothing, often enough for a person not to
/// notice.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// Pauses, or gives up as soon as the caller does.
pub(super) fn pause(ctx: &Context, length: Duration) -> Result<()> {
    let until = Instant::now() + length;
    loop {
        ctx.check_cancelled()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(SLICE));
    }
}

/// Does what the system has no way to interrupt, looking up a name or opening a connection, in a thread that is left
/// behind when it takes too long or is given up; `work` ends by itself in the end. [`io::ErrorKind::TimedOut`] after
/// `limit`.
pub(super) fn apart<T: Send + 'static>(
    ctx: &Context,
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let until = Instant::now() + limit;
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new().name("vmette-connect".to_owned()).spawn(move || {
        // Nobody waits any more, and that is fine.
        let _ = sender.send(work());
    })?;
    loop {
        ctx.check_cancelled().map_err(io::Error::other)?;
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
