//! Shares of a root. Those that come and go while it is there are mounted and unmounted by a child of the agent that
//! enters it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::mount::{MountFlags, UnmountFlags, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vmette_wire::devices::Share;
use vmette_wire::root::{Attach, Detach};

use super::error::{Error, environment};
use super::trust;
use crate::devices::Uevents;
use crate::{report, sys};

/// The whole life of the child: `change` returns environment for the root's commands.
pub(crate) fn run(
    to: OwnedFd,
    mount_ns: BorrowedFd<'_>,
    change: impl FnOnce() -> Result<Vec<String>, Error>,
) -> ! {
    let done = enter(mount_ns).and_then(|()| change());
    // Nobody reads it when the agent is gone.
    let _ = report::send(&File::from(to), &done.map(environment));
    sys::exit_now(0)
}

fn enter(mount_ns: BorrowedFd<'_>) -> Result<(), Error> {
    move_into_link_name_space(mount_ns, Some(LinkNameSpaceType::Mount))
        .map_err(Error::io("enter the workload's root"))
}

/// Mounts shares, waits for vsock, and makes the workload trust the certificates.
pub(crate) fn attach(attach: &Attach, ca_bundle: &[u8], read_only: bool) -> Result<Vec<String>, Error> {
    mount(&outermost_first(&attach.shares))?;
    if attach.vsock {
        Uevents::of_kernel()?.vsock()?;
    }
    if ca_bundle.is_empty() {
        return Ok(Vec::new());
    }
    trust::install(ca_bundle, read_only).map_err(Error::io("install the CA certificates"))
}

fn mount(shares: &[&Share]) -> Result<(), Error> {
    // They may still be on their way.
    let uevents = Uevents::of_kernel()?;
    let hint = " (is the root read-only? then the folder must be there when the snapshot is made)";
    shares.iter().try_for_each(|share| mount_at_target(&uevents, share, hint))
}

/// The order in which shares are mounted: one inside of another comes after it, or it would be covered.
pub(super) fn outermost_first(shares: &[Share]) -> Vec<&Share> {
    let mut ordered: Vec<&Share> = shares.iter().collect();
    ordered.sort_by_key(|share| share.target.split('/').filter(|part| !part.is_empty()).count());
    ordered
}

/// Mounts a share where the workload's root is `/`.
pub(super) fn mount_at_target(uevents: &Uevents, share: &Share, hint: &str) -> Result<(), Error> {
    let Share { tag, target, read_only } = share;
    fs::create_dir_all(target)
        .map_err(Error::io(format!("make the folder {target} for share {tag}{hint}")))?;
    let flags = if *read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    Ok(uevents.mount_share(tag, target, flags)?)
}

/// Unmounts shares. A share in use stays, and so do all that were mounted before it: a lazy unmount would leave the device
/// in use.
pub(crate) fn detach(detach: &Detach) -> Result<Vec<String>, Error> {
    let shares = outermost_first(&detach.shares);
    for (i, Share { tag, target, .. }) in shares.iter().enumerate().rev() {
        let gone = unmount(target.as_str(), UnmountFlags::NOFOLLOW).map_err(io::Error::from);
        if let Err(e) = gone {
            // The others come back: a session goes on with all of its shares or none.
            mount(&shares[i + 1..])?;
            return Err(Error::io(format!("unmount share {tag} at {target}"))(e));
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_inside_of_another_is_mounted_after_it() {
        let shares = ["/w/in/ner", "/z", "/w//in", "/w"].map(|target| Share {
            tag: "t".into(),
            target: target.into(),
            read_only: false,
        });
        let ordered: Vec<&str> = outermost_first(&shares).iter().map(|share| share.target.as_str()).collect();
        assert_eq!(ordered, ["/z", "/w", "/w//in", "/w/in/ner"]);
    }
}
