//! The system calls that have no safe wrapper. The only module of the crate with `unsafe` code.
#![allow(unsafe_code)]

mod ioctl;
mod packet;
mod report;
mod spawn;
mod vsock;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

pub(crate) use ioctl::{add_entropy, interface_up};
pub(crate) use packet::{LinkAddr, packet_send, packet_socket};
pub(crate) use report::{Outcome, Report};
pub(crate) use spawn::{Credentials, Launch, SpawnError, Step, spawn, spawn_beside};
pub(crate) use vsock::{CID_ANY, CID_HOST, VsockAddr, vsock_accept, vsock_connect, vsock_listen};

/// A child that was made by [`fork`] or [`spawn`].
#[derive(Debug)]
pub(crate) struct Forked {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Which new namespaces a forked child lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// Those of the caller.
    Same,
    /// A mount namespace of its own.
    Mount,
    /// A mount namespace of its own, and PID 1 of a PID namespace.
    MountAndPid,
}

/// Forks. `None` is the child's view.
///
/// The caller has one thread, or the child does nothing but system calls and [`exit_now`].
///
/// # Errors
/// The kernel's: no memory, no more processes, or a PID namespace whose PID 1 has ended.
pub(crate) fn fork(namespaces: Namespaces) -> io::Result<Option<Forked>> {
    let mut flags = 0;
    if namespaces != Namespaces::Same {
        flags |= libc::CLONE_NEWNS;
    }
    if namespaces == Namespaces::MountAndPid {
        flags |= libc::CLONE_NEWPID;
    }
    fork_with(flags)
}

/// Does what [`fork`] does, with these namespaces of `clone(2)`.
fn fork_with(namespaces: libc::c_int) -> io::Result<Option<Forked>> {
    let flags = libc::CLONE_PIDFD | libc::SIGCHLD | namespaces;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): the child runs on a copy of the memory. The
    // kernel writes the descriptor to `pidfd`, which lives across the call. All arguments after it are unused.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0usize, &raw mut pidfd, 0usize, 0usize)
    };
    if pid == 0 {
        return Ok(None);
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some(Forked { pid, pidfd }))
}

/// Ends the process at once: a forked child must not run its parent's clean-up.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Lets writes to a closed pipe fail instead of killing the process: the binary starts without Rust's runtime, which
/// would do this.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid disposition and no handler runs.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Sends a signal to every process of a group.
///
/// # Errors
/// The kernel's: the group is gone, or there is no such signal.
pub(crate) fn signal_group(leader: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) touches no memory.
    match unsafe { libc::kill(-leader.as_raw_nonzero().get(), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal to one process.
///
/// # Errors
/// The kernel's: it has been reaped, or there is no such signal.
pub(crate) fn signal_process(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and a null pointer stands for what kill(2) would tell of the sender.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the PID namespace the one into which the caller's next children are born.
///
/// # Errors
/// The kernel's, with `namespace` not a PID namespace below the caller's.
pub(crate) fn set_pid_namespace_for_children(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open; setns(2) touches no memory.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWPID) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sleeps until it is killed, while the kernel itself reaps whatever becomes this process's child.
pub(crate) fn reap_for_ever() -> ! {
    // SAFETY: ignoring SIGCHLD runs no handler; children then leave no zombies, also those inherited from the dead.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
    loop {
        // SAFETY: pause(2) has no preconditions.
        unsafe {
            libc::pause();
        }
    }
}

/// Keeps `fds` and the standard descriptors, and closes everything else: for a forked child that will not exec.
///
/// # Errors
/// The kernel's.
pub(crate) fn close_all_but<const N: usize>(fds: [BorrowedFd<'_>; N]) -> io::Result<()> {
    let mut kept = fds.map(|fd| libc::c_uint::try_from(fd.as_raw_fd()).unwrap_or_default());
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        close_range(first, fd)?;
        first = first.max(fd.saturating_add(1));
    }
    close_range(first, libc::c_uint::MAX)
}

/// Closes from `first` to before `end`.
fn close_range(first: libc::c_uint, end: libc::c_uint) -> io::Result<()> {
    if first >= end {
        return Ok(());
    }
    // SAFETY: only called by a forked child that uses none of these descriptors from then on; their owners are never
    // dropped, since the child ends with `exit_now` or never.
    match unsafe { libc::syscall(libc::SYS_close_range, first, end - 1, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
