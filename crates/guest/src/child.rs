//! A process of the agent, with the session it leads: killed and reaped by its guard.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use vmette_wire::agent::ExitStatus;

use crate::sys::{self, Spawned};

/// `SIGKILL`, the same number on every architecture.
const SIGKILL: i32 = 9;

/// A process that leads its own session and process group.
#[derive(Debug)]
pub(crate) struct Child {
    spawned: Spawned,
    /// Until then its id cannot be given to another process.
    reaped: bool,
}

impl Child {
    pub(crate) fn new(spawned: Spawned) -> Self {
        Self { spawned, reaped: false }
    }

    /// Its id as the workload sees it.
    pub(crate) fn inner_pid(&self) -> u32 {
        self.spawned.inner_pid
    }

    pub(crate) fn pid(&self) -> Pid {
        self.spawned.pid
    }

    /// Readable once the process has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.spawned.pidfd.as_fd()
    }

    /// How it ended, once it has; `None` while it runs and after the status was taken.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.reaped {
            return Ok(None);
        }
        let status = self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
        self.reaped |= status.is_some();
        Ok(status)
    }

    /// Signals the process group, unless the process has been reaped: its id may be someone else's by then.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        if self.reaped { Ok(()) } else { sys::signal_group(self.spawned.pid, signal) }
    }

    /// Kills the process group.
    pub(crate) fn kill(&self) {
        // Fails only when the group has ended by itself.
        let _ = self.signal(SIGKILL);
    }

    fn wait(&self, options: WaitIdOptions) -> io::Result<Option<ExitStatus>> {
        Ok(waitid(WaitId::PidFd(self.pidfd()), options)?.as_ref().map(status_of))
    }
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

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // A failure would mean that it is not our child any more; there is nothing to reap then.
            let _ = self.wait(WaitIdOptions::EXITED);
        }
    }
}
