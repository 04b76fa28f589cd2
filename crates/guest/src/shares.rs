//! Shares and devices that come and go while the workload's root is there: a child of the agent enters the root and
//! mounts or unmounts what belongs there.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vmette_wire::agent::{Attach, Share};

use crate::boot::BootError;
use crate::devices::Uevents;
use crate::{boot, mounts, sys, trust};

/// The whole life of the child: `change` returns environment for the workload's commands.
pub(crate) fn run(
    report: OwnedFd,
    mount_ns: BorrowedFd<'_>,
    change: impl FnOnce() -> Result<Vec<String>, BootError>,
) -> ! {
    let done = enter(mount_ns).and_then(|()| change());
    // Nobody reads it when the agent is gone.
    let _ = File::from(report).write_all(boot::report_of(&done).as_bytes());
    sys::exit_now(0)
}

fn enter(mount_ns: BorrowedFd<'_>) -> Result<(), BootError> {
    move_into_link_name_space(mount_ns.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(BootError::io("enter the workload's root"))
}

/// Mounts shares, waits for vsock, and makes the workload trust the certificates.
pub(crate) fn attach(attach: &Attach, ca_bundle: &[u8], read_only: bool) -> Result<Vec<String>, BootError> {
    mount(&attach.shares)?;
    if attach.vsock {
        mounts::wait_for_vsock(&uevents()?)?;
    }
    if ca_bundle.is_empty() {
        return Ok(Vec::new());
    }
    trust::install(ca_bundle, read_only).map_err(BootError::io("install the CA certificates"))
}

fn mount(shares: &[Share]) -> Result<(), BootError> {
    // They may still be on their way.
    let uevents = uevents()?;
    let hint = " (is the root read-only? then the folder must be there when the snapshot is made)";
    shares.iter().try_for_each(|share| mounts::mount_at_target(&uevents, share, hint))
}

fn uevents() -> Result<Uevents, BootError> {
    Uevents::subscribe().map_err(BootError::io("listen for devices"))
}

/// Unmounts shares. What is in use stays, and so does all that was mounted before it: a lazy unmount would leave the device in use.
pub(crate) fn detach(shares: &[Share]) -> Result<Vec<String>, BootError> {
    for (i, Share { tag, target, .. }) in shares.iter().enumerate().rev() {
        let gone = unmount(target.as_str(), UnmountFlags::NOFOLLOW).map_err(io::Error::from);
        if let Err(e) = gone {
            // The others come back: a session goes on with all of its shares or none.
            mount(&shares[i + 1..])?;
            return Err(BootError::io(format!("unmount share {tag} at {target}"))(e));
        }
    }
    Ok(Vec::new())
}
