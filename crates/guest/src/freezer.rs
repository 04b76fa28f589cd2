//! The processes of all workloads as one control group, which the kernel stops and lets go as a whole. In it each root has
//! groups of its own.
//!
//! A machine that is saved is started from many times, and each copy needs randomness and a clock of its own before any of
//! its processes asks for them. They are therefore frozen when it is saved, and none sees that: no signal, and no change of
//! state for whoever waits for them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::log;

/// The place of the groups, out of the workloads' sight.
const HIERARCHY: &str = "/cgroup";

/// The group that is frozen. It has no processes itself, only the roots' groups, each with the two below.
const WORKLOADS: &str = "workload";

/// A root's PID 1 when that is a command: a group of its own, which it may divide as it likes.
const INIT: &str = "init";

/// All other commands of a root.
const COMMANDS: &str = "commands";

/// How long the last process may take to be frozen. One that is in the middle of a system call which cannot be
/// interrupted comes to a stop at its end, before it executes another instruction of its own: nothing is lost by not
/// waiting for it.
const FREEZE_LIMIT: Duration = Duration::from_secs(1);

/// The line of `cgroup.events` that says that nothing runs any more.
const FROZEN: &str = "frozen 1";

/// Longest `cgroup.events` that is read.
const EVENTS_MAX: usize = 1 << 10;

/// The group of all workloads. Nothing in it runs while it is frozen, later members included.
#[derive(Debug)]
pub(crate) struct Freezer {
    freeze: File,
    events: File,
}

/// The groups of one root, by their `cgroup.procs`.
#[derive(Debug)]
pub(crate) struct Groups {
    init: File,
    commands: File,
}

impl Groups {
    /// The file by which a process becomes a member.
    pub(crate) fn members(&self, init: bool) -> BorrowedFd<'_> {
        if init { self.init.as_fd() } else { self.commands.as_fd() }
    }
}

impl Freezer {
    /// Makes the group.
    ///
    /// # Errors
    /// The kernel's; `ENODEV` when it has no control groups.
    pub(crate) fn make() -> io::Result<Self> {
        mount_hierarchy()?;
        let workloads = Path::new(HIERARCHY).join(WORKLOADS);
        fs::create_dir_all(&workloads)?;
        Ok(Self {
            freeze: File::options().write(true).open(workloads.join("cgroup.freeze"))?,
            events: File::open(workloads.join("cgroup.events"))?,
        })
    }

    /// Makes the groups of a root.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn groups(&self, root: &str) -> io::Result<Groups> {
        let members = |name: &str| {
            let group = Path::new(HIERARCHY).join(WORKLOADS).join(root).join(name);
            fs::create_dir_all(&group)?;
            File::options().write(true).open(group.join("cgroup.procs"))
        };
        Ok(Groups { init: members(INIT)?, commands: members(COMMANDS)? })
    }

    /// Hands the machine's controllers to the groups of a root, so that a PID 1 can limit what it starts. Not before there is one: a
    /// controller that is in use here is missing for older programs with a hierarchy of their own.
    ///
    /// # Errors
    /// The kernel's, when the controllers cannot be listed.
    pub(crate) fn delegate(&self, root: &str) -> io::Result<()> {
        let top = Path::new(HIERARCHY);
        let workloads = top.join(WORKLOADS);
        for controller in fs::read_to_string(top.join("cgroup.controllers"))?.split_whitespace() {
            for group in [top, &workloads, &workloads.join(root)] {
                let enabled = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
                if let Err(e) = enabled {
                    log::note(format_args!("control groups without {controller}: {e}"));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Stops everything.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        let deadline = Instant::now() + FREEZE_LIMIT;
        (&self.freeze).write_all(b"1")?;
        while !self.is_frozen()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().max(1).into() };
            match poll(&mut [PollFd::new(&self.events, PollFlags::PRI)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Lets everything go on.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        (&self.freeze).write_all(b"0")
    }

    fn is_frozen(&self) -> io::Result<bool> {
        let mut text = [0; EVENTS_MAX];
        let len = self.events.read_at(&mut text, 0)?;
        Ok(text[..len].split(|b| *b == b'\n').any(|line| line == FROZEN.as_bytes()))
    }
}

fn mount_hierarchy() -> io::Result<()> {
    fs::create_dir_all(HIERARCHY)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Each command becomes a member: without this option that waits for all of the machine's processors to be seen idle.
    match mount("cgroup2", HIERARCHY, "cgroup2", flags, c"favordynmods") {
        // Older kernels do not know it.
        Err(Errno::INVAL) => Ok(mount("cgroup2", HIERARCHY, "cgroup2", flags, None)?),
        result => Ok(result?),
    }
}
