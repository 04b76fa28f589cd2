//! The folders that an image wants to be there for its commands: its volumes, which take writes even if the root takes
//! none, and the folder in which they start. Everything happens inside of the workload's root, so that no link of the
//! image leads out of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use rustix::fs::{Mode, StatVfsMountFlags, chmod, statvfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::chdir;
use vmette_wire::Root;

use super::error::{Error, make_dir};
use crate::log;

/// The place of the memory that takes writes to volumes of a read-only root while they are put together; the workload sees
/// it through them only.
const WRITES: &str = "/run/.vmette-volumes";

/// Makes the folders. `/run` is mounted, shares are not yet: theirs go on top.
pub(super) fn make(root: &Root) -> Result<(), Error> {
    // Sorted, so that one inside of another comes after it and finds it writable.
    let mut writes = None;
    for (i, volume) in root.volumes.iter().enumerate() {
        let made = fs::create_dir_all(volume).and_then(|()| chdir(volume.as_str()).map_err(Into::into));
        made.map_err(Error::io(format!("make the image's volume {volume}")))?;
        if takes_writes(volume)? {
            continue;
        }
        if writes.is_none() {
            writes = Some(Writes::mount()?);
        }
        cover_here(i, volume)?;
    }
    chdir("/").map_err(Error::io("return to the root"))?;
    drop(writes);
    if let Some(dir) = &root.working_dir
        && let Err(e) = fs::create_dir_all(dir)
    {
        // Only a command that starts there has a use for it, and is told.
        log::note(format_args!("the image's working directory {dir} cannot be made: {e}"));
    }
    Ok(())
}

/// Finds out whether the current folder takes writes.
fn takes_writes(volume: &str) -> Result<bool, Error> {
    let found = statvfs(".").map_err(Error::io(format!("examine the volume {volume}")))?;
    Ok(!found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Lays a writable folder over the current one, of which everything stays to be seen.
fn cover_here(i: usize, volume: &str) -> Result<(), Error> {
    let failed = || format!("make the volume {volume} writable");
    let (upper, work) = (format!("{WRITES}/{i}/upper"), format!("{WRITES}/{i}/work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    // The merged folder has the owner and the permissions of the upper one.
    let own = fs::metadata(".").map_err(Error::io(failed()))?;
    chown(&upper, Some(own.uid()), Some(own.gid())).map_err(Error::io(failed()))?;
    chmod(&upper, Mode::from_raw_mode(own.mode() & 0o7777)).map_err(Error::io(failed()))?;
    // By the current folder: a path in the options could hold their separators.
    let data = std::ffi::CString::new(format!("lowerdir=.,upperdir={upper},workdir={work}"))
        .map_err(|e| Error::io(failed())(std::io::Error::from(e)))?;
    // Without options, like the root itself: the image's files work as they do elsewhere.
    mount("overlay", ".", "overlay", MountFlags::empty(), data.as_c_str()).map_err(Error::io(failed()))
}

/// The memory that takes the writes; out of sight when this is gone, and kept by the volumes.
struct Writes;

impl Writes {
    fn mount() -> Result<Self, Error> {
        make_dir(WRITES)?;
        mount("tmpfs", WRITES, "tmpfs", MountFlags::empty(), c"mode=0700")
            .map_err(Error::io("mount a tmpfs for the image's volumes"))?;
        Ok(Self)
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        let gone = unmount(WRITES, UnmountFlags::DETACH)
            .map_err(std::io::Error::from)
            .and_then(|()| fs::remove_dir(Path::new(WRITES)));
        if let Err(e) = gone {
            log::note(format_args!("{WRITES} stays: {e}"));
        }
    }
}
