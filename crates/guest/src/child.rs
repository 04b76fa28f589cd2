//! Processes of the agent, killed and reaped by their guards.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use vmette_wire::streams::ExitStatus;

use crate::sys::{self, Forked};

/// `SIGKILL`, the same number on every architecture.
const SIGKILL: i32 = 9;

/// Longest wait for the end of all processes that were killed. A workload can put a process's end off as long as it likes:
/// by tracing it, or with a file system of its own that does not answer it.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

thread_local! {
    /// Processes that had not ended when their guard was dropped: nobody waits for them.
    static DYING: RefCell<Vec<Rc<OwnedFd>>> = const { RefCell::new(Vec::new()) };
}

/// A process whose status is taken once. One that is dropped before ends by itself, and is reaped then.
#[derive(Debug)]
pub(crate) struct Helper {
    pidfd: Rc<OwnedFd>,
    /// Until then its id cannot be given to another process.
    reaped: bool,
}

impl Helper {
    pub(crate) fn new(pidfd: OwnedFd) -> Self {
        Self { pidfd: Rc::new(pidfd), reaped: false }
    }

    /// The status, once it has ended; `None` while it runs and after the status was taken.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.reaped {
            return Ok(None);
        }
        let status = try_reap(self.pidfd.as_fd())?;
        self.reaped |= status.is_some();
        Ok(status)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if !self.reaped {
            DYING.with_borrow_mut(|dying| dying.push(self.pidfd.clone()));
        }
    }
}

/// A process that leads its own session and process group, or is about to. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    process: Helper,
}

impl Child {
    pub(crate) fn new(forked: Forked) -> Self {
        Self { pid: forked.pid, process: Helper::new(forked.pidfd) }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable once the process has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    /// See [`Helper::try_wait`].
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// `true` once its status was taken.
    pub(crate) fn has_ended(&self) -> bool {
        self.process.reaped
    }

    /// Signals the process group, unless the process has been reaped: its id may be someone else's by then.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        if self.process.reaped {
            return Ok(());
        }
        match sys::signal_group(self.pid, signal) {
            // It is not the leader of one yet, and so has none besides itself.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => sys::signal_process(self.pidfd(), signal),
            sent => sent,
        }
    }

    /// Kills the process group.
    pub(crate) fn kill(&self) {
        // Fails only when the group has ended by itself.
        let _ = self.signal(SIGKILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reaps those of the dying that have ended, and returns the number of the others. The end of one is an event of its
/// descriptor, as it was before.
pub(crate) fn reap_killed() -> usize {
    DYING.with_borrow_mut(|dying| {
        // A failure would mean that it is not our child any more; there is nothing to reap then.
        dying.retain(|pidfd| matches!(try_reap(pidfd.as_fd()), Ok(None)));
        dying.len()
    })
}

/// Waits until all of the dying have ended, up to [`SETTLE_LIMIT`].
pub(crate) fn settle() {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let pidfds = DYING.with_borrow(Vec::clone);
    for pidfd in pidfds {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
            tv_nsec: left.subsec_nanos().into(),
        };
        // Whatever the outcome: it is looked at below.
        let _ = poll(&mut [PollFd::new(&*pidfd, PollFlags::IN)], Some(&left));
    }
    reap_killed();
}

/// Waits for a child that has ended, or is about to, and takes its status.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<ExitStatus> {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)?;
    status.as_ref().map(status_of).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Takes the status of a child if it has ended.
pub(crate) fn try_reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(status.as_ref().map(status_of))
}

fn status_of(status: &WaitIdStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, signal) => ExitStatus::Signal(signal.unwrap_or(SIGKILL)),
    }
}
