//! The descriptors that the agent and its streams wait for.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::StreamError;

/// Events taken from the kernel at once.
const BATCH: usize = 64;

/// The owner of the agent's own descriptors; streams have other numbers.
pub(crate) const AGENT: u32 = 0;

/// One of the descriptors of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The agent's stream to the host.
    Port,
    /// The place where another host may connect.
    Listener,
    /// The report of a change of the machine or of a root.
    Change,
    /// The report of a process on its way to its program.
    Start,
    /// A command's input.
    Input,
    /// A command's output.
    Output,
    /// A command's error output.
    Errors,
    /// The end of a process.
    End,
}

const ROLES: [Role; 8] = [
    Role::Port,
    Role::Listener,
    Role::Change,
    Role::Start,
    Role::Input,
    Role::Output,
    Role::Errors,
    Role::End,
];

/// The right to watch descriptors for one owner.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    poll: &'a Poll,
    owner: u32,
}

impl Watch<'_> {
    /// Tells the owner when `fd` can be read.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn readable(self, fd: BorrowedFd<'_>, role: Role) -> io::Result<()> {
        self.add(fd, role, EventFlags::IN | EventFlags::RDHUP)
    }

    /// Tells the owner when `fd` can be written to.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn writable(self, fd: BorrowedFd<'_>, role: Role) -> io::Result<()> {
        self.add(fd, role, EventFlags::OUT)
    }

    /// Tells the owner of both.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn both(self, fd: BorrowedFd<'_>, role: Role) -> io::Result<()> {
        self.add(fd, role, EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP)
    }

    fn add(self, fd: BorrowedFd<'_>, role: Role, flags: EventFlags) -> io::Result<()> {
        let token = (u64::from(self.owner) << 32) | role as u64;
        Ok(epoll::add(&self.poll.epoll, fd, EventData::new_u64(token), flags | EventFlags::ET)?)
    }
}

/// The `epoll` instance. All descriptors are watched edge-triggered; closing one ends its watch.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> Result<Self, StreamError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        Ok(Self { epoll, events: Vec::with_capacity(BATCH) })
    }

    /// For descriptors of that owner.
    pub(crate) fn watch(&self, owner: u32) -> Watch<'_> {
        Watch { poll: self, owner }
    }

    /// Waits for events until `deadline`; `now`: only takes those that are there. Returns them with their owners.
    pub(crate) fn wait(
        &mut self,
        now: bool,
        deadline: Option<Instant>,
    ) -> Result<Vec<(u32, Role)>, StreamError> {
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

fn decode(token: u64) -> Option<(u32, Role)> {
    let role = ROLES.get(usize::try_from(token & u64::from(u32::MAX)).ok()?)?;
    Some((u32::try_from(token >> 32).ok()?, *role))
}

fn failed(errno: Errno) -> StreamError {
    StreamError::Poll(io::Error::from(errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_event_comes_back_with_its_owner_and_its_role() {
        let mut poll = Poll::new().unwrap();
        let mut pairs = Vec::new();
        for (owner, role) in [AGENT, 1, u32::MAX].into_iter().flat_map(|o| ROLES.map(|role| (o, role))) {
            let (mut here, there) = UnixStream::pair().unwrap();
            poll.watch(owner).readable(there.as_fd(), role).unwrap();
            here.write_all(b"x").unwrap();
            assert_eq!(poll.wait(true, None).unwrap(), [(owner, role)]);
            pairs.push((here, there));
        }
        assert_eq!(poll.wait(true, None).unwrap(), []);
        assert_eq!(decode(u64::MAX), None);
    }
}
