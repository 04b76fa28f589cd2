//! A machine's serial dispatch queue, and what may be touched on it only.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use dispatch2::{DispatchQueue, DispatchRetained};
use objc2::rc::autoreleasepool;
use vmette_vmm::{Error, MachineEnd, Result, Slot};

use crate::exception::caught;

/// A serial queue.
#[derive(Clone)]
pub(crate) struct Queue {
    queue: DispatchRetained<DispatchQueue>,
    /// Told when something was thrown on the queue: nobody knows then what state the machine is in.
    verdict: Arc<Slot<MachineEnd>>,
}

impl Queue {
    pub(crate) fn new(label: &str, verdict: Arc<Slot<MachineEnd>>) -> Self {
        Self { queue: DispatchQueue::new(label, None), verdict }
    }

    pub(crate) fn raw(&self) -> &DispatchQueue {
        &self.queue
    }

    /// Runs `work` after all that was put there before, and returns at once.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) {
        let verdict = self.verdict.clone();
        self.queue.exec_async(move || {
            // VZ autoreleases much of what it returns, and a machine's last reference must not wait for another pool.
            if let Err(thrown) = caught(|| autoreleasepool(|_| work())) {
                verdict.set(MachineEnd::Failed(format!("the machine failed: {thrown}")));
            }
        });
    }
}

/// A value that lives, is used and dies on one queue.
pub(crate) struct Confined<T: 'static> {
    queue: Queue,
    cell: Arc<Cell<T>>,
}

struct Cell<T>(UnsafeCell<Option<T>>);

// SAFETY: the value is created, borrowed and dropped by closures on one serial queue, never two at a time: `Confined`
// is the only one that has the cell, and it looks into it nowhere else. What is left to drop elsewhere is `None`.
unsafe impl<T> Send for Cell<T> {}
// SAFETY: as for `Send`.
unsafe impl<T> Sync for Cell<T> {}

impl<T: 'static> Confined<T> {
    /// Makes the value on the queue. When the queue does not come to it in time, the value is dropped when it does.
    pub(crate) fn new(
        queue: Queue,
        limit: Duration,
        make: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        let confined = Self { queue, cell: Arc::new(Cell(UnsafeCell::new(None))) };
        let (done, made) = sync_channel(1);
        let cell = confined.cell.clone();
        confined.queue.run(move || {
            let result = make().map(|value| {
                // SAFETY: on the queue, where nothing else borrows the value while this runs.
                unsafe { *cell.0.get() = Some(value) };
            });
            // Fails when the waiter has given up; the value is dropped then.
            drop(done.try_send(result));
        });
        match made.recv_timeout(limit) {
            Ok(result) => result.map(|()| confined),
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::Timeout { operation: "making a machine", seconds: limit.as_secs() })
            }
            // Thrown, and told a moment later.
            Err(RecvTimeoutError::Disconnected) => {
                let told = confined.queue.verdict.wait_until(Instant::now() + limit);
                Err(Error::Machine(match told {
                    Some(MachineEnd::Failed(cause)) => cause,
                    _ => "the machine could not be made".into(),
                }))
            }
        }
    }

    /// Lets `work` have the value, on the queue; returns at once. Nothing happens once it was dropped.
    pub(crate) fn with(&self, work: impl FnOnce(&mut T) + Send + 'static) {
        let cell = self.cell.clone();
        self.queue.run(move || {
            // SAFETY: on the queue, where nothing else borrows the value while this runs: `work` cannot put anything
            // there that runs before it has returned.
            if let Some(value) = unsafe { &mut *cell.0.get() } {
                work(value);
            }
        });
    }

    /// Drops the value, on the queue, and waits for that; `false` when it takes longer.
    pub(crate) fn close(&self, limit: Duration) -> bool {
        let (cell, closed) = (self.cell.clone(), Arc::new(Slot::new()));
        let done = closed.clone();
        self.queue.run(move || {
            // SAFETY: on the queue, where nothing else borrows the value while this runs.
            drop(unsafe { (*cell.0.get()).take() });
            done.set(());
        });
        closed.wait_until(Instant::now() + limit).is_some()
    }
}

impl<T: 'static> Drop for Confined<T> {
    fn drop(&mut self) {
        let cell = self.cell.clone();
        self.queue.run(move || {
            // SAFETY: on the queue, where nothing else borrows the value while this runs.
            drop(unsafe { (*cell.0.get()).take() });
        });
    }
}

#[cfg(all(test, not(target_vendor = "apple")))]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_panic_on_the_queue_is_the_machines_end_and_not_the_programs() {
        let verdict = Arc::new(Slot::new());
        let queue = Queue::new("test", verdict.clone());
        let confined = Confined::new(queue.clone(), LIMIT, || Ok(7)).unwrap();
        confined.with(|value| panic!("it was {value}"));
        let end = verdict.wait_until(Instant::now() + LIMIT);
        assert_eq!(end, Some(MachineEnd::Failed("the machine failed: internal error: it was 7".into())));
        assert!(confined.close(LIMIT), "the queue goes on");
        let failed = Confined::new(queue, LIMIT, || -> Result<()> { panic!("again") });
        assert!(matches!(failed, Err(Error::Machine(_))));
    }
}
