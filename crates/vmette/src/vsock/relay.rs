//! Two connected sockets that become one.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Most relays of a session, each with two threads and two descriptors. A guest that wants more finds its connection
/// closed.
pub(super) const RELAYS_MAX: usize = 256;

/// Bytes that are moved at once, on the thread's stack.
const CHUNK: usize = 32 << 10;

/// A relay's thread does nothing but move such chunks.
const STACK: usize = CHUNK + (128 << 10);

/// The relays of one session.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Directions that run, and those of them that lead to the host.
    running: usize,
    to_host: usize,
    /// The sockets of the relays that run, to be shut down.
    sockets: Vec<Weak<UnixStream>>,
    over: bool,
}

impl Relays {
    /// Passes on what either side sends until both have ended. Half-closing either side reaches the other.
    pub(super) fn start(self: &Arc<Self>, guest: UnixStream, host: UnixStream) -> io::Result<()> {
        let (guest, host) = (Arc::new(guest), Arc::new(host));
        let (there, back) = (self.take(&[&guest, &host], true)?, self.take(&[], false)?);
        let (from, to) = (guest.clone(), host.clone());
        spawn(there, move || pass_on(&from, &to))?;
        spawn(back, move || pass_on(&host, &guest))
    }

    /// Runs `work` with a connection of the guest's on a thread of its own, as one direction of a relay.
    pub(super) fn run(
        self: &Arc<Self>,
        guest: UnixStream,
        work: impl FnOnce(&UnixStream) + Send + 'static,
    ) -> io::Result<()> {
        let guest = Arc::new(guest);
        let slot = self.take(&[&guest], true)?;
        spawn(slot, move || work(&guest))
    }

    fn take(self: &Arc<Self>, sockets: &[&Arc<UnixStream>], to_host: bool) -> io::Result<Slot> {
        let mut state = self.lock();
        if state.over || state.running >= 2 * RELAYS_MAX {
            return Err(io::Error::other(format!("more than {RELAYS_MAX} connections at once")));
        }
        state.running += 1;
        state.to_host += usize::from(to_host);
        state.sockets.retain(|socket| socket.strong_count() > 0);
        state.sockets.extend(sockets.iter().map(|socket| Arc::downgrade(socket)));
        Ok(Slot { relays: self.clone(), to_host })
    }

    /// The guest is gone: what it has sent may reach the host until the deadline, and then everything ends.
    pub(super) fn end(&self, deadline: Instant) {
        let mut state = self.lock();
        state.over = true;
        state = self.wait(state, deadline, |state| state.to_host);
        for socket in state.sockets.drain(..).filter_map(|socket| socket.upgrade()) {
            // Fails only when the other side is gone.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Waits until nothing runs.
    #[cfg(test)]
    pub(super) fn wait_idle(&self, deadline: Instant) {
        let state = self.wait(self.lock(), deadline, |state| state.running);
        assert_eq!(state.running, 0);
    }

    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
        count: fn(&State) -> usize,
    ) -> MutexGuard<'a, State> {
        while count(&state) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One direction of a relay.
struct Slot {
    relays: Arc<Relays>,
    to_host: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.relays.lock();
        state.running -= 1;
        state.to_host -= usize::from(self.to_host);
        drop(state);
        self.relays.ended.notify_all();
    }
}

fn spawn(slot: Slot, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("vmette-relay".into()).stack_size(STACK).spawn(move || {
        work();
        drop(slot);
    })?;
    Ok(())
}

fn pass_on(mut from: &UnixStream, mut to: &UnixStream) {
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
