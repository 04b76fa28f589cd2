//! The agent's world inside a machine.

mod setup;
mod workload;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, pidfd_send_signal};
use rustix::time::{ClockId, Timespec, clock_settime};
use vmette_wire::handshake::ENTROPY_LEN;
use vmette_wire::root::{Attach, Detach};
use vmette_wire::{Boot, Hello, Root, RootName};

use crate::freezer::Freezer;
use crate::root::etc::Identity;
use crate::root::{self, Plan, shares};
use crate::sys::{self, Forked, Namespaces};
use crate::vsock_host::Listener;
use crate::world::{self, BOOTED, Changing, NOT_BOOTED, Place, Purpose, World, WorldError};
use crate::{child, log, permits, report};
use workload::Workload;

/// Folder of the workload's long commands: a tmpfs of its own in every root.
const SCRIPTS: &str = "/run";

/// Most descriptors that the agent has open at once: more than all of its streams have.
const AGENT_DESCRIPTORS: u64 = 4096;

const NS_PER_S: u64 = 1_000_000_000;

/// The words for a process that has ended without a report.
const KILLED: &str = "the process that works on the root was killed (out of memory? give the machine more)";

/// The machine.
#[derive(Debug)]
pub struct Vm {
    /// The agent's own PID namespace, in which its helpers are born.
    pid_ns: OwnedFd,
    identity: Option<Identity>,
    machine: Option<Machine>,
    roots: BTreeMap<RootName, Workload>,
    /// The change under way.
    work: Option<Work>,
    /// The process that keeps the lease of the machine's address. It ends with the machine.
    network: Option<Forked>,
    /// The place where another host may connect.
    listener: Option<Listener>,
    /// The control groups of the workloads, without which they cannot be stopped.
    freezer: Option<Freezer>,
    /// Soft limit of open descriptors as the kernel has set it. The agent's own is higher.
    descriptor_limit: Option<u64>,
}

/// Everything that roots share.
#[derive(Debug)]
struct Machine {
    boot: Boot,
    /// Contents of `/etc/resolv.conf`, if there is a network.
    name_servers: Option<String>,
}

/// A child that works on a change, and what becomes of its work.
#[derive(Debug)]
enum Work {
    Boot { child: Forked, boot: Boot },
    Make { child: Forked, root: Root },
    Change { child: Forked, root: RootName },
}

impl Vm {
    /// A machine that is not set up.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new(listener: Option<Listener>) -> io::Result<Self> {
        Ok(Self {
            pid_ns: File::open("/proc/self/ns/pid")?.into(),
            identity: None,
            machine: None,
            roots: BTreeMap::new(),
            work: None,
            network: None,
            listener,
            freezer: None,
            descriptor_limit: None,
        })
    }

    /// Lets the agent have as many open descriptors as its streams may need. Commands keep the soft limit that programs
    /// expect, and may raise it as far as in a container.
    pub(crate) fn raise_descriptor_limit(&mut self) -> io::Result<()> {
        self.descriptor_limit = permits::raise_descriptor_limit(AGENT_DESCRIPTORS)?;
        Ok(())
    }

    /// Forks a process of the agent's own PID namespace, whichever command was started last.
    fn fork(&self, namespaces: Namespaces) -> io::Result<Option<Forked>> {
        sys::set_pid_namespace_for_children(self.pid_ns.as_fd())?;
        sys::fork(namespaces)
    }

    fn workload(&self, name: &RootName) -> Result<&Workload, WorldError> {
        self.roots.get(name).ok_or_else(|| WorldError::NoRoot(name.clone()))
    }

    /// Has a child change what is mounted in a root.
    fn change(
        &mut self,
        name: &RootName,
        change: impl FnOnce(bool) -> Result<Vec<String>, root::Error>,
    ) -> Result<Changing, WorldError> {
        let workload = self.workload(name)?;
        let (reader, writer) = pipe()?;
        let forked = self.fork(Namespaces::Same).map_err(WorldError::io("start a process for the shares"))?;
        let Some(child) = forked else {
            shares::run(writer, workload.mount_ns.as_fd(), || change(workload.read_only))
        };
        self.work = Some(Work::Change { child, root: name.clone() });
        Ok(Changing::Pending(reader))
    }

    /// Takes hold of what the builder has made.
    fn enter(&mut self, child: &Forked, root: &Root, env: Vec<String>) -> Result<(), WorldError> {
        let groups = match &self.freezer {
            Some(freezer) => {
                let groups = freezer.groups(root.name.as_str());
                Some(groups.map_err(WorldError::io("make control groups for the workload"))?)
            }
            None => None,
        };
        let workload = Workload::of(child, root, groups, env)?;
        if root.switch_root {
            end(child);
            let delegated = self.freezer.as_ref().map_or(Ok(()), |f| f.delegate(root.name.as_str()));
            delegated.map_err(WorldError::io("hand control groups to the workload"))?;
        }
        self.roots.insert(root.name.clone(), workload);
        Ok(())
    }
}

impl World for Vm {
    fn hello(&mut self, hello: &Hello, entropy: &[u8; ENTROPY_LEN]) -> Result<(), WorldError> {
        let random =
            File::options().write(true).open("/dev/urandom").map_err(WorldError::io("open /dev/urandom"))?;
        sys::add_entropy(&random, entropy).map_err(WorldError::io("reseed the random number generator"))?;
        self.set_clock(hello.realtime_ns)?;
        rustix::system::sethostname(hello.hostname.as_bytes())
            .map_err(WorldError::io("set the host name"))?;
        let identity = Identity { hostname: hello.hostname.clone(), machine_id: hello.machine_id.clone() };
        if self.identity.as_ref() != Some(&identity) {
            // A clone of a machine whose roots had been built: their files still name the one it was copied from.
            for workload in self.roots.values() {
                let renamed = workload.rename(&identity, |namespaces| self.fork(namespaces));
                renamed.map_err(WorldError::io("rename the machine"))?;
            }
        }
        self.identity = Some(identity);
        Ok(())
    }

    fn set_clock(&mut self, realtime_ns: u64) -> Result<(), WorldError> {
        let seconds = i64::try_from(realtime_ns / NS_PER_S).unwrap_or(i64::MAX);
        let nanoseconds = i64::try_from(realtime_ns % NS_PER_S).unwrap_or(0);
        clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
            .map_err(WorldError::io("set the clock"))
    }

    fn freeze(&mut self) -> Result<(), WorldError> {
        let Some(freezer) = &self.freezer else {
            return Err(WorldError::Order(
                "its processes cannot be stopped for a copy: it was not booted as one that may be saved, or its kernel has no control groups of version 2",
            ));
        };
        freezer.freeze().map_err(WorldError::io("freeze the workload's processes"))
    }

    fn thaw(&mut self) -> Result<(), WorldError> {
        let thawed = self.freezer.as_ref().map_or(Ok(()), Freezer::thaw);
        thawed.map_err(WorldError::io("let the workload's processes go on"))
    }

    fn boot(&mut self, boot: &Boot) -> Result<Changing, WorldError> {
        let Some(identity) = &self.identity else {
            return Err(WorldError::Order("hello comes before boot"));
        };
        if self.machine.is_some() {
            return Err(BOOTED);
        }
        if boot.savable && self.freezer.is_none() {
            self.freezer = Freezer::make()
                .inspect_err(|e| {
                    log::note(format_args!("no control groups, and so no copies of this machine: {e}"));
                })
                .ok();
        }
        let lease = if boot.network {
            let (reader, writer) = pipe()?;
            let forked =
                self.fork(Namespaces::Same).map_err(WorldError::io("start a process for the network"))?;
            let Some(network) = forked else { crate::net::run(writer, &identity.hostname) };
            self.network = Some(network);
            Some(reader)
        } else {
            None
        };
        if boot.disks.is_empty() && !boot.vsock && lease.is_none() {
            self.machine = Some(Machine { boot: boot.clone(), name_servers: None });
            return Ok(Changing::Done);
        }
        let (reader, writer) = pipe()?;
        let forked =
            self.fork(Namespaces::Same).map_err(WorldError::io("start a process that waits for devices"))?;
        let Some(child) = forked else { setup::run(writer, lease, boot) };
        self.work = Some(Work::Boot { child, boot: boot.clone() });
        Ok(Changing::Pending(reader))
    }

    fn make_root(&mut self, root: &Root, ca_bundle: &[u8]) -> Result<Changing, WorldError> {
        let (Some(identity), Some(machine)) = (&self.identity, &self.machine) else {
            return Err(NOT_BOOTED);
        };
        world::check_room(self.roots.keys(), &root.name)?;
        let (reader, writer) = pipe()?;
        let namespaces = if root.switch_root { Namespaces::Mount } else { Namespaces::MountAndPid };
        let forked = self.fork(namespaces).map_err(WorldError::io("start a process that builds the root"))?;
        let Some(child) = forked else {
            let plan = Plan {
                root,
                bundle: ca_bundle,
                identity,
                programs: machine.boot.vsock || machine.boot.savable,
                name_servers: machine.name_servers.as_deref(),
            };
            root::run(writer, &plan)
        };
        self.work = Some(Work::Make { child, root: root.clone() });
        Ok(Changing::Pending(reader))
    }

    fn attach(&mut self, attach: &Attach, ca_bundle: &[u8]) -> Result<Changing, WorldError> {
        self.change(&attach.root, |read_only| shares::attach(attach, ca_bundle, read_only))
    }

    fn detach(&mut self, detach: &Detach) -> Result<Changing, WorldError> {
        self.change(&detach.root, |_| shares::detach(detach))
    }

    fn finish(&mut self, from: OwnedFd) -> Result<(), WorldError> {
        let Some(work) = self.work.take() else {
            return Err(WorldError::Order("there is no change under way"));
        };
        let text = report::receive(from, KILLED)
            .map_err(WorldError::io("read the report of a process"))
            .and_then(|outcome| outcome.map_err(WorldError::Failed));
        match work {
            Work::Boot { child, boot } => {
                end(&child);
                let text = text.inspect_err(|_| self.network.take().iter().for_each(end))?;
                let name_servers = boot.network.then_some(text);
                self.machine = Some(Machine { boot, name_servers });
            }
            Work::Make { child, root } => {
                let env = text.inspect_err(|_| end(&child))?;
                self.enter(&child, &root, entries(&env)).inspect_err(|_| end(&child))?;
            }
            Work::Change { child, root } => {
                end(&child);
                let env = entries(&text?);
                if let Some(workload) = self.roots.get_mut(&root) {
                    workload.env.retain(|known| !env.contains(known));
                    workload.env.extend(env);
                }
            }
        }
        Ok(())
    }

    fn place(&self, root: &RootName, purpose: Purpose) -> Result<Place<'_>, WorldError> {
        let workload = self.workload(root)?;
        let pid_ns = workload.pid_ns(purpose)?.unwrap_or(self.pid_ns.as_fd());
        Ok(Place {
            root: workload.root.as_fd(),
            mount_ns: Some(workload.mount_ns.as_fd()),
            pid_ns: Some(pid_ns),
            group: workload.groups.as_ref().map(|groups| groups.members(purpose == Purpose::Init)),
            scripts: SCRIPTS,
            scripts_seen: SCRIPTS,
            env: &workload.env,
            descriptor_limit: self.descriptor_limit,
            oom_protected: true,
        })
    }

    fn init_started(&mut self, root: &RootName, pid: Pid, pidfd: BorrowedFd<'_>) {
        if let Some(workload) = self.roots.get_mut(root) {
            workload.init_started(pid, pidfd);
        }
    }

    fn sync(&mut self) -> io::Result<Option<OwnedFd>> {
        match self.fork(Namespaces::Same)? {
            Some(child) => Ok(Some(child.pidfd)),
            None => {
                rustix::fs::sync();
                sys::exit_now(0)
            }
        }
    }

    fn reconnects(&self) -> bool {
        true
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(Listener::as_fd)
    }

    fn accept(&mut self) -> io::Result<Option<OwnedFd>> {
        self.listener.as_ref().map_or(Ok(None), Listener::accept)
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), WorldError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(WorldError::io("make a pipe"))
}

/// Environment of a report, an entry a line.
fn entries(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Ends a process that is not needed (any more).
fn end(child: &Forked) {
    // Fails when it has ended by itself.
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    let _ = child::reap(child.pidfd.as_fd());
}
