//! A machine's serial dispatch queue, and what may be touched on it only.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use dispatch2::{DispatchQueue, DispatchRetained};
use objc2::rc::autoreleasepool;
use vmette_vmm::Slot;

/// A serial queue.
#[derive(Clone)]
pub(crate) struct Queue(DispatchRetained<DispatchQueue>);

impl Queue {
    pub(crate) fn new(label: &str) -> Self {
        Self(DispatchQueue::new(label, None))
    }

    pub(crate) fn raw(&self) -> &DispatchQueue {
        &self.0
    }

    /// Runs `work` after all that was put there before, and returns at once.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) {
        // VZ autoreleases much of what it returns, and a machine's last reference must not wait for another pool.
        self.0.exec_async(move || autoreleasepool(|_| work()));
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
    /// Makes the value on the queue. `None`: the queue did not come to it in time; the value is dropped when it does.
    pub(crate) fn new<E>(
        queue: Queue,
        limit: Duration,
        make: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Option<Result<Self, E>>
    where
        E: Send + 'static,
    {
        let confined = Self { queue, cell: Arc::new(Cell(UnsafeCell::new(None))) };
        let (done, made) = sync_channel(1);
        let cell = confined.cell.clone();
        confined.queue.run(move || {
            let result = make().map(|value| {
                // SAFETY: on the queue, where nothing else borrows the value while this runs.
                unsafe { *cell.0.get() = Some(value) };
            });
            // Who has waited for too long drops the value after this.
            drop(done.try_send(result));
        });
        made.recv_timeout(limit).ok().map(|result| result.map(|()| confined))
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
