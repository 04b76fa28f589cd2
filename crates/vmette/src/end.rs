//! How sessions end, and the handle that ends them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmette_vmm::Machine;
use vmette_work::{Cancel, Slot};

/// How a session ended. The first cause wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// The command exited with this status; 128 + n when signal n killed it.
    Exited(i32),
    /// [`MachineOptions::timeout_seconds`](crate::MachineOptions::timeout_seconds) passed.
    TimedOut,
    /// It was stopped by [`SessionHandle::stop`](crate::SessionHandle::stop) or a [`StopHandle`].
    Stopped,
    /// The machine or the connection to it failed.
    Error(String),
}

impl SessionEnd {
    /// The exit status for it: the command's, 124 for a timeout, 0 for a stop, 1 for an error.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited(code) => *code,
            Self::TimedOut => 124,
            Self::Stopped => 0,
            Self::Error(_) => 1,
        }
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "its command exited with status {code}"),
            Self::TimedOut => f.write_str("its time limit passed"),
            Self::Stopped => f.write_str("it was stopped"),
            Self::Error(cause) => f.write_str(cause),
        }
    }
}

/// What a session and everything that may end it share.
pub(crate) struct Shared {
    end: Slot<SessionEnd>,
    /// Cancelled with the end: whatever the session waits for ends with it.
    cancel: Cancel,
    machine: Mutex<Option<Arc<dyn Machine>>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { end: Slot::new(), cancel: Cancel::new(), machine: Mutex::default() }
    }
}

impl Shared {
    /// Records the end, unless there was one, and stops the machine.
    pub(crate) fn finish(&self, end: SessionEnd) -> bool {
        let first = self.end.set(end);
        self.cancel.cancel();
        let machine = self.machine().clone();
        if let Some(machine) = machine {
            self.stop_machine(&machine);
        }
        first
    }

    /// Makes `machine` the one that an end stops. When the end has come already it is stopped here.
    pub(crate) fn attach(&self, machine: &Arc<dyn Machine>) {
        *self.machine() = Some(machine.clone());
        if self.end.get().is_some() {
            self.stop_machine(machine);
        }
    }

    /// Returns when it is gone, whoever was first to stop it.
    fn stop_machine(&self, machine: &Arc<dyn Machine>) {
        machine.stop();
        // Only now: whoever came meanwhile was to wait as well. A handle that lives on keeps no machine.
        self.machine().take_if(|attached| Arc::ptr_eq(attached, machine));
    }

    fn machine(&self) -> MutexGuard<'_, Option<Arc<dyn Machine>>> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ended(&self) -> Option<SessionEnd> {
        self.end.get()
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    pub(crate) fn wait(&self) -> SessionEnd {
        self.end.wait()
    }

    /// Returns the end if it comes within `limit`. A limit too long for `Instant` waits without one.
    pub(crate) fn wait_for(&self, limit: Duration) -> Option<SessionEnd> {
        match Instant::now().checked_add(limit) {
            Some(deadline) => self.end.wait_until(deadline),
            None => Some(self.end.wait()),
        }
    }

    /// Ends the session when `timeout` has passed since `start`.
    pub(crate) fn watch_timeout(self: &Arc<Self>, start: Instant, timeout: Duration) -> std::io::Result<()> {
        // Weak would not do: the thread waits on the slot. It ends with the session, which always ends when dropped.
        let shared = self.clone();
        std::thread::Builder::new().name("vmette-timeout".into()).spawn(move || {
            if shared.end.wait_until(start + timeout).is_none() {
                shared.finish(SessionEnd::TimedOut);
            }
        })?;
        Ok(())
    }
}

/// Stops a session from any thread, also while it starts: make one, hand it to
/// [`SessionBuilder::stop_handle`](crate::SessionBuilder::stop_handle), keep a clone.
#[derive(Clone, Default)]
pub struct StopHandle {
    pub(crate) shared: Arc<Shared>,
}

impl StopHandle {
    /// A handle for a session that is yet to be started.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the session as [`SessionEnd::Stopped`]; nothing happens when it has ended. Returns when the machine is
    /// gone.
    pub fn stop(&self) {
        self.shared.finish(SessionEnd::Stopped);
    }

    /// Waits up to `limit` for the session's end; `None` when it goes on.
    #[must_use]
    pub fn wait_end(&self, limit: Duration) -> Option<SessionEnd> {
        self.shared.wait_for(limit)
    }
}

impl std::fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StopHandle").field("ended", &self.shared.ended()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::thread;
    use vmette_vmm::{
        ControlStream, Device, DeviceId, MachineEnd, Result, SavedState, VsockListener, VsockStream,
    };

    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Stopping,
        Returned,
    }

    /// A machine that is stopped and not gone before it is let go.
    struct Slow {
        seen: Mutex<Sender<Seen>>,
        go: Mutex<Receiver<()>>,
        gone: Arc<Slot<MachineEnd>>,
    }

    impl Machine for Slow {
        fn start(&self) -> Result<ControlStream> {
            unreachable!()
        }

        fn pause(&self) -> Result<()> {
            unreachable!()
        }

        fn resume(&self) -> Result<()> {
            unreachable!()
        }

        fn save(&self, _folder: &Path) -> Result<SavedState> {
            unreachable!()
        }

        fn attach(&self, _device: Device) -> Result<DeviceId> {
            unreachable!()
        }

        fn detach(&self, _id: &DeviceId) -> Result<()> {
            unreachable!()
        }

        fn vsock_listen(&self, _port: u32) -> Result<VsockListener> {
            unreachable!()
        }

        fn vsock_connect(&self, _port: u32) -> Result<VsockStream> {
            unreachable!()
        }

        fn stop(&self) {
            self.seen.lock().unwrap().send(Seen::Stopping).unwrap();
            if self.gone.get().is_none() {
                self.go.lock().unwrap().recv().unwrap();
                self.gone.set(MachineEnd::Stopped);
            }
        }

        fn end(&self) -> Arc<Slot<MachineEnd>> {
            self.gone.clone()
        }

        fn processes(&self) -> Vec<u32> {
            Vec::new()
        }
    }

    #[test]
    fn whoever_stops_a_session_second_waits_for_its_machine_too() {
        let (sender, seen) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        let slow =
            Slow { seen: Mutex::new(sender.clone()), go: Mutex::new(gate), gone: Arc::new(Slot::new()) };
        let machine: Arc<dyn Machine> = Arc::new(slow);
        let handle = StopHandle::new();
        handle.shared.attach(&machine);
        let stopping = || {
            let (handle, sender) = (handle.clone(), sender.clone());
            thread::spawn(move || {
                handle.stop();
                sender.send(Seen::Returned).unwrap();
            })
        };
        let first = stopping();
        assert_eq!(seen.recv().unwrap(), Seen::Stopping);
        let second = stopping();
        assert_eq!(seen.recv().unwrap(), Seen::Stopping, "the machine is not gone yet");
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!(Arc::strong_count(&machine), 1, "a handle keeps no machine");
    }
}
