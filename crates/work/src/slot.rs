//! A write-once cell that any number of threads may wait on.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Cancel, Cancelled};

/// A value that is set once, by whoever comes first, and seen by everyone.
#[derive(Debug, Default)]
pub struct Slot<T> {
    value: Mutex<Option<T>>,
    set: Condvar,
}

impl<T: Clone> Slot<T> {
    /// An empty slot.
    #[must_use]
    pub fn new() -> Self {
        Self { value: Mutex::new(None), set: Condvar::new() }
    }

    /// Sets the value unless one is there. Returns whether this call set it.
    pub fn set(&self, value: T) -> bool {
        let mut guard = self.lock();
        if guard.is_some() {
            return false;
        }
        *guard = Some(value);
        self.set.notify_all();
        true
    }

    /// The value, if it is there.
    pub fn get(&self) -> Option<T> {
        self.lock().clone()
    }

    /// Waits for the value. Any number of threads may wait, any number of times.
    pub fn wait(&self) -> T {
        let mut guard = self.lock();
        loop {
            if let Some(value) = &*guard {
                return value.clone();
            }
            guard = self.set.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the value up to a deadline; `None` when it has passed.
    pub fn wait_until(&self, deadline: Instant) -> Option<T> {
        let mut guard = self.lock();
        loop {
            if let Some(value) = &*guard {
                return Some(value.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return None;
            }
            guard = self.set.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the value up to a deadline, if there is one (`None` when it has passed), unless the wait is given up.
    ///
    /// # Errors
    /// [`Cancelled`] as soon as it is, and there is no value.
    pub fn wait_unless(
        self: &Arc<Self>,
        cancel: &Cancel,
        deadline: Option<Instant>,
    ) -> Result<Option<T>, Cancelled>
    where
        T: Send + 'static,
    {
        let slot = self.clone();
        // Under the lock, or it could come between a look at the token and the wait.
        let _guard = cancel.on_cancel(move || {
            let _value = slot.lock();
            slot.set.notify_all();
        });
        let mut guard = self.lock();
        loop {
            if let Some(value) = &*guard {
                return Ok(Some(value.clone()));
            }
            cancel.check()?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            guard = match left {
                Some(Duration::ZERO) => return Ok(None),
                Some(left) => self.set.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.set.wait(guard).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// A thread that panicked while it held the lock cannot have left half a value behind.
    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Barrier, mpsc};
    use std::thread;

    #[test]
    fn the_first_writer_wins_and_every_observer_sees_it() {
        const THREADS: usize = 8;
        let slot = Arc::new(Slot::new());
        let barrier = Arc::new(Barrier::new(THREADS * 2));
        let writers: Vec<_> = (0..THREADS)
            .map(|i| {
                let (slot, barrier) = (slot.clone(), barrier.clone());
                thread::spawn(move || {
                    barrier.wait();
                    slot.set(i).then_some(i)
                })
            })
            .collect();
        let readers: Vec<_> = (0..THREADS)
            .map(|_| {
                let (slot, barrier) = (slot.clone(), barrier.clone());
                thread::spawn(move || {
                    barrier.wait();
                    slot.wait()
                })
            })
            .collect();
        let winners: Vec<usize> = writers.into_iter().filter_map(|t| t.join().unwrap()).collect();
        assert_eq!(winners.len(), 1);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), winners[0]);
        }
        assert_eq!(slot.get(), Some(winners[0]));
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let slot: Slot<()> = Slot::new();
        assert_eq!(slot.wait_until(Instant::now()), None);
        slot.set(());
        assert_eq!(slot.wait_until(Instant::now()), Some(()));
    }

    #[test]
    fn a_wait_can_be_given_up_but_a_value_comes_first() {
        let (slot, cancel) = (Arc::new(Slot::<u8>::new()), Cancel::new());
        assert_eq!(slot.wait_unless(&cancel, Some(Instant::now())), Ok(None));
        let (sender, waiting) = mpsc::channel();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                sender.send(()).unwrap();
                slot.wait_unless(&cancel, None)
            });
            waiting.recv().unwrap();
            cancel.cancel();
            assert_eq!(waiter.join().unwrap(), Err(Cancelled));
        });
        slot.set(1);
        assert_eq!(slot.wait_unless(&cancel, None), Ok(Some(1)));
    }
}
