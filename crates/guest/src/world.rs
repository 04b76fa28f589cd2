//! The difference between an agent in a machine and one in a thread of the test suite.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::process::Pid;
use vmette_wire::devices::DeviceError;
use vmette_wire::handshake::{ENTROPY_LEN, HelloError};
use vmette_wire::root::{Attach, Detach, ROOTS_MAX, RootError};
use vmette_wire::streams::FailureKind;
use vmette_wire::{Boot, Hello, Root, RootName};

/// The agent's surroundings: a machine of its own ([`crate::Vm`]), or a thread of the host ([`crate::Hosted`]). All
/// requests have been checked by the rules of the protocol.
pub trait World {
    /// Makes the machine the one that `hello` describes.
    ///
    /// # Errors
    /// [`WorldError`] names the step that failed.
    fn hello(&mut self, hello: &Hello, entropy: &[u8; ENTROPY_LEN]) -> Result<(), WorldError>;

    /// Sets the machine's clock to that many nanoseconds since 1970, UTC.
    ///
    /// # Errors
    /// The kernel's.
    fn set_clock(&mut self, realtime_ns: u64) -> Result<(), WorldError>;

    /// Stops the processes of all workloads, as they are, until [`World::thaw`].
    ///
    /// # Errors
    /// The kernel's, or it cannot.
    fn freeze(&mut self) -> Result<(), WorldError>;

    /// Lets the processes of all workloads go on; nothing happens when they run.
    ///
    /// # Errors
    /// The kernel's.
    fn thaw(&mut self) -> Result<(), WorldError>;

    /// Begins to set up what all roots share.
    ///
    /// # Errors
    /// [`WorldError`]: set up before, or no process for it.
    fn boot(&mut self, boot: &Boot) -> Result<Changing, WorldError>;

    /// Begins to make a root.
    ///
    /// # Errors
    /// [`WorldError`]: not set up yet, too many roots, a name that another one has, or no process for it.
    fn make_root(&mut self, root: &Root, ca_bundle: &[u8]) -> Result<Changing, WorldError>;

    /// Begins to mount shares in a root, to wait for vsock, and to make it trust certificates unless there are none.
    ///
    /// # Errors
    /// [`WorldError`]: no process for it, or no such root.
    fn attach(&mut self, attach: &Attach, ca_bundle: &[u8]) -> Result<Changing, WorldError>;

    /// Begins to unmount shares of a root, the last one first.
    ///
    /// # Errors
    /// See [`World::attach`].
    fn detach(&mut self, detach: &Detach) -> Result<Changing, WorldError>;

    /// Takes the report of a change that was [`Changing::Pending`], once it is readable.
    ///
    /// # Errors
    /// [`WorldError`] with the words of the process that worked on it.
    fn finish(&mut self, report: OwnedFd) -> Result<(), WorldError>;

    /// The surroundings of a root's commands and files.
    ///
    /// # Errors
    /// [`WorldError`]: there is no such place (yet, or any more).
    fn place(&self, root: &RootName, purpose: Purpose) -> Result<Place<'_>, WorldError>;

    /// Notes the process that is to be PID 1 of a root: its id in the agent's namespace, and its descriptor.
    fn init_started(&mut self, root: &RootName, pid: Pid, pidfd: BorrowedFd<'_>);

    /// Begins to write dirty data out. The descriptor is a pidfd of a child to reap; `None`: it is done.
    ///
    /// # Errors
    /// No process for it.
    fn sync(&mut self) -> io::Result<Option<OwnedFd>>;

    /// `true` if a host that goes away may come back on the same stream.
    fn reconnects(&self) -> bool;

    /// A descriptor that becomes readable when another host is there, if one may come that way. It takes the place of the
    /// last one.
    fn listener(&self) -> Option<BorrowedFd<'_>>;

    /// Takes the host that has come through [`World::listener`], if it is one.
    ///
    /// # Errors
    /// The kernel's.
    fn accept(&mut self) -> io::Result<Option<OwnedFd>>;
}

/// State of a change.
#[derive(Debug)]
pub enum Changing {
    /// It is done.
    Done,
    /// A child works on it; the descriptor becomes readable when it has finished.
    Pending(OwnedFd),
}

/// Use of a [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Reading and writing files.
    Files,
    /// An ordinary command.
    Command,
    /// The command that becomes the root's PID 1.
    Init,
}

/// The surroundings of commands and files.
#[derive(Debug)]
pub struct Place<'a> {
    /// The root directory.
    pub root: BorrowedFd<'a>,
    /// The mount namespace that commands enter; `None`: the agent's own.
    pub mount_ns: Option<BorrowedFd<'a>>,
    /// The PID namespace that commands are born in, or, for an init command, above its own; `None`: the agent's own.
    pub pid_ns: Option<BorrowedFd<'a>>,
    /// The control group that commands join, by its `cgroup.procs`; `None`: they stay in the agent's.
    pub group: Option<BorrowedFd<'a>>,
    /// Directory for commands too long for an argument, as seen from `root`.
    pub scripts: &'a str,
    /// The same directory as commands see it.
    pub scripts_seen: &'a str,
    /// Environment every command starts with, `KEY=VALUE`.
    pub env: &'a [String],
    /// Soft limit of open descriptors that commands get; `None`: the agent's.
    pub descriptor_limit: Option<u64>,
    /// The agent is protected from the out-of-memory killer, and commands must not inherit that.
    pub oom_protected: bool,
}

/// The reason for which the world does not do what a request asks.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A wrong greeting.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// A wrong description of a root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A device that cannot be.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// There is no such root.
    #[error("there is no root {0} yet: make it first")]
    NoRoot(RootName),
    /// A name that is taken.
    #[error("there is a root {0} already")]
    RootTwice(RootName),
    /// Another root would be one too many.
    #[error("the machine has {ROOTS_MAX} roots, which is the most")]
    TooManyRoots,
    /// A request came before the one it builds on, or twice.
    #[error("{0}")]
    Order(&'static str),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// The operation and its object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process that worked on a change has failed.
    #[error("{0}")]
    Failed(String),
}

/// A second `boot`.
pub(crate) const BOOTED: WorldError = WorldError::Order("the machine is set up already: boot comes once");

/// A root before `boot`.
pub(crate) const NOT_BOOTED: WorldError = WorldError::Order("boot comes before a root");

/// An init command in a root that has a PID 1 of the agent's.
pub(crate) const NO_INIT: WorldError =
    WorldError::Order("an init command needs a root that was made with switch_root");

/// A second init command.
pub(crate) const INIT_TWICE: WorldError =
    WorldError::Order("the root's PID 1 was started already: init comes once");

impl WorldError {
    /// For `map_err`: wraps an I/O error with the operation.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
    }

    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Io { .. } | Self::Failed(_) => FailureKind::Other,
            Self::Hello(_)
            | Self::Root(_)
            | Self::Device(_)
            | Self::NoRoot(_)
            | Self::RootTwice(_)
            | Self::TooManyRoots
            | Self::Order(_) => FailureKind::Invalid,
        }
    }
}

/// Checks that there is room for another root of that name.
pub(crate) fn check_room<'a>(
    mut roots: impl ExactSizeIterator<Item = &'a RootName>,
    name: &RootName,
) -> Result<(), WorldError> {
    if roots.len() >= ROOTS_MAX {
        return Err(WorldError::TooManyRoots);
    }
    if roots.any(|known| known == name) { Err(WorldError::RootTwice(name.clone())) } else { Ok(()) }
}
