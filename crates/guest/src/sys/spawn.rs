//! Starting a program as `posix_spawn` does, with the namespaces, the terminal and the user that a workload needs.
//!
//! There are two ways. [`spawn`] has the child borrow the agent's memory until it execs (`CLONE_VM | CLONE_VFORK`), so that
//! no page table is copied; the agent stands still for so long. But a child is born among the workload's processes, and any
//! of them that may send it a signal can stop it before it execs. Where there are such processes [`spawn_beside`] gives the
//! child a memory of its own, and the agent goes on and hears by a pipe what has become of it.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::ioctl_fionbio;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use super::report::{Record, Report};
use super::{Forked, close_all_but, exit_now, fork_with, set_pid_namespace_for_children};

/// The child's stack until it execs. It calls nothing deep; a signal cannot arrive, they are all blocked.
const STACK_SIZE: usize = 64 << 10;

/// Highest signal number of Linux.
const SIGNAL_MAX: c_int = 64;

/// User and groups of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// Everything the child needs, made before it exists: between clone and exec it may not allocate.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// Paths to try in this order; those that do not exist are skipped.
    pub(crate) programs: Vec<CString>,
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
    /// `/` will do when `cwd` does not exist.
    pub(crate) cwd_or_root: bool,
    /// stdin, stdout, stderr; numbers above 2.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// stdin is a terminal that becomes the controlling one.
    pub(crate) terminal: bool,
    pub(crate) user: Option<Credentials>,
    /// The mount namespace to enter.
    pub(crate) mount_ns: Option<BorrowedFd<'a>>,
    /// The PID namespace to be born in; with `pid_one` the one above the new one.
    pub(crate) pid_ns: Option<BorrowedFd<'a>>,
    /// The control group to join, by its `cgroup.procs`.
    pub(crate) group: Option<BorrowedFd<'a>>,
    /// Makes the child PID 1 of a new PID namespace and mounts its `/proc`; its control group is the root of those that it
    /// sees.
    pub(crate) pid_one: bool,
    /// Soft limit of the stack. The kernel lets arguments and environment have a quarter of it.
    pub(crate) stack_limit: Option<u64>,
    /// Soft limit of open descriptors, in place of the agent's.
    pub(crate) descriptor_limit: Option<u64>,
    /// Gives up the agent's protection from the kernel's out-of-memory killer.
    pub(crate) reset_oom_score: bool,
}

/// The step at which the child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Step {
    /// No process could be made.
    Clone,
    /// Blocking signals, a session of its own, the standard descriptors.
    Setup,
    /// Joining the workload's control group.
    Group,
    /// Entering the workload's mount namespace.
    Namespace,
    /// Mounting `/proc` of the new PID namespace.
    Proc,
    /// Making the terminal the controlling one.
    Terminal,
    /// Changing the working directory.
    Chdir,
    /// Changing user and groups.
    User,
    /// Executing the program.
    Exec,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Clone,
        Self::Setup,
        Self::Group,
        Self::Namespace,
        Self::Proc,
        Self::Terminal,
        Self::Chdir,
        Self::User,
        Self::Exec,
    ];

    /// The step of that number, if there is one.
    pub(crate) fn of(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as i32 == number)
    }
}

/// A program that does not run.
#[derive(Debug, thiserror::Error)]
#[error("{step:?}: {source}")]
pub(crate) struct SpawnError {
    pub(crate) step: Step,
    pub(crate) source: io::Error,
}

/// Memory that parent and child share, or that the child has a copy of. The parent is suspended while the child uses it.
struct Shared<'a> {
    launch: &'a Launch<'a>,
    programs: Vec<*const c_char>,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    failure: Option<(Step, c_int)>,
    inner_pid: u32,
}

impl<'a> Shared<'a> {
    /// Prepares everything, the PID namespace of the next child included.
    fn new(launch: &'a Launch<'a>) -> Result<Self, SpawnError> {
        if let Some(namespace) = launch.pid_ns {
            set_pid_namespace_for_children(namespace).map_err(|e| failed(Step::Clone, e))?;
        }
        if launch.stdio.iter().any(|fd| fd.as_raw_fd() <= 2) {
            return Err(failed(Step::Setup, io::ErrorKind::InvalidInput.into()));
        }
        Ok(Self {
            launch,
            programs: launch.programs.iter().map(|s| s.as_ptr()).collect(),
            args: pointers(&launch.args),
            env: pointers(&launch.env),
            failure: None,
            inner_pid: 0,
        })
    }
}

fn failed(step: Step, source: io::Error) -> SpawnError {
    SpawnError { step, source }
}

/// Starts a program in a session of its own, and returns once it runs, with its process id inside of its PID namespace. For
/// a child that nobody can stop.
///
/// # Errors
/// [`SpawnError`] tells which step failed; nothing is left behind then.
pub(crate) fn spawn(launch: &Launch<'_>) -> Result<(Forked, u32), SpawnError> {
    let mut shared = Shared::new(launch)?;
    let mut stack = vec![0u128; STACK_SIZE / size_of::<u128>()];
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    if launch.pid_one {
        flags |= libc::CLONE_NEWPID;
    }
    let mut pidfd: RawFd = -1;
    let old_mask = block_all_signals().map_err(|e| failed(Step::Setup, e))?;
    // SAFETY: CLONE_VFORK suspends this thread until the child has exec'd or ended, so `shared`, `stack` and `pidfd`
    // outlive every use by the child, and nothing here runs beside it. `child` only makes system calls on what was
    // prepared, with all signals blocked. The stack grows downwards from its (16-byte aligned) end.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        libc::clone(child, top, flags, (&raw mut shared).cast::<c_void>(), &raw mut pidfd)
    };
    let clone_error = io::Error::last_os_error();
    restore_signals(&old_mask);
    let pid = match Pid::from_raw(pid.max(0)) {
        Some(pid) => pid,
        None => return Err(failed(Step::Clone, clone_error)),
    };
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if let Some((step, errno)) = shared.failure {
        // It has ended already: only its entry in the process table is left.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        return Err(failed(step, io::Error::from_raw_os_error(errno)));
    }
    Ok((Forked { pid, pidfd }, shared.inner_pid))
}

/// Begins to start a program in a session of its own, and returns at once: the report tells what comes of it.
///
/// # Errors
/// [`SpawnError`]: no process could be made.
pub(crate) fn spawn_beside(launch: &Launch<'_>) -> Result<(Forked, Report), SpawnError> {
    let mut shared = Shared::new(launch)?;
    let setup = |e: rustix::io::Errno| failed(Step::Setup, e.into());
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(setup)?;
    ioctl_fionbio(&reader, true).map_err(setup)?;
    let flags = if launch.pid_one { libc::CLONE_NEWPID } else { 0 };
    let old_mask = block_all_signals().map_err(|e| failed(Step::Setup, e))?;
    let forked = fork_with(flags);
    if let Ok(None) = forked {
        // Other threads of the parent may have held any lock: as above, only system calls on what was prepared.
        let Err((step, errno)) = report(launch, &writer).and_then(|()| steps(&mut shared));
        // Without a reader there is no agent any more.
        let _ = write_record(&writer, Record::failed(step, errno));
        exit_now(127);
    }
    restore_signals(&old_mask);
    match forked {
        Ok(Some(child)) => Ok((child, Report::new(reader))),
        Ok(None) => Err(failed(Step::Clone, io::ErrorKind::InvalidData.into())),
        Err(e) => Err(failed(Step::Clone, e)),
    }
}

/// The first thing that a child does which has the agent's descriptors: it keeps what it needs, since others wait for the
/// end of those streams, and says who it is. The writing end closes as the program is executed.
fn report(launch: &Launch<'_>, writer: &OwnedFd) -> Result<(), (Step, c_int)> {
    let [stdin, stdout, stderr] = launch.stdio;
    let (namespace, group) = (launch.mount_ns.unwrap_or(stdin), launch.group.unwrap_or(stdin));
    let error = |e: io::Error| (Step::Setup, e.raw_os_error().unwrap_or(libc::EINVAL));
    close_all_but([stdin, stdout, stderr, namespace, group, writer.as_fd()]).map_err(error)?;
    // SAFETY: getpid(2) has no preconditions.
    let inner_pid = unsafe { libc::getpid() };
    write_record(writer, Record::born(inner_pid))
}

fn write_record(writer: &OwnedFd, record: Record) -> Result<(), (Step, c_int)> {
    let bytes = record.to_bytes();
    // SAFETY: an open descriptor, and bytes that outlive the call. A pipe takes so few in one piece.
    check_size(Step::Setup, unsafe { libc::write(writer.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// A handler of ours must not run in the child, on memory that is not its own.
fn block_all_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: both sets are plain data that the calls fill.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old) {
            0 => Ok(old),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: `mask` is a set that the kernel has given us.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut());
    }
}

/// The child between clone and exec.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Shared`, which nobody else touches until this process has exec'd or ended.
    let shared = unsafe { &mut *shared.cast::<Shared<'_>>() };
    shared.failure = Some(run(shared));
    127
}

/// Runs the steps; returns only what failed. Only async-signal-safe calls from here on, and raw system calls where the C
/// library would tell the other threads of the parent.
fn run(shared: &mut Shared<'_>) -> (Step, c_int) {
    let Err(failure) = steps(shared);
    failure
}

fn steps(shared: &mut Shared<'_>) -> Result<Infallible, (Step, c_int)> {
    let launch = shared.launch;
    reset_signals();
    // SAFETY: system calls on numbers, open descriptors and NUL-terminated strings that live until exec.
    unsafe {
        shared.inner_pid = u32::try_from(libc::getpid()).unwrap_or(0);
        check(Step::Setup, libc::setsid())?;
        libc::umask(0o022);
        if launch.reset_oom_score {
            write_oom_score()?;
        }
        for (number, fd) in (0..).zip(&launch.stdio) {
            check(Step::Setup, libc::dup2(fd.as_raw_fd(), number))?;
        }
        if launch.terminal {
            check(Step::Terminal, libc::ioctl(0, libc::TIOCSCTTY as _, 0))?;
        }
        if let Some(group) = launch.group {
            // Itself.
            check_size(Step::Group, libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1))?;
            if launch.pid_one {
                check(Step::Group, libc::unshare(libc::CLONE_NEWCGROUP))?;
            }
        }
        if let Some(namespace) = launch.mount_ns {
            check(Step::Namespace, libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS))?;
        }
        if launch.pid_one {
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let proc = c"proc".as_ptr();
            check(Step::Proc, libc::mount(proc, c"/proc".as_ptr(), proc, flags, ptr::null()))?;
        }
        let limits =
            [(libc::RLIMIT_STACK, launch.stack_limit), (libc::RLIMIT_NOFILE, launch.descriptor_limit)];
        for (resource, wanted) in limits {
            let Some(wanted) = wanted else { continue };
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            check(Step::Setup, libc::getrlimit(resource, &raw mut limit))?;
            limit.rlim_cur = limit.rlim_max.min(wanted);
            check(Step::Setup, libc::setrlimit(resource, &raw const limit))?;
        }
        if libc::chdir(launch.cwd.as_ptr()) != 0 {
            let errno = errno();
            if !(launch.cwd_or_root && libc::chdir(c"/".as_ptr()) == 0) {
                return Err((Step::Chdir, errno));
            }
        }
        if let Some(user) = &launch.user {
            let groups = user.groups.as_ptr();
            check_long(Step::User, libc::syscall(libc::SYS_setgroups, user.groups.len(), groups))?;
            let (gid, uid) = (libc::c_long::from(user.gid), libc::c_long::from(user.uid));
            check_long(Step::User, libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            check_long(Step::User, libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        }
        unblock_signals();
    }
    Err((Step::Exec, exec(shared)))
}

/// Tries the candidates as `execvp` does; returns the error that tells most.
fn exec(shared: &Shared<'_>) -> c_int {
    let mut best = libc::ENOENT;
    for program in &shared.programs {
        // SAFETY: `program` is NUL-terminated; both lists end with a null pointer.
        unsafe {
            libc::execve(*program, shared.args.as_ptr(), shared.env.as_ptr());
        }
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => best = libc::EACCES,
            other => return other,
        }
    }
    best
}

/// Gives every signal its default action; ignored ones would stay ignored in the program.
fn reset_signals() {
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: the child has its own table of actions (no CLONE_SIGHAND). Numbers that cannot be set are refused.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

/// SAFETY: to be called in the child only, right before exec.
unsafe fn unblock_signals() {
    // SAFETY: the set is plain data that the first call fills.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

fn write_oom_score() -> Result<(), (Step, c_int)> {
    const PATH: &CStr = c"/proc/self/oom_score_adj";
    // SAFETY: system calls on a NUL-terminated path, an open descriptor and one byte.
    unsafe {
        let fd = check(Step::Setup, libc::open(PATH.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        let written = libc::write(fd, c"0".as_ptr().cast(), 1);
        let errno = errno();
        libc::close(fd);
        if written == 1 { Ok(()) } else { Err((Step::Setup, errno)) }
    }
}

fn check(step: Step, result: c_int) -> Result<c_int, (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(result) }
}

fn check_size(step: Step, result: libc::ssize_t) -> Result<(), (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(()) }
}

fn check_long(step: Step, result: libc::c_long) -> Result<(), (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(()) }
}

fn errno() -> c_int {
    // SAFETY: the pointer is valid for this thread, whose storage the child borrows while the parent is suspended.
    unsafe { *libc::__errno_location() }
}
