//! PID 1: brings the machine up, forks the agent, and from then on only reaps. It never ends and never panics, either of
//! which would be a kernel panic: what cannot go on says so in one line and powers off, which the host sees at once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, getpid, umask, wait};
use rustix::system::{RebootCommand, reboot};
use vmette_wire::devices::AGENT_PORT_NAME;

use crate::devices::{self, Uevents};
use crate::sys::{self, Forked, Namespaces};
use crate::vm::Vm;
use crate::vsock_host::{Listener, Port};
use crate::{log, memory, modules, net, permits, serve};

/// How long the machine waits for the port to the host.
const PORT_DEADLINE: Duration = Duration::from_secs(30);

/// How long dirty data may take to be written when the machine goes off.
const WRITE_OUT_SECONDS: i64 = 5;

/// The score that keeps the kernel's out-of-memory killer away from a process.
const OOM_NEVER: &str = "-1000";

/// A machine that cannot come up.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error(
        "no virtio-serial port named {AGENT_PORT_NAME} within {} s; modules that could not be loaded: {failed}",
        PORT_DEADLINE.as_secs()
    )]
    NoPort { failed: String },
    #[error(
        "no vsock device within {} s; modules that could not be loaded: {failed}",
        PORT_DEADLINE.as_secs()
    )]
    NoVsock { failed: String },
}

/// Runs as `/init`. Returns only to a caller that is not PID 1, with an exit status.
#[must_use]
pub fn run() -> i32 {
    if getpid().as_raw_nonzero().get() != 1 {
        eprintln!("vmette-guest is the init of vmette's machines; it does nothing elsewhere");
        return 2;
    }
    std::panic::set_hook(Box::new(|info| {
        log::error(info);
        if getpid().as_raw_nonzero().get() == 1 {
            power_off();
        }
        sys::exit_now(101);
    }));
    sys::ignore_broken_pipes();
    umask(Mode::from_raw_mode(0o022));
    let agent = bring_up().and_then(|(port, vm)| match sys::fork(Namespaces::Same) {
        Ok(None) => serve_host(port, vm),
        Ok(Some(agent)) => Ok(agent),
        Err(source) => Err(InitError::Io { what: "fork the agent", source }),
    });
    match agent {
        Ok(agent) => reap_until_end_of(&agent),
        Err(e) => log::error(e),
    }
    power_off()
}

/// From the kernel's bare hand-over to a connection with the host.
fn bring_up() -> Result<(OwnedFd, Vm), InitError> {
    let failed = |what| move |source: io::Error| InitError::Io { what, source };
    machine_mount("devtmpfs", "/dev").map_err(failed("mount /dev"))?;
    fill_standard_descriptors().map_err(failed("open /dev/null"))?;
    // Without a log there is nobody to tell.
    let _ = log::open();
    machine_mount("proc", "/proc").map_err(failed("mount /proc"))?;
    machine_mount("sysfs", "/sys").map_err(failed("mount /sys"))?;
    memory::kill_rather_than_thrash().map_err(failed("set up what happens when memory runs out"))?;
    let missing = modules::load(modules::LIST);
    for module in &missing {
        log::error(format_args!("cannot load module {module}"));
    }
    permits::open_network().map_err(failed("set up what ordinary users may do"))?;
    net::loopback_up().map_err(failed("bring the loopback interface up"))?;
    let uevents = Uevents::subscribe().map_err(failed("listen for devices"))?;
    if let Some(port) = Port::of_this_machine().map_err(failed("read the kernel's command line"))? {
        let opened = port.open(&uevents, PORT_DEADLINE).map_err(failed("connect to the host by vsock"))?;
        let (stream, listener) =
            opened.ok_or_else(|| InitError::NoVsock { failed: modules::listed(&missing) })?;
        return Ok((stream, machine(Some(listener))?));
    }
    let port = uevents
        .wait_for(PORT_DEADLINE, || devices::port(AGENT_PORT_NAME))
        .map_err(failed("look for the agent's port"))?;
    let Some(port) = port else {
        return Err(InitError::NoPort { failed: modules::listed(&missing) });
    };
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let port = open(&port, flags, Mode::empty()).map_err(|e| failed("open the agent's port")(e.into()))?;
    Ok((port, machine(None)?))
}

fn machine(listener: Option<Listener>) -> Result<Vm, InitError> {
    Vm::new(listener).map_err(|source| InitError::Io { what: "look at the agent's namespaces", source })
}

fn machine_mount(fstype: &str, target: &str) -> io::Result<()> {
    fs::create_dir_all(target)?;
    mount(fstype, target, fstype, MountFlags::NOSUID | MountFlags::NOEXEC, None).map_err(Into::into)
}

/// Without a console the kernel starts us with no descriptor open: the next three files would become the standard ones.
fn fill_standard_descriptors() -> io::Result<()> {
    loop {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        std::mem::forget(null);
    }
}

/// The agent's process. Its end, for whatever reason, is the end of the machine.
fn serve_host(port: OwnedFd, mut vm: Vm) -> ! {
    // A name for `ps`, and nothing depends on it.
    let _ = rustix::thread::set_name(c"vmette-agent");
    let protected = OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")
        .and_then(|mut file| io::Write::write_all(&mut file, OOM_NEVER.as_bytes()));
    if let Err(e) = protected {
        log::error(format_args!("cannot protect the agent from the out-of-memory killer: {e}"));
        sys::exit_now(1);
    }
    if let Err(e) = vm.raise_descriptor_limit() {
        log::error(format_args!("cannot raise the agent's limit of open descriptors: {e}"));
    }
    if let Err(e) = serve::serve(port, vm) {
        log::error(format_args!("{e}"));
    }
    sys::exit_now(1)
}

fn reap_until_end_of(agent: &Forked) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == agent.pid => {
                log::error(format_args!("the agent has ended ({status:?})"));
                return;
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                log::error(format_args!("cannot wait for children: {e}"));
                return;
            }
        }
    }
}

fn power_off() -> ! {
    write_out();
    if let Err(e) = reboot(RebootCommand::PowerOff) {
        log::error(format_args!("cannot power off: {e}"));
    }
    sys::reap_for_ever()
}

/// Writes dirty data out, as far as disks and shares still answer: one that does not must not keep the machine up.
fn write_out() {
    match sys::fork(Namespaces::Same) {
        Ok(None) => {
            rustix::fs::sync();
            sys::exit_now(0)
        }
        Ok(Some(child)) => {
            let limit = Timespec { tv_sec: WRITE_OUT_SECONDS, tv_nsec: 0 };
            // Whatever the outcome: the machine goes off now.
            let _ = poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&limit));
        }
        Err(e) => log::error(format_args!("cannot write dirty data out: {e}")),
    }
}
