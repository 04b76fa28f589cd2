//! The token that ends work from outside.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The work was given up by its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl From<Cancelled> for io::Error {
    fn from(cancelled: Cancelled) -> Self {
        Self::other(cancelled)
    }
}

/// True if [`Cancelled`] is this error or among its causes. An `io::Error` that passed through a `Read` keeps it.
#[must_use]
pub fn is_cancelled(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Cancelled>() {
            return true;
        }
        // The error inside an `io::Error` is not its source: its source is that error's source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// A token that any thread may cancel, once and for good. Clones are the same token; a [`child`](Self::child) is
/// cancelled with its parent, and may be cancelled alone.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Token>);

#[derive(Default)]
struct Token {
    /// Set under the lock of `waiting`, and read without it by loops over data.
    cancelled: AtomicBool,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    children: Vec<Weak<Token>>,
    /// By number, in the order of registration.
    calls: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
    next: u64,
}

impl Cancel {
    /// A token of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled with this one; the parent does not notice the end of the child.
    #[must_use]
    pub fn child(&self) -> Self {
        let child = Self::new();
        let mut waiting = self.0.lock();
        if self.is_cancelled() {
            child.0.cancelled.store(true, Ordering::Release);
        } else {
            waiting.children.retain(|other| other.strong_count() > 0);
            waiting.children.push(Arc::downgrade(&child.0));
        }
        drop(waiting);
        child
    }

    /// Cancels the token and its children. Wakes all who wait and makes the calls of [`on_cancel`](Self::on_cancel), on
    /// this thread. Does nothing the second time.
    pub fn cancel(&self) {
        let mut waiting = self.0.lock();
        if self.0.cancelled.swap(true, Ordering::AcqRel) {
            return;
        }
        let Waiting { children, calls, .. } = std::mem::take(&mut *waiting);
        drop(waiting);
        self.0.changed.notify_all();
        calls.into_values().for_each(|call| call());
        children.iter().filter_map(Weak::upgrade).for_each(|child| Self(child).cancel());
    }

    /// True if it is cancelled. Costs one load.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// For loops over data.
    ///
    /// # Errors
    /// [`Cancelled`] once it is.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Waits for `limit`, or until it is cancelled. A limit too long for the clock is a wait without one.
    ///
    /// # Errors
    /// [`Cancelled`] as soon as it is.
    pub fn wait(&self, limit: Duration) -> Result<(), Cancelled> {
        let deadline = Instant::now().checked_add(limit);
        let mut waiting = self.0.lock();
        while !self.is_cancelled() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            waiting = match left {
                Some(Duration::ZERO) => return Ok(()),
                Some(left) => {
                    self.0.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.0.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
        Err(Cancelled)
    }

    /// Makes `call` when the token is cancelled, on the thread that cancels; at once when it is cancelled already. It
    /// must not block. Not made once the guard is dropped, unless it has begun by then.
    ///
    /// This ends waits that know no token: the call kills the process, closes the socket or fills the channel that
    /// somebody waits for.
    #[must_use = "the call is forgotten when the guard is dropped"]
    pub fn on_cancel(&self, call: impl FnOnce() + Send + 'static) -> OnCancel {
        let mut waiting = self.0.lock();
        if self.is_cancelled() {
            drop(waiting);
            call();
            return OnCancel { token: Weak::new(), number: 0 };
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.calls.insert(number, Box::new(call));
        OnCancel { token: Arc::downgrade(&self.0), number }
    }
}

impl Token {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// Keeps a call of [`Cancel::on_cancel`] registered.
pub struct OnCancel {
    token: Weak<Token>,
    number: u64,
}

impl Drop for OnCancel {
    fn drop(&mut self) {
        if let Some(token) = self.token.upgrade() {
            let call = token.lock().calls.remove(&self.number);
            // Dropped without the lock: it may own anything, a token too.
            drop(call);
        }
    }
}

impl std::fmt::Debug for OnCancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnCancel").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_child_is_cancelled_with_its_parent_and_not_the_other_way_round() {
        let parent = Cancel::new();
        let (one, two) = (parent.child(), parent.child());
        let grandchild = one.child();
        two.cancel();
        assert!(two.is_cancelled() && !parent.is_cancelled() && !one.is_cancelled());
        parent.cancel();
        assert_eq!(grandchild.check(), Err(Cancelled));
        assert!(parent.child().is_cancelled(), "born cancelled");
    }

    #[test]
    fn a_wait_ends_when_a_parent_is_cancelled() {
        let parent = Cancel::new();
        let child = parent.child();
        let (sender, waiting) = mpsc::channel();
        let waiter = thread::spawn(move || {
            sender.send(()).unwrap();
            child.wait(Duration::MAX)
        });
        waiting.recv().unwrap();
        parent.cancel();
        assert_eq!(waiter.join().unwrap(), Err(Cancelled));
        assert_eq!(Cancel::new().wait(Duration::from_millis(1)), Ok(()));
        assert_eq!(parent.wait(Duration::ZERO), Err(Cancelled));
    }

    #[test]
    fn calls_are_made_once_and_forgotten_with_their_guards() {
        let cancel = Cancel::new();
        let (sender, calls) = mpsc::channel();
        let call = |name| {
            let sender = sender.clone();
            move || sender.send(name).unwrap()
        };
        let _kept = cancel.child().on_cancel(call("of a token that is gone"));
        let child = cancel.child();
        let _of_child = child.on_cancel(call("of a child"));
        let _first = cancel.on_cancel(call("first"));
        drop(cancel.on_cancel(call("dropped")));
        cancel.cancel();
        cancel.cancel();
        let _late = cancel.on_cancel(call("late"));
        assert_eq!(calls.try_iter().collect::<Vec<_>>(), ["first", "of a child", "late"]);
    }

    #[test]
    fn a_call_may_use_the_token_and_drop_its_own_guard() {
        let cancel = Cancel::new();
        let guard = Arc::new(Mutex::new(None));
        let (own, held) = (cancel.clone(), guard.clone());
        *guard.lock().unwrap() = Some(cancel.on_cancel(move || {
            assert!(own.is_cancelled());
            drop(held.lock().unwrap().take());
        }));
        cancel.cancel();
        assert!(guard.lock().unwrap().is_none());
    }

    #[test]
    fn children_that_are_gone_take_no_memory() {
        let cancel = Cancel::new();
        for _ in 0..1000 {
            drop(cancel.child());
        }
        assert!(cancel.0.lock().children.len() <= 1);
    }

    #[test]
    fn it_is_found_in_whatever_carries_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read")]
        struct Outer(#[source] io::Error);
        assert!(is_cancelled(&Cancelled));
        assert!(is_cancelled(&Outer(Cancelled.into())));
        assert!(is_cancelled(&io::Error::other(Outer(io::Error::other(Outer(Cancelled.into()))))));
        assert!(!is_cancelled(&Outer(io::ErrorKind::Interrupted.into())));
    }
}
