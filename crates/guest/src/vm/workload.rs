//! A root as it was built, and the processes in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vmette_wire::Root;
use vmette_wire::streams::ExitStatus;

use crate::child;
use crate::freezer::Groups;
use crate::root::etc::{self, Files, Identity};
use crate::sys::{self, Forked, Namespaces};
use crate::world::{INIT_TWICE, NO_INIT, Purpose, WorldError};

/// A command in a root whose PID 1 has ended.
const INIT_ENDED: WorldError = WorldError::Order("the root's PID 1 has ended, and its processes with it");

#[derive(Debug)]
pub(super) struct Workload {
    pub(super) root: OwnedFd,
    pub(super) mount_ns: OwnedFd,
    /// Environment of its commands.
    pub(super) env: Vec<String>,
    pub(super) read_only: bool,
    /// Its control groups, in a machine that may be saved.
    pub(super) groups: Option<Groups>,
    init: Init,
}

/// PID 1 of the root's namespace.
#[derive(Debug)]
enum Init {
    /// A process of ours that reaps.
    Ours { pid_ns: OwnedFd },
    /// Nobody, until a command is to be it.
    Awaited,
    /// A command, by its descriptor.
    Command { pid_ns: OwnedFd, pidfd: OwnedFd },
    /// Nobody any more.
    Ended,
}

impl Workload {
    /// Takes hold of the root that `child` has built.
    pub(super) fn of(
        child: &Forked,
        root: &Root,
        groups: Option<Groups>,
        env: Vec<String>,
    ) -> Result<Self, WorldError> {
        let init = if root.switch_root {
            Init::Awaited
        } else {
            Init::Ours { pid_ns: entry(child.pid, "ns/pid", OFlags::RDONLY)? }
        };
        Ok(Self {
            root: entry(child.pid, "root", OFlags::PATH | OFlags::DIRECTORY)?,
            mount_ns: entry(child.pid, "ns/mnt", OFlags::RDONLY)?,
            env,
            read_only: root.is_read_only(),
            groups,
            init,
        })
    }

    /// The PID namespace for a process of that purpose; `None`: the agent's own.
    pub(super) fn pid_ns(&self, purpose: Purpose) -> Result<Option<BorrowedFd<'_>>, WorldError> {
        match (purpose, &self.init) {
            (Purpose::Files, _) | (Purpose::Init, Init::Awaited) => Ok(None),
            (Purpose::Command, Init::Ours { pid_ns }) => Ok(Some(pid_ns.as_fd())),
            (Purpose::Command, Init::Command { pid_ns, pidfd }) if !has_ended(pidfd) => {
                Ok(Some(pid_ns.as_fd()))
            }
            (Purpose::Command, Init::Awaited) => {
                Err(WorldError::Order("the root has no PID 1 yet: the init command comes first"))
            }
            (Purpose::Command, Init::Command { .. } | Init::Ended) => Err(INIT_ENDED),
            (Purpose::Init, Init::Ours { .. }) => Err(NO_INIT),
            (Purpose::Init, Init::Command { .. } | Init::Ended) => Err(INIT_TWICE),
        }
    }

    /// Notes the command that is PID 1.
    pub(super) fn init_started(&mut self, pid: Pid, pidfd: BorrowedFd<'_>) {
        let init = entry(pid, "ns/pid", OFlags::RDONLY)
            .ok()
            .zip(pidfd.try_clone_to_owned().ok())
            .map(|(pid_ns, pidfd)| Init::Command { pid_ns, pidfd });
        // Fails when it has ended already, and then there is no namespace for other commands.
        self.init = init.unwrap_or(Init::Ended);
    }

    /// Writes the machine's names into the root's files. A mount over a file of a read-only root can only be made from
    /// inside of its namespace.
    pub(super) fn rename(
        &self,
        identity: &Identity,
        fork: impl FnOnce(Namespaces) -> io::Result<Option<Forked>>,
    ) -> io::Result<()> {
        if !self.read_only {
            return etc::write_identity(&Files::below(self.root.try_clone()?), identity);
        }
        let Some(child) = fork(Namespaces::Same)? else {
            let namespace = LinkNameSpaceType::Mount;
            let done = move_into_link_name_space(self.mount_ns.as_fd(), Some(namespace))
                .map_err(io::Error::from)
                .and_then(|()| Files::of_own_root(true))
                .and_then(|files| etc::write_identity(&files, identity));
            sys::exit_now(i32::from(done.is_err()));
        };
        match child::reap(child.pidfd.as_fd())? {
            ExitStatus::Code(0) => Ok(()),
            _ => Err(io::Error::other("the workload's /etc cannot be written")),
        }
    }
}

/// Finds out whether a process has ended, its status taken or not.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // On an error the start of the next command says what is the matter.
    matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(ready) if ready > 0)
}

/// An entry of a process in `/proc`.
fn entry(pid: Pid, name: &str, flags: OFlags) -> Result<OwnedFd, WorldError> {
    let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
    open(&path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(WorldError::io(format!("open {path}")))
}
