//! The state of a process that its parent leaves behind: made what vmette needs, at the start of the command and before
//! there is a second thread. A cron job, a container's entry point or a test runner hands down what it happens to have.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::signal::SigSet;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use signal_hook::consts::{SIGCHLD, SIGXFSZ};

/// Permissions that no file of vmette's gets, whatever the parent's mask lets pass: nobody else writes to the cache.
const OTHERS_WRITE: Mode = Mode::WGRP.union(Mode::WOTH);

/// Limits of which a run may have as much as the system lets this user have: a soft limit is a parent's wish for itself.
/// The one of the stack is not among them, since the C library sizes the stacks of threads by it.
const RAISED: &[Resource] = &[
    Resource::Nofile,
    Resource::Fsize,
    #[cfg(target_os = "linux")]
    Resource::As,
    Resource::Data,
    Resource::Cpu,
    Resource::Nproc,
];

/// Makes the process what vmette needs. Signals that are ignored on purpose stay ignored, see [`crate::ignored`].
///
/// # Errors
/// The system refuses a handler.
pub(crate) fn normalise() -> io::Result<()> {
    // A blocked SIGTERM would end nothing.
    SigSet::all().thread_unblock()?;
    // The flag is never looked at. With a handler SIGCHLD is not ignored any more: children of a process that ignores it
    // leave no status. And a file that grows beyond its limit becomes an error, rather than the end of the process.
    for signal in [SIGCHLD, SIGXFSZ] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    umask(umask(OTHERS_WRITE) | OTHERS_WRITE);
    for &resource in RAISED {
        let limit = getrlimit(resource);
        // Fails on macOS for limits beyond the kernel's own; the limit is then what it was.
        let _ = setrlimit(resource, Rlimit { current: limit.maximum, ..limit });
    }
    Ok(())
}
