//! Shares that come and go while the workload's root is there: a child of the agent enters the root and mounts or
//! unmounts them.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vmette_wire::agent::Share;

use crate::boot::BootError;
use crate::devices::Uevents;
use crate::{boot, mounts, sys};

/// The child's whole life.
pub(crate) fn run(report: OwnedFd, mount_ns: BorrowedFd<'_>, shares: &[Share], mount: bool) -> ! {
    let done = enter(mount_ns).and_then(|()| if mount { attach(shares) } else { detach(shares) });
    // Nobody reads it when the agent is gone.
    let _ = File::from(report).write_all(boot::report_of(&done.map(|()| Vec::new())).as_bytes());
    sys::exit_now(0)
}

fn enter(mount_ns: BorrowedFd<'_>) -> Result<(), BootError> {
    move_into_link_name_space(mount_ns.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(BootError::io("enter the workload's root"))
}

fn attach(shares: &[Share]) -> Result<(), BootError> {
    // They may still be on their way.
    let uevents = Uevents::subscribe().map_err(BootError::io("listen for devices"))?;
    let hint = " (is the root read-only? then the folder must be there when the snapshot is made)";
    shares.iter().try_for_each(|share| mounts::mount_at_target(&uevents, share, hint))
}

/// What is in use stays, and so does all that was mounted before it: a lazy unmount would leave the device in use.
fn detach(shares: &[Share]) -> Result<(), BootError> {
    for (i, Share { tag, target, .. }) in shares.iter().enumerate().rev() {
        let gone = unmount(target.as_str(), UnmountFlags::NOFOLLOW).map_err(io::Error::from);
        if let Err(e) = gone {
            // The others come back: a session goes on with all of its shares or none.
            attach(&shares[i + 1..])?;
            return Err(BootError::io(format!("unmount share {tag} at {target}"))(e));
        }
    }
    Ok(())
}
