//! The file systems that every workload finds mounted beside its root: `/dev`, `/proc`, `/sys`, `/run`, `/tmp`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{CWD, FileType, Mode, chmod, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use vmette_wire::Root;
use vmette_wire::root::Overlay;

use super::error::{Error, make_dir};
use crate::log;

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

/// A device node to be made in the workload's `/dev`.
#[derive(Debug)]
pub(super) struct Node {
    name: String,
    kind: FileType,
    mode: u16,
    device: u64,
}

/// The machine's devices that a workload gets. They are looked up while the machine's own `/dev` is to be seen.
pub(super) fn nodes() -> io::Result<Vec<Node>> {
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

/// Mounts a `/dev` with the devices that a workload may use. It is not the machine's: the agent's port is not in it.
pub(super) fn devices(nodes: &[Node]) -> Result<(), Error> {
    make_place("/dev")?;
    mount("tmpfs", "/dev", "tmpfs", MountFlags::NOSUID, c"mode=0755,size=4m")
        .map_err(Error::io("mount /dev"))?;
    for node in nodes {
        let path = format!("/dev/{}", node.name);
        if let Some((folder, _)) = node.name.rsplit_once('/') {
            make_dir(&format!("/dev/{folder}"))?;
        }
        let mode = Mode::from_raw_mode(node.mode.into());
        mknodat(CWD, &path, node.kind, mode, node.device)
            .and_then(|()| chmod(&path, mode))
            .map_err(Error::io(format!("make {path}")))?;
    }
    for (target, path) in LINKS {
        symlink(target, path).map_err(Error::io(format!("make {path}")))?;
    }
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        make_dir(dir)?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", "/dev/pts", "devpts", flags, c"newinstance,ptmxmode=0666,mode=0620,gid=5")
        .map_err(Error::io("mount /dev/pts"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", "/dev/shm", "tmpfs", flags, c"mode=1777").map_err(Error::io("mount /dev/shm"))?;
    match mount("mqueue", "/dev/mqueue", "mqueue", flags | MountFlags::NOEXEC, None) {
        // The kernel may be built without.
        Ok(()) | Err(Errno::NODEV) => Ok(()),
        Err(e) => Err(Error::io("mount /dev/mqueue")(e)),
    }
}

/// Mounts everything but `/dev`. With `switch_root` its PID 1 mounts `/proc`, which must be that of
/// its own PID namespace.
pub(super) fn mount_all(root: &Root) -> Result<(), Error> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    for dir in ["/proc", "/sys", "/run"] {
        make_place(dir)?;
    }
    let has_tmp = make_tmp("/tmp")?;
    if !root.switch_root {
        mount("proc", "/proc", "proc", safe | MountFlags::NOEXEC, None).map_err(Error::io("mount /proc"))?;
    }
    mount("sysfs", "/sys", "sysfs", safe | MountFlags::NOEXEC | MountFlags::RDONLY, None)
        .map_err(Error::io("mount /sys"))?;
    mount("tmpfs", "/run", "tmpfs", safe, c"mode=0755").map_err(Error::io("mount /run"))?;
    if has_tmp && root.overlay != Overlay::Scratch {
        mount("tmpfs", "/tmp", "tmpfs", safe, c"mode=1777").map_err(Error::io("mount /tmp"))?;
    }
    Ok(())
}

/// Makes a folder for a file system that every workload has. An image may have a file in its place, or a link that leads
/// nowhere: that gives way.
fn make_place(path: &str) -> Result<(), Error> {
    match fs::create_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let failed = format!("replace the image's {path}, which is not a folder");
            fs::remove_file(path).map_err(Error::io(failed))?;
            make_dir(path)
        }
        _ => make_dir(path),
    }
}

/// Makes `/tmp` for everybody, unless the image has one: what it may be used for there is the image's to say. Returns
/// whether it is a folder. An image may have a file in its place, or a link that leads nowhere, and that stays.
fn make_tmp(path: &str) -> Result<bool, Error> {
    match fs::create_dir(path) {
        Ok(()) => chmod(path, Mode::from_raw_mode(0o1777))
            .map(|()| true)
            .map_err(Error::io(format!("give {path} its permissions"))),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let is_folder = fs::metadata(path).is_ok_and(|found| found.is_dir());
            if !is_folder {
                log::note(format_args!("{path} of the workload is left as it is: it is not a folder"));
            }
            Ok(is_folder)
        }
        Err(e) => Err(Error::io(format!("make the folder {path}"))(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// What an image has under that name, and what becomes of it.
    fn with(prepare: fn(&str), check: fn(&str)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("place").display().to_string();
        prepare(&path);
        check(&path);
    }

    const NOWHERE: fn(&str) = |path| symlink("/nowhere/tmp", path).unwrap();
    const FILE: fn(&str) = |path| fs::write(path, "x").unwrap();
    const LOOP: fn(&str) = |path| symlink("place", path).unwrap();
    const LINK: fn(&str) = |path| {
        fs::create_dir(path.to_owned() + "-target").unwrap();
        symlink("place-target", path).unwrap();
    };

    #[test]
    fn what_is_no_folder_gives_way_to_a_file_system() {
        for prepare in [NOWHERE, FILE, LOOP, |_| {}] {
            with(prepare, |path| {
                make_place(path).unwrap();
                assert!(fs::symlink_metadata(path).unwrap().is_dir());
            });
        }
        with(LINK, |path| {
            make_place(path).unwrap();
            assert!(fs::symlink_metadata(path).unwrap().is_symlink(), "the image's own");
        });
    }

    #[test]
    fn a_tmp_that_is_no_folder_stays() {
        for prepare in [NOWHERE, FILE, LOOP] {
            with(prepare, |path| {
                assert!(!make_tmp(path).unwrap());
                assert!(!fs::symlink_metadata(path).unwrap().is_dir());
            });
        }
        with(LINK, |path| assert!(make_tmp(path).unwrap()));
        with(
            |_| {},
            |path| {
                assert!(make_tmp(path).unwrap());
                assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o1777);
            },
        );
    }
}
