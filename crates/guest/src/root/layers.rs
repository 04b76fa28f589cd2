//! The layers of a root: the rootfs, a skeleton of places that must exist, and what takes the writes.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};

use rustix::fs::{Mode, chmod};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_move};
use rustix::process::{chdir, chroot};
use vmette_wire::devices::SCRATCH_SERIAL;
use vmette_wire::root::{Base, Overlay};

use super::error::{Error, make_dir};
use super::plan::Plan;
use super::resolv;
use super::system::{self, Node};
use crate::devices::Uevents;
use crate::{log, programs};

/// The place where the layers are put together, in a mount namespace of its own. Out of the workload's sight once the root
/// is entered.
const WORK: &str = "/work";
const LOWER: &str = "/work/lower";
const WRITES: &str = "/work/writes";
const SKELETON: &str = "/work/skeleton";
const MERGED: &str = "/work/merged";

/// This program, in the initramfs.
const INIT: &str = "/init";

/// Places that must exist in a read-only root; an image's own come first.
const SKELETON_DIRS: [&str; 7] = ["proc", "sys", "dev", "run", "tmp", "mnt", "etc/ssl/certs"];
const SKELETON_FILES: [&str; 4] =
    ["etc/hosts", "etc/hostname", "etc/machine-id", "etc/ssl/certs/vmette-host-ca.pem"];

/// The merged root, before it is entered.
#[derive(Debug)]
pub(super) struct Layers {
    pub(super) uevents: Uevents,
    nodes: Vec<Node>,
}

impl Layers {
    /// Mounts the rootfs and what takes its writes, and merges them.
    pub(super) fn mount(plan: &Plan<'_>) -> Result<Self, Error> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(Error::io("make the mounts private"))?;
        make_dir(WORK)?;
        tmpfs(WORK, c"mode=0700")?;
        for dir in [LOWER, WRITES, MERGED] {
            make_dir(dir)?;
        }
        let uevents = Uevents::of_kernel()?;
        match &plan.root.base {
            Base::Block { serial, fstype } => {
                let disk = uevents.disk(serial)?;
                // The device is read-only: a journal cannot be replayed.
                let data = (fstype == "ext4").then_some(c"noload");
                mount(&disk, LOWER, fstype.as_str(), MountFlags::RDONLY, data)
                    .map_err(Error::io(format!("mount the rootfs ({fstype} on {disk})")))?;
            }
            Base::Share { tag } => uevents.mount_share(tag, LOWER, MountFlags::RDONLY)?,
        }
        let data = match plan.root.overlay {
            Overlay::None => {
                skeleton(plan)?;
                format!("lowerdir={LOWER}:{SKELETON}")
            }
            Overlay::Tmpfs => {
                tmpfs(WRITES, c"mode=0755")?;
                writable_overlay(plan)?
            }
            Overlay::Scratch => {
                let disk = uevents.disk(SCRATCH_SERIAL)?;
                mount(&disk, WRITES, "ext4", MountFlags::empty(), None)
                    .map_err(Error::io(format!("mount the scratch disk (ext4 on {disk})")))?;
                log::note("overlay upper on scratch disk");
                writable_overlay(plan)?
            }
        };
        let data = CString::new(data).map_err(|e| Error::io("merge the root")(io::Error::from(e)))?;
        mount("overlay", MERGED, "overlay", MountFlags::empty(), data.as_c_str())
            .map_err(Error::io("merge the rootfs and its overlay"))?;
        let nodes = system::nodes().map_err(Error::io("list the devices"))?;
        Ok(Self { uevents, nodes })
    }

    /// Makes the merged root `/`. The initramfs cannot be pivoted away from (it is the kernel's first mount, which has
    /// no parent), so the root is moved on top of it, as `switch_root` does; everything that is mounted from here on
    /// resolves inside of the root, whatever links the image contains.
    pub(super) fn enter(&self) -> Result<(), Error> {
        let failed = "enter the workload's root";
        chdir(MERGED).map_err(Error::io(failed))?;
        mount_move(".", "/").map_err(Error::io(failed))?;
        chroot(".").map_err(Error::io(failed))?;
        chdir("/").map_err(Error::io(failed))?;
        system::devices(&self.nodes)
    }
}

fn tmpfs(target: &str, data: &CStr) -> Result<(), Error> {
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), data)
        .map_err(Error::io(format!("mount a tmpfs at {target}")))
}

/// Options of a merge that takes writes, in folders of the root's own: several roots may have one disk for them.
fn writable_overlay(plan: &Plan<'_>) -> Result<String, Error> {
    let own = format!("{WRITES}/{}", plan.root.name);
    let (upper, work) = (format!("{own}/upper"), format!("{own}/work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    // The merged root has the owner and the permissions of the upper layer's folder. An image says what they are; a
    // folder of the host says only who may enter it there.
    let (owner, mode) = match plan.root.base {
        Base::Block { .. } => {
            let lower = fs::symlink_metadata(LOWER).map_err(Error::io("look at the rootfs"))?;
            ((lower.uid(), lower.gid()), lower.mode() & 0o7777)
        }
        Base::Share { .. } => ((0, 0), 0o755),
    };
    chown(&upper, Some(owner.0), Some(owner.1)).map_err(Error::io("give the overlay its owner"))?;
    chmod(&upper, Mode::from_raw_mode(mode)).map_err(Error::io("give the overlay its permissions"))?;
    let mut lower = LOWER.to_owned();
    if plan.programs {
        programs()?;
        lower = format!("{LOWER}:{SKELETON}");
    }
    Ok(format!("lowerdir={lower},upperdir={upper},workdir={work}"))
}

/// A layer below the rootfs with the places that have to exist: nobody can make them later.
fn skeleton(plan: &Plan<'_>) -> Result<(), Error> {
    make_dir(SKELETON)?;
    let root = plan.root;
    let shares = root.shares.iter().map(|share| &share.target);
    let wanted =
        shares.chain(&root.volumes).chain(&root.working_dir).map(|path| path.trim_start_matches('/'));
    for dir in SKELETON_DIRS.into_iter().chain(wanted) {
        make_dir(&format!("{SKELETON}/{dir}"))?;
    }
    for file in SKELETON_FILES {
        fs::write(format!("{SKELETON}/{file}"), b"").map_err(Error::io(format!("make {file}")))?;
    }
    if plan.name_servers.is_some() {
        let file = resolv::PATH;
        fs::write(format!("{SKELETON}{file}"), b"").map_err(Error::io(format!("make {file}")))?;
    }
    if plan.programs { programs() } else { Ok(()) }
}

/// The programs for vsock, in a layer below the rootfs: an image's own of the same name comes first, and no link in it
/// leads anywhere.
fn programs() -> Result<(), Error> {
    let folder = format!("{SKELETON}/{}", programs::FOLDER);
    make_dir(&folder)?;
    let mut first: Option<String> = None;
    for name in programs::NAMES {
        let path = format!("{folder}/{name}");
        match &first {
            Some(first) => fs::hard_link(first, &path),
            None => fs::copy(INIT, &path).map(drop),
        }
        .map_err(Error::io(format!("make the program {name}")))?;
        first.get_or_insert(path);
    }
    Ok(())
}
