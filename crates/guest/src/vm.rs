//! The agent's world inside a machine.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, pidfd_send_signal, setrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, Timespec, clock_settime};
use vmette_wire::agent::{Attach, Boot, ENTROPY_LEN, ExitStatus, Hello, Share};

use crate::boot::{self, BootError};
use crate::child;
use crate::etc::{self, Files, Identity};
use crate::freezer::Freezer;
use crate::shares;
use crate::sys::{self, Forked, Namespaces};
use crate::vsock_host::Listener;
use crate::world::{Booting, Place, Purpose, World, WorldError};
use crate::{log, net};

/// Where the workload's long commands lie: a tmpfs of its own in every workload.
const SCRIPTS: &str = "/run";

const NS_PER_S: u64 = 1_000_000_000;

/// The machine.
#[derive(Debug, Default)]
pub struct Vm {
    identity: Option<Identity>,
    builder: Option<Builder>,
    /// The child that changes what is mounted in the root.
    changer: Option<Forked>,
    workload: Option<Workload>,
    /// The process that keeps the lease of the machine's address. It ends with the machine.
    network: Option<Forked>,
    /// Where another host may connect.
    listener: Option<Listener>,
    /// What the workload's processes belong to; without it they cannot be stopped.
    freezer: Option<Freezer>,
    /// Soft limit of open descriptors as the kernel has set it. The agent's own is higher.
    descriptor_limit: Option<u64>,
}

/// The child that builds the root.
#[derive(Debug)]
struct Builder {
    child: Forked,
    switch_root: bool,
    read_only: bool,
}

/// The root as it was built.
#[derive(Debug)]
struct Workload {
    root: OwnedFd,
    mount_ns: OwnedFd,
    env: Vec<String>,
    init: Init,
    read_only: bool,
}

/// Who is PID 1 of the workload's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Init {
    /// A process of ours that reaps.
    Ours,
    /// Nobody, until a command is to be it.
    Awaited,
    /// A command.
    Runs,
    /// Nobody any more.
    Ended,
}

impl Vm {
    /// A machine without a workload.
    #[must_use]
    pub(crate) fn new(listener: Option<Listener>) -> Self {
        Self { listener, ..Self::default() }
    }

    /// Lets the agent have as many open descriptors as its streams may need; commands keep the limit that programs expect.
    pub(crate) fn raise_descriptor_limit(&mut self) -> io::Result<()> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
        self.descriptor_limit = limit.current;
        Ok(())
    }

    /// A clone of a machine whose root had been built: its files still name the template. A mount over a file of a
    /// read-only root can only be made from inside of its namespace.
    fn refresh(workload: &Workload, identity: &Identity) -> io::Result<()> {
        if !workload.read_only {
            return etc::write_identity(&Files::below(workload.root.try_clone()?), identity);
        }
        let Some(child) = sys::fork(Namespaces::Same)? else {
            let namespace = LinkNameSpaceType::Mount;
            let done = move_into_link_name_space(workload.mount_ns.as_fd(), Some(namespace))
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

impl Vm {
    /// Has a child change what is mounted in the workload's root.
    fn change(
        &mut self,
        change: impl FnOnce(bool) -> Result<Vec<String>, BootError>,
    ) -> Result<Booting, WorldError> {
        let Some(workload) = &self.workload else {
            return Err(WorldError::Order("there is no root yet: boot comes first"));
        };
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(WorldError::io("make a pipe"))?;
        let forked = sys::fork(Namespaces::Same).map_err(WorldError::io("start a process for the shares"))?;
        let Some(child) = forked else {
            let read_only = workload.read_only;
            shares::run(writer, workload.mount_ns.as_fd(), || change(read_only))
        };
        self.changer = Some(child);
        Ok(Booting::Pending(reader))
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
        if let Some(workload) = &self.workload
            && self.identity.as_ref() != Some(&identity)
        {
            Self::refresh(workload, &identity).map_err(WorldError::io("rename the machine"))?;
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

    fn boot(&mut self, boot: &Boot, ca_bundle: &[u8]) -> Result<Booting, WorldError> {
        let Some(identity) = &self.identity else {
            return Err(WorldError::Order("hello comes before boot"));
        };
        if self.workload.is_some() || self.builder.is_some() {
            return Err(WorldError::Order("the workload's root is there already: boot comes once"));
        }
        if boot.savable {
            self.freezer = Freezer::make()
                .inspect_err(|e| {
                    log::note(format_args!("no control groups, and so no copies of this machine: {e}"))
                })
                .ok();
        }
        // While the root is built. It is born before the workload's PID namespace is there, and so outside of it.
        let network = boot.network.then(|| start_network(&identity.hostname)).transpose()?;
        let (network, lease) = network.unzip();
        self.network = network;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(WorldError::io("make a pipe"))?;
        let namespaces = if boot.switch_root { Namespaces::Mount } else { Namespaces::MountAndPid };
        let forked = sys::fork(namespaces).map_err(WorldError::io("start a process that builds the root"))?;
        let Some(child) = forked else { boot::run(writer, lease, boot, ca_bundle, identity) };
        let read_only = boot::is_read_only(boot);
        self.builder = Some(Builder { child, switch_root: boot.switch_root, read_only });
        Ok(Booting::Pending(reader))
    }

    fn attach(&mut self, attach: &Attach, ca_bundle: &[u8]) -> Result<Booting, WorldError> {
        self.change(|read_only| shares::attach(attach, ca_bundle, read_only))
    }

    fn detach(&mut self, shares: &[Share]) -> Result<Booting, WorldError> {
        self.change(|_| shares::detach(shares))
    }

    fn boot_finished(&mut self, report: OwnedFd) -> Result<(), WorldError> {
        let mut text = String::new();
        let read = File::from(report).take(boot::REPORT_MAX).read_to_string(&mut text);
        if let Some(child) = self.changer.take() {
            end(&child);
            read.map_err(WorldError::io("read the report about the shares"))?;
            let env = boot::parse_report(&text).map_err(WorldError::Boot)?;
            if let Some(workload) = &mut self.workload {
                workload.env.retain(|known| !env.contains(known));
                workload.env.extend(env);
            }
            return Ok(());
        }
        let Some(Builder { child, switch_root, read_only }) = self.builder.take() else {
            return Err(WorldError::Order("there is no boot under way"));
        };
        read.map_err(WorldError::io("read the report of the boot"))?;
        let entered = boot::parse_report(&text)
            .map_err(WorldError::Boot)
            .and_then(|env| enter(&child, switch_root, env, read_only));
        match entered {
            Ok(workload) => {
                if switch_root {
                    end(&child);
                    let delegated = self.freezer.as_ref().map_or(Ok(()), Freezer::delegate);
                    delegated.map_err(WorldError::io("hand control groups to the workload"))?;
                }
                self.workload = Some(workload);
                Ok(())
            }
            Err(e) => {
                end(&child);
                self.network.take().iter().for_each(end);
                Err(e)
            }
        }
    }

    fn place(&self, purpose: Purpose) -> Result<Place<'_>, WorldError> {
        let Some(workload) = &self.workload else {
            return Err(WorldError::Order("there is no root yet: boot comes first"));
        };
        match (purpose, workload.init) {
            (Purpose::Files, _)
            | (Purpose::Command, Init::Ours | Init::Runs)
            | (Purpose::Init, Init::Awaited) => {}
            (Purpose::Command, Init::Awaited) => {
                return Err(WorldError::Order("the workload has no PID 1 yet: the init command comes first"));
            }
            (Purpose::Command, Init::Ended) => {
                return Err(WorldError::Order("the workload's PID 1 has ended, and its processes with it"));
            }
            (Purpose::Init, Init::Ours) => {
                return Err(WorldError::Order("an init command needs a boot with switch_root"));
            }
            (Purpose::Init, Init::Runs | Init::Ended) => {
                return Err(WorldError::Order("the workload's PID 1 was started already: init comes once"));
            }
        }
        Ok(Place {
            root: workload.root.as_fd(),
            mount_ns: Some(workload.mount_ns.as_fd()),
            group: self.freezer.as_ref().map(|freezer| freezer.members(purpose == Purpose::Init)),
            scripts: SCRIPTS,
            scripts_seen: SCRIPTS,
            env: &workload.env,
            descriptor_limit: self.descriptor_limit,
            oom_protected: true,
        })
    }

    fn init_started(&mut self, pid: u32) {
        let Some(workload) = &mut self.workload else { return };
        // Fails when it has ended already, and then there is no namespace for other commands.
        let entered = open(format!("/proc/{pid}/ns/pid"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|namespace| sys::set_pid_namespace_for_children(namespace.as_fd()));
        workload.init = if entered.is_ok() { Init::Runs } else { Init::Ended };
    }

    fn init_ended(&mut self) {
        if let Some(workload) = &mut self.workload {
            workload.init = Init::Ended;
        }
    }

    fn sync(&mut self) -> io::Result<Option<OwnedFd>> {
        match sys::fork(Namespaces::Same) {
            Ok(Some(child)) => Ok(Some(child.pidfd)),
            Ok(None) => {
                rustix::fs::sync();
                sys::exit_now(0)
            }
            Err(e) if self.workload.as_ref().is_some_and(|w| w.init == Init::Ended) => {
                // Children would be born into a PID namespace that has ended; nothing else runs that could stall.
                log::note(format_args!("sync without a process of its own: {e}"));
                rustix::fs::sync();
                Ok(None)
            }
            Err(e) => Err(e),
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

/// Starts the process that gets the machine an address, and reports on what is returned.
fn start_network(hostname: &str) -> Result<(Forked, OwnedFd), WorldError> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(WorldError::io("make a pipe"))?;
    let forked = sys::fork(Namespaces::Same).map_err(WorldError::io("start a process for the network"))?;
    let Some(child) = forked else { net::run(writer, hostname) };
    Ok((child, reader))
}

/// Takes hold of what the builder has made.
fn enter(
    child: &Forked,
    switch_root: bool,
    env: Vec<String>,
    read_only: bool,
) -> Result<Workload, WorldError> {
    let entry = |pid: Pid, name: &str, flags| {
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        open(&path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(WorldError::io(format!("open {path}")))
    };
    let root = entry(child.pid, "root", OFlags::PATH | OFlags::DIRECTORY)?;
    let mount_ns = entry(child.pid, "ns/mnt", OFlags::RDONLY)?;
    let init = if switch_root {
        Init::Awaited
    } else {
        let namespace = entry(child.pid, "ns/pid", OFlags::RDONLY)?;
        sys::set_pid_namespace_for_children(namespace.as_fd())
            .map_err(WorldError::io("enter the workload's PID namespace"))?;
        Init::Ours
    };
    Ok(Workload { root, mount_ns, env, init, read_only })
}

/// Ends a builder that is not needed (any more).
fn end(child: &Forked) {
    // Fails when it has ended by itself.
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    let _ = child::reap(child.pidfd.as_fd());
}
