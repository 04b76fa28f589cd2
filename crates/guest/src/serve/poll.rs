//! What the agent waits for.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::ServeError;

/// Events taken from the kernel at once.
const BATCH: usize = 64;

/// Which descriptor of a request, or of the agent itself, an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The stream to the host.
    Port,
    /// Another host.
    Listener,
    /// The report of a boot under way.
    Boot,
    /// The report of a process on its way to its program, of whatever kind of request.
    Start,
    /// A command's input.
    Stdin,
    /// A command's output.
    Stdout,
    /// A command's error output.
    Stderr,
    /// A command's end.
    Exit,
    /// The output of an action.
    JobOutput,
    /// The end of an action's command.
    JobExit,
    /// The end of a command that nobody waits for; its number is the process id.
    Background,
    /// The end of a `sync`.
    Sync,
}

const ROLES: [Role; 12] = [
    Role::Port,
    Role::Listener,
    Role::Boot,
    Role::Start,
    Role::Stdin,
    Role::Stdout,
    Role::Stderr,
    Role::Exit,
    Role::JobOutput,
    Role::JobExit,
    Role::Background,
    Role::Sync,
];

/// The `epoll` instance. All descriptors are watched edge-triggered; closing one ends its watch.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> Result<Self, ServeError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        Ok(Self { epoll, events: Vec::with_capacity(BATCH) })
    }

    pub(crate) fn readable(&self, fd: BorrowedFd<'_>, role: Role, id: u32) -> Result<(), ServeError> {
        self.watch(fd, role, id, EventFlags::IN | EventFlags::RDHUP)
    }

    pub(crate) fn writable(&self, fd: BorrowedFd<'_>, role: Role, id: u32) -> Result<(), ServeError> {
        self.watch(fd, role, id, EventFlags::OUT)
    }

    pub(crate) fn both(&self, fd: BorrowedFd<'_>, role: Role, id: u32) -> Result<(), ServeError> {
        self.watch(fd, role, id, EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP)
    }

    fn watch(&self, fd: BorrowedFd<'_>, role: Role, id: u32, flags: EventFlags) -> Result<(), ServeError> {
        let token = ((role as u64) << 32) | u64::from(id);
        epoll::add(&self.epoll, fd, EventData::new_u64(token), flags | EventFlags::ET).map_err(failed)
    }

    /// Waits for events until `deadline`; `now`: only takes those that are there.
    pub(crate) fn wait(
        &mut self,
        now: bool,
        deadline: Option<Instant>,
    ) -> Result<Vec<(Role, u32)>, ServeError> {
        let limit = if now {
            Some(Duration::ZERO)
        } else {
            deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
        };
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
        Ok(self.events.iter().filter_map(|event| decode(event.data.u64())).collect())
    }
}

fn decode(token: u64) -> Option<(Role, u32)> {
    let role = ROLES.get(usize::try_from(token >> 32).ok()?)?;
    Some((*role, u32::try_from(token & u64::from(u32::MAX)).ok()?))
}

fn failed(errno: Errno) -> ServeError {
    ServeError::Poll(io::Error::from(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_what_they_were() {
        for role in ROLES {
            assert_eq!(decode(((role as u64) << 32) | u64::from(u32::MAX)), Some((role, u32::MAX)));
        }
        assert_eq!(decode(u64::MAX), None);
    }
}
