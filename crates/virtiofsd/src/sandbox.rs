//! The restrictions of this process: namespaces in which the folder is all there is, the owner of its files, limits,
//! capabilities.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::mount::MountFlags;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use vhost::vhost_user::Listener;
use virtiofsd::idmap::{GidMap, UidMap};
use virtiofsd::sandbox::{Error, Sandbox, SandboxMode};
use virtiofsd::soft_idmap::cmdline::IdMap;

use crate::locks::OWNERS_MAX;

/// Descriptors that are never the guest's: one for each part of its memory (509 at most, says the vhost-user library),
/// and this program's own.
const RESERVED_FDS: u64 = 509 + 100;

/// Fewest descriptors of the guest's files with which serving is any use.
const GUEST_FDS_MIN: u64 = 64;

/// Most descriptors of the guest's files. Each keeps some KiB of the kernel's memory, and there are only so many for all
/// programs of a host. Files beyond that number are opened again when they are needed.
const GUEST_FDS_MAX: u64 = 1 << 16;

/// Capabilities of a file server that runs as root. `CAP_MKNOD` is not one of them: a guest could otherwise make a device node of a host's
/// disk in the folder, for any host process to stumble on. Neither is `CAP_SETFCAP`: programs with capabilities, for
/// any host user to run. Nor `CAP_DAC_READ_SEARCH`: with it a file is opened by a number, wherever it lies.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Highest number that a capability could ever have.
const CAPABILITY_BITS: u64 = 64;

/// The host as the process sees it from inside.
pub(crate) struct Inside {
    pub(crate) listener: Listener,
    pub(crate) root: String,
    pub(crate) mountinfo_prefix: Option<String>,
    pub(crate) mountinfo: Option<File>,
    /// `/proc/self/fd`.
    pub(crate) descriptors: Option<File>,
}

/// Why there is no sandbox.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The reason, and what would help.
    Reason(String),
    /// Another process tells the reason.
    Helper,
}

/// Enters the sandbox. The process that returns is another one than the one that calls.
///
/// # Errors
/// The sandbox cannot be had, or this process was to help with it, and the one that needed the help is gone.
pub(crate) fn enter(folder: String, ids: &Ids, listener: Listener) -> Result<Inside, Failure> {
    let caller = rustix::process::getpid();
    let mut sandbox = Sandbox::new(folder, SandboxMode::Namespace, ids.uid_map(), ids.gid_map());
    let mountinfo_prefix =
        sandbox.get_mountinfo_prefix().map_err(|e| Failure::Reason(format!("mountinfo: {e}")))?;
    // A process that helps the library would otherwise print how it ended when this one cannot go on.
    std::panic::set_hook(Box::new(|_| {}));
    let listener = sandbox.enter(listener).map_err(|e| match e {
        Error::Fork(_) if rustix::process::getpid() != caller => Failure::Helper,
        e => Failure::Reason(explain(&e)),
    })?;
    // The library asks for SIGTERM at the parent's death, and a change of ids may have cleared that.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| Failure::Reason(format!("parent-death signal: {e}")))?;
    Ok(Inside {
        listener,
        root: sandbox.get_root_dir(),
        mountinfo_prefix,
        mountinfo: sandbox.get_mountinfo_fd(),
        descriptors: sandbox.get_proc_self_fd(),
    })
}

/// The reason why no sandbox can be had, and what would help.
fn explain(error: &Error) -> String {
    let source = match error {
        Error::Unshare(e)
        | Error::CleanMount(e)
        | Error::MountProc(e)
        | Error::BindMountProcSelfFd(e)
        | Error::BindMountSharedDir(e)
        | Error::PivotRoot(e)
        | Error::Fork(e)
        | Error::OpenNewRoot(e) => e,
        other => return other.to_string(),
    };
    let read = |name: &str| std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
    let contained = ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists());
    remedy(error, source, rustix::process::geteuid().is_root(), contained, read)
}

fn remedy(
    error: &Error,
    source: &io::Error,
    is_root: bool,
    contained: bool,
    read: impl Fn(&str) -> Option<String>,
) -> String {
    let setting = |name: &str, bad: &str| read(name).is_some_and(|value| value.trim() == bad);
    match source.kind() {
        io::ErrorKind::StorageFull if matches!(error, Error::Unshare(_)) => {
            let max = read("user/max_user_namespaces").map(|max| max.trim().to_owned()).unwrap_or_default();
            format!(
                "there can be no more user namespaces (user.max_user_namespaces is {max}): raise it with `sudo sysctl user.max_user_namespaces=15000`"
            )
        }
        io::ErrorKind::PermissionDenied if contained || is_root => "namespaces and mounts are not permitted: \
             start the container with --cap-add SYS_ADMIN, and in Docker with --security-opt seccomp=unconfined \
             --security-opt apparmor=unconfined as well"
            .into(),
        io::ErrorKind::PermissionDenied => {
            let forbidding = [
                ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
                (
                    "kernel/apparmor_restrict_unprivileged_userns",
                    "1",
                    "kernel.apparmor_restrict_unprivileged_userns=0",
                ),
            ];
            let all = forbidding.map(|(_, _, remedy)| remedy);
            let found: Vec<&str> = forbidding
                .into_iter()
                .filter(|(name, bad, _)| setting(name, bad))
                .map(|(_, _, remedy)| remedy)
                .collect();
            let remedies = if found.is_empty() { all.to_vec() } else { found };
            format!(
                "user namespaces are not permitted for ordinary users: allow them with `sudo sysctl {}`",
                remedies.join(" ")
            )
        }
        _ => format!("{}: {source}", step(error)),
    }
}

fn step(error: &Error) -> &'static str {
    match error {
        Error::Unshare(_) => "new namespaces",
        Error::OpenNewRoot(_) => "open the folder",
        Error::PivotRoot(_) => "change the root",
        Error::Fork(_) => "start a process",
        _ => "mounts",
    }
}

/// The owner of the guest's files on the host.
pub(crate) enum Ids {
    /// Root's mapping: user 1000 of the guest is user 1000 of the host.
    Same,
    /// An ordinary user's mapping: all of the guest's users are this one. Files that the guest writes belong to the user
    /// who started the machine and can remove them; the user's own files show as root's in the guest.
    One { uid: u32, gid: u32 },
}

impl Ids {
    pub(crate) fn of_this_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() { Self::Same } else { Self::One { uid: uid.as_raw(), gid: gid.as_raw() } }
    }

    fn uid_map(&self) -> Vec<UidMap> {
        match *self {
            Self::Same => Vec::new(),
            Self::One { uid, .. } => vec![UidMap { inside_uid: 0, outside_uid: uid, count: 1 }],
        }
    }

    fn gid_map(&self) -> Vec<GidMap> {
        match *self {
            Self::Same => Vec::new(),
            Self::One { gid, .. } => vec![GidMap { inside_gid: 0, outside_gid: gid, count: 1 }],
        }
    }

    /// Whose files are whose: those of an ordinary user show as `owner`'s in the guest, whose kernel would keep that user
    /// from using them otherwise. On the host all of the guest's users are the one in any case.
    pub(crate) fn translation(&self, owner: u32) -> Vec<IdMap> {
        match self {
            Self::Same => Vec::new(),
            Self::One { .. } => vec![
                IdMap::SquashGuest { from_guest: 0, to_host: 0, count: u32::MAX },
                IdMap::Host { from_host: 0, to_guest: owner, count: 1 },
            ],
        }
    }
}

/// Takes as many descriptors as there may be, and are of use. Returns the number of those for the guest's files.
pub(crate) fn limit_descriptors() -> io::Result<u64> {
    let reserved = RESERVED_FDS + u64::try_from(OWNERS_MAX).unwrap_or(u64::MAX);
    let wanted = GUEST_FDS_MAX + reserved;
    let limit = getrlimit(Resource::Nofile).maximum.map_or(wanted, |maximum| maximum.min(wanted));
    // Few owners of locks are served rather than few files.
    let guest = limit.saturating_sub(reserved).max(limit.saturating_sub(RESERVED_FDS) / 2);
    if guest < GUEST_FDS_MIN {
        return Err(io::Error::other(format!(
            "the limit is {limit}, {} are needed: raise it (ulimit -Hn)",
            RESERVED_FDS + 2 * GUEST_FDS_MIN
        )));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    Ok(guest)
}

/// The largest file that this process may write. To write beyond it would end the process.
pub(crate) fn largest_file() -> io::Result<u64> {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum })?;
    let most = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    Ok(maximum.map_or(most, |maximum| maximum.min(most)))
}

/// A second refusal of writes below the one of the file system's own: by the kernel, in this process's mounts.
pub(crate) fn remount_read_only() -> io::Result<()> {
    // In a user namespace what restricts the original mount must be repeated.
    let now = rustix::fs::statvfs("/")?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (vfs, mount) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (rustix::fs::StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if now.contains(vfs) {
            flags |= mount;
        }
    }
    Ok(rustix::mount::mount_remount("/", flags, c"")?)
}

pub(crate) fn drop_capabilities() -> io::Result<()> {
    for bit in 0..CAPABILITY_BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !CAPABILITIES.contains(one) {
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The kernel knows fewer.
                Err(rustix::io::Errno::INVAL) => break,
                Err(e) => return Err(e.into()),
            }
        }
    }
    let permitted = rustix::thread::capabilities(None)?.permitted & CAPABILITIES;
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn unshare(errno: i32) -> Error {
        Error::Unshare(io::Error::from_raw_os_error(errno))
    }

    fn said(error: &Error, root: bool, contained: bool, settings: &[(&str, &str)]) -> String {
        let read = |name: &str| {
            settings.iter().find(|(known, _)| *known == name).map(|(_, value)| format!("{value}\n"))
        };
        let source = match error {
            Error::Unshare(e) | Error::CleanMount(e) => e,
            other => panic!("{other}"),
        };
        remedy(error, source, root, contained, read)
    }

    #[test]
    fn a_host_without_sandboxes_is_told_what_would_help() {
        let full = said(&unshare(libc::ENOSPC), false, false, &[("user/max_user_namespaces", "0")]);
        assert!(full.contains("user.max_user_namespaces is 0"), "{full}");
        let docker = said(&unshare(libc::EPERM), false, true, &[]);
        assert!(docker.contains("--cap-add SYS_ADMIN"), "{docker}");
        let root = said(&unshare(libc::EPERM), true, false, &[]);
        assert!(root.contains("--cap-add SYS_ADMIN"), "{root}");
        let debian = said(&unshare(libc::EPERM), false, false, &[("kernel/unprivileged_userns_clone", "0")]);
        assert!(debian.ends_with("`sudo sysctl kernel.unprivileged_userns_clone=1`"), "{debian}");
        let ubuntu = said(
            &Error::CleanMount(io::Error::from_raw_os_error(libc::EACCES)),
            false,
            false,
            &[("kernel/apparmor_restrict_unprivileged_userns", "1")],
        );
        assert!(ubuntu.ends_with("`sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"), "{ubuntu}");
        let unknown = said(&unshare(libc::EPERM), false, false, &[]);
        assert!(unknown.contains("unprivileged_userns_clone=1") && unknown.contains("apparmor"), "{unknown}");
        let other = said(&unshare(libc::EINVAL), false, false, &[]);
        assert!(other.starts_with("new namespaces: Invalid argument"), "{other}");
    }
}
