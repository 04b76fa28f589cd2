//! The workload's file systems.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, chmod, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_move};
use rustix::process::{chdir, chroot};
use vmette_wire::agent::{Boot, Overlay, ROOTFS_SERIAL, ROOTFS_TAG, Root, SCRATCH_SERIAL, Share};

use crate::boot::{BootError, make_dir};
use crate::devices::{self, Uevents};
use crate::{log, net, programs};

/// How long a disk or a share may take to appear: it may be plugged in while the guest boots.
const DEVICE_DEADLINE: Duration = Duration::from_secs(20);

/// Where the layers are put together. Out of the workload's sight once it is entered.
const WORK: &str = "/work";
const LOWER: &str = "/work/lower";
const WRITES: &str = "/work/writes";
const SKELETON: &str = "/work/skeleton";
const MERGED: &str = "/work/merged";

/// This program, in the initramfs.
const INIT: &str = "/init";

/// Devices every workload has, with their permissions. Those that the kernel lacks are left out.
const DEVICES: [(&str, u16); 13] = [
    ("null", 0o666),
    ("zero", 0o666),
    ("full", 0o666),
    ("random", 0o666),
    ("urandom", 0o666),
    ("tty", 0o666),
    ("console", 0o600),
    ("fuse", 0o666),
    ("net/tun", 0o666),
    ("kvm", 0o666),
    ("loop-control", 0o660),
    ("hwrng", 0o600),
    ("vsock", 0o666),
];

/// Disks and loop devices: what the run was given is root's to use.
const DISKS: [&str; 2] = ["vd", "loop"];

/// Names in `/dev` that programs expect.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Places that must exist in a read-only root; an image's own come first.
const SKELETON_DIRS: [&str; 7] = ["proc", "sys", "dev", "run", "tmp", "mnt", "etc/ssl/certs"];
const SKELETON_FILES: [&str; 4] =
    ["etc/hosts", "etc/hostname", "etc/machine-id", "etc/ssl/certs/vmette-host-ca.pem"];

/// A device node to be made in the workload's `/dev`.
#[derive(Debug)]
struct Node {
    name: String,
    kind: FileType,
    mode: u16,
    device: u64,
}

/// The merged root, before it is entered.
#[derive(Debug)]
pub(crate) struct Layers {
    uevents: Uevents,
    nodes: Vec<Node>,
}

impl Layers {
    /// Mounts the rootfs and what takes its writes, and merges them.
    pub(crate) fn mount(boot: &Boot) -> Result<Self, BootError> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(BootError::io("make the mounts private"))?;
        make_dir(WORK)?;
        tmpfs(WORK, c"mode=0700")?;
        for dir in [LOWER, WRITES, MERGED] {
            make_dir(dir)?;
        }
        let uevents = Uevents::subscribe().map_err(BootError::io("listen for devices"))?;
        match &boot.root {
            Root::Block { fstype } => {
                let disk = wait_for_disk(&uevents, ROOTFS_SERIAL)?;
                // The device is read-only: a journal cannot be replayed.
                let data = (fstype == "ext4").then_some(c"noload");
                mount(&disk, LOWER, fstype.as_str(), MountFlags::RDONLY, data)
                    .map_err(BootError::io(format!("mount the rootfs ({fstype} on {disk})")))?;
            }
            Root::Share => mount_share(&uevents, ROOTFS_TAG, LOWER, MountFlags::RDONLY)?,
        }
        let data = match boot.overlay {
            Overlay::None => {
                skeleton(boot)?;
                format!("lowerdir={LOWER}:{SKELETON}")
            }
            Overlay::Tmpfs => {
                tmpfs(WRITES, c"mode=0755")?;
                writable_overlay(boot)?
            }
            Overlay::Scratch => {
                let disk = wait_for_disk(&uevents, SCRATCH_SERIAL)?;
                mount(&disk, WRITES, "ext4", MountFlags::empty(), None)
                    .map_err(BootError::io(format!("mount the scratch disk (ext4 on {disk})")))?;
                log::note("overlay upper on scratch disk");
                writable_overlay(boot)?
            }
        };
        let data = CString::new(data).map_err(|e| BootError::io("merge the root")(io::Error::from(e)))?;
        mount("overlay", MERGED, "overlay", MountFlags::empty(), data.as_c_str())
            .map_err(BootError::io("merge the rootfs and its overlay"))?;
        for serial in &boot.disks {
            wait_for_disk(&uevents, serial)?;
        }
        if boot.vsock {
            wait_for_vsock(&uevents)?;
        }
        let nodes = nodes().map_err(BootError::io("list the devices"))?;
        Ok(Self { uevents, nodes })
    }

    /// Makes the merged root `/`. The initramfs cannot be pivoted away from (it is the kernel's first mount, which has
    /// no parent), so the root is moved on top of it, as `switch_root` does; everything that is mounted from here on
    /// resolves inside of the root, whatever links the image contains.
    pub(crate) fn enter(&self) -> Result<(), BootError> {
        let failed = "enter the workload's root";
        chdir(MERGED).map_err(BootError::io(failed))?;
        mount_move(".", "/").map_err(BootError::io(failed))?;
        chroot(".").map_err(BootError::io(failed))?;
        chdir("/").map_err(BootError::io(failed))?;
        self.devices()
    }

    /// Mounts a share at its target.
    pub(crate) fn share(&self, share: &Share, read_only_root: bool) -> Result<(), BootError> {
        let hint = if read_only_root { " (the root is read-only, and a link is in the way)" } else { "" };
        mount_at_target(&self.uevents, share, hint)
    }

    /// A `/dev` that has what a workload may use, and not the machine's: the port of the agent is not in it.
    fn devices(&self) -> Result<(), BootError> {
        make_dir("/dev")?;
        mount("tmpfs", "/dev", "tmpfs", MountFlags::NOSUID, c"mode=0755,size=4m")
            .map_err(BootError::io("mount /dev"))?;
        for node in &self.nodes {
            let path = format!("/dev/{}", node.name);
            if let Some((folder, _)) = node.name.rsplit_once('/') {
                make_dir(&format!("/dev/{folder}"))?;
            }
            let mode = Mode::from_raw_mode(node.mode.into());
            mknodat(CWD, &path, node.kind, mode, node.device)
                .and_then(|()| chmod(&path, mode))
                .map_err(BootError::io(format!("make {path}")))?;
        }
        for (target, path) in LINKS {
            symlink(target, path).map_err(BootError::io(format!("make {path}")))?;
        }
        for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
            make_dir(dir)?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount("devpts", "/dev/pts", "devpts", flags, c"newinstance,ptmxmode=0666,mode=0620,gid=5")
            .map_err(BootError::io("mount /dev/pts"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", "/dev/shm", "tmpfs", flags, c"mode=1777").map_err(BootError::io("mount /dev/shm"))?;
        match mount("mqueue", "/dev/mqueue", "mqueue", flags | MountFlags::NOEXEC, None) {
            // The kernel may be built without.
            Ok(()) | Err(Errno::NODEV) => Ok(()),
            Err(e) => Err(BootError::io("mount /dev/mqueue")(e)),
        }
    }
}

/// What every workload finds mounted, besides `/dev`. With `switch_root` its PID 1 mounts `/proc`, which must be that of
/// its own PID namespace.
pub(crate) fn system(boot: &Boot) -> Result<(), BootError> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    for dir in ["/proc", "/sys", "/run"] {
        make_dir(dir)?;
    }
    make_tmp()?;
    if !boot.switch_root {
        mount("proc", "/proc", "proc", safe | MountFlags::NOEXEC, None)
            .map_err(BootError::io("mount /proc"))?;
    }
    mount("sysfs", "/sys", "sysfs", safe | MountFlags::NOEXEC | MountFlags::RDONLY, None)
        .map_err(BootError::io("mount /sys"))?;
    mount("tmpfs", "/run", "tmpfs", safe, c"mode=0755").map_err(BootError::io("mount /run"))?;
    if boot.overlay != Overlay::Scratch {
        mount("tmpfs", "/tmp", "tmpfs", safe, c"mode=1777").map_err(BootError::io("mount /tmp"))?;
    }
    Ok(())
}

/// Makes `/tmp` for everybody, unless the image has one: what it may be used for there is the image's to say.
fn make_tmp() -> Result<(), BootError> {
    if fs::create_dir("/tmp").is_err() {
        return make_dir("/tmp");
    }
    chmod("/tmp", Mode::from_raw_mode(0o1777)).map_err(BootError::io("give /tmp its permissions"))
}

fn tmpfs(target: &str, data: &'static std::ffi::CStr) -> Result<(), BootError> {
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), data)
        .map_err(BootError::io(format!("mount a tmpfs at {target}")))
}

fn writable_overlay(boot: &Boot) -> Result<String, BootError> {
    let (upper, work) = (format!("{WRITES}/upper"), format!("{WRITES}/work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    // The merged root has the owner and the permissions of the upper layer's folder. An image says what they are; a
    // folder of the host says only who may enter it there.
    let (owner, mode) = match boot.root {
        Root::Block { .. } => {
            let lower = fs::symlink_metadata(LOWER).map_err(BootError::io("look at the rootfs"))?;
            ((lower.uid(), lower.gid()), lower.mode() & 0o7777)
        }
        Root::Share => ((0, 0), 0o755),
    };
    chown(&upper, Some(owner.0), Some(owner.1)).map_err(BootError::io("give the overlay its owner"))?;
    chmod(&upper, Mode::from_raw_mode(mode)).map_err(BootError::io("give the overlay its permissions"))?;
    let mut lower = LOWER.to_owned();
    if boot.vsock || boot.savable {
        programs()?;
        lower = format!("{LOWER}:{SKELETON}");
    }
    Ok(format!("lowerdir={lower},upperdir={upper},workdir={work}"))
}

/// A layer below the rootfs with the places that have to exist: nobody can make them later.
fn skeleton(boot: &Boot) -> Result<(), BootError> {
    make_dir(SKELETON)?;
    let shares = boot.shares.iter().map(|share| &share.target);
    let wanted =
        shares.chain(&boot.volumes).chain(&boot.working_dir).map(|path| path.trim_start_matches('/'));
    for dir in SKELETON_DIRS.into_iter().chain(wanted) {
        make_dir(&format!("{SKELETON}/{dir}"))?;
    }
    for file in SKELETON_FILES {
        fs::write(format!("{SKELETON}/{file}"), b"").map_err(BootError::io(format!("make {file}")))?;
    }
    if boot.network {
        let file = net::RESOLV_CONF;
        fs::write(format!("{SKELETON}{file}"), b"").map_err(BootError::io(format!("make {file}")))?;
    }
    if boot.vsock || boot.savable { programs() } else { Ok(()) }
}

/// The programs for vsock, in a layer below the rootfs: an image's own of the same name comes first, and no link in it
/// leads anywhere.
fn programs() -> Result<(), BootError> {
    let folder = format!("{SKELETON}/{}", programs::FOLDER);
    make_dir(&folder)?;
    let mut first: Option<String> = None;
    for name in programs::NAMES {
        let path = format!("{folder}/{name}");
        match &first {
            Some(first) => fs::hard_link(first, &path),
            None => fs::copy(INIT, &path).map(drop),
        }
        .map_err(BootError::io(format!("make the program {name}")))?;
        first.get_or_insert(path);
    }
    Ok(())
}

fn wait_for_disk(uevents: &Uevents, serial: &str) -> Result<String, BootError> {
    uevents
        .wait_for(DEVICE_DEADLINE, || devices::disk(serial))
        .map_err(BootError::io("look for disks"))?
        .ok_or_else(|| BootError::NoDisk { serial: serial.to_owned(), seconds: DEVICE_DEADLINE.as_secs() })
}

pub(crate) fn wait_for_vsock(uevents: &Uevents) -> Result<(), BootError> {
    uevents
        .wait_for(DEVICE_DEADLINE, devices::vsock)
        .map_err(BootError::io("look for the vsock device"))?
        .ok_or(BootError::NoVsock { seconds: DEVICE_DEADLINE.as_secs() })
}

/// Mounts a share where the workload's root is `/`.
pub(crate) fn mount_at_target(uevents: &Uevents, share: &Share, hint: &str) -> Result<(), BootError> {
    let Share { tag, target, read_only } = share;
    fs::create_dir_all(target)
        .map_err(BootError::io(format!("make the folder {target} for share {tag}{hint}")))?;
    let flags = if *read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mount_share(uevents, tag, target, flags)
}

fn mount_share(uevents: &Uevents, tag: &str, target: &str, flags: MountFlags) -> Result<(), BootError> {
    let mounted = uevents.wait_for(DEVICE_DEADLINE, || match mount(tag, target, "virtiofs", flags, None) {
        Ok(()) => Ok(Some(())),
        // No device with this tag, so far.
        Err(Errno::INVAL) => Ok(None),
        Err(e) => Err(e.into()),
    });
    mounted
        .map_err(BootError::io(format!("mount share {tag} at {target}")))?
        .ok_or_else(|| BootError::NoShare { tag: tag.to_owned(), seconds: DEVICE_DEADLINE.as_secs() })
}

/// The machine's devices that a workload gets.
fn nodes() -> io::Result<Vec<Node>> {
    let mut wanted: Vec<(String, u16)> =
        DEVICES.iter().map(|(name, mode)| ((*name).to_owned(), *mode)).collect();
    for entry in fs::read_dir("/dev")? {
        if let Some(name) = entry?.file_name().to_str()
            && DISKS.iter().any(|prefix| name.starts_with(prefix))
            && name != "loop-control"
        {
            wanted.push((name.to_owned(), 0o660));
        }
    }
    let mut nodes = Vec::new();
    for (name, mode) in wanted {
        let Ok(found) = fs::symlink_metadata(format!("/dev/{name}")) else { continue };
        let kind = FileType::from_raw_mode(found.mode());
        if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            nodes.push(Node { name, kind, mode, device: found.rdev() });
        }
    }
    Ok(nodes)
}
