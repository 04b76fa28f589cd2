//! Two connected sockets that become one.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Most relays of a session, each with two threads. A guest that wants more finds its connection closed.
pub(super) const RELAYS_MAX: usize = 256;

/// Bytes that are moved at once, on the thread's stack.
const CHUNK: usize = 32 << 10;

/// A relay's thread does nothing but move such chunks.
const STACK: usize = CHUNK + (128 << 10);

/// How many relays there are, and how many of their directions still run.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    running: Mutex<usize>,
    ended: Condvar,
}

impl Relays {
    /// Passes on what either side sends until both have ended. Half-closing either side reaches the other.
    pub(super) fn start(self: &Arc<Self>, one: UnixStream, other: UnixStream) -> io::Result<()> {
        let back = (other.try_clone()?, one.try_clone()?);
        let mut slots = [self.take()?, self.take()?].into_iter();
        for ((from, to), slot) in [(one, other), back].into_iter().zip(&mut slots) {
            self.spawn(slot, move || pass_on(from, to))?;
        }
        Ok(())
    }

    /// Runs `work` on a thread of its own, as one direction of a relay.
    pub(super) fn run(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let slot = self.take()?;
        self.spawn(slot, work)
    }

    fn spawn(&self, slot: Slot, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name("vmette-relay".into()).stack_size(STACK).spawn(move || {
            work();
            drop(slot);
        })?;
        Ok(())
    }

    fn take(self: &Arc<Self>) -> io::Result<Slot> {
        let mut running = self.lock();
        if *running >= 2 * RELAYS_MAX {
            return Err(io::Error::other(format!("more than {RELAYS_MAX} connections at once")));
        }
        *running += 1;
        Ok(Slot(self.clone()))
    }

    /// Waits until all have ended, or the deadline has passed.
    pub(super) fn wait_idle(&self, deadline: Instant) {
        let mut running = self.lock();
        while *running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return;
            }
            running = self.ended.wait_timeout(running, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One direction of a relay.
struct Slot(Arc<Relays>);

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.ended.notify_all();
    }
}

fn pass_on(mut from: UnixStream, mut to: UnixStream) {
    let mut buffer = [0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                if to.write_all(&buffer[..n]).is_err() {
                    // Nobody reads any more: the sender is to know.
                    let _ = from.shutdown(Shutdown::Read);
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // Fails only when the other side is gone.
    let _ = to.shutdown(Shutdown::Write);
}
