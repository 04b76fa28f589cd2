//! The process: its arguments, its sandbox, its life.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::mount::MountFlags;
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets};
use vhost::vhost_user::Error::Disconnected;
use vhost::vhost_user::Listener;
use vhost_user_backend::Error::HandleRequest;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::idmap::{GidMap, UidMap};
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::sandbox::{Sandbox, SandboxMode};
use virtiofsd::seccomp::{SeccompAction, enable_seccomp};
use virtiofsd::soft_idmap::cmdline::IdMap;
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmette_backend::VIRTIOFSD;

/// Time for which the guest may rely on a file's attributes without asking again.
const CACHE_TIME: Duration = Duration::from_secs(1);

/// Descriptors that are never the guest's: one for each part of its memory (509 at most, says the vhost-user library),
/// and this program's own.
const RESERVED_FDS: u64 = 509 + 100;

/// Capabilities of a file server that runs as root. `CAP_MKNOD` is not one of them: a guest could otherwise make a device node of a host's
/// disk in the folder, for any host process to stumble on. Neither is `CAP_SETFCAP`: programs with capabilities, for
/// any host user to run.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Highest number that a capability could ever have.
const CAPABILITY_BITS: u64 = 64;

/// The reason for not serving the folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "unknown or incomplete argument {0:?}; usage: vmette-virtiofsd --shared-dir DIR --tag TAG [--readonly]"
    )]
    Usage(OsString),
    #[error("share {tag}: the path is not valid UTF-8")]
    Path { tag: String },
    #[error(
        "share {tag}: no sandbox: {source}; user namespaces must be allowed for ordinary users (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
    )]
    Sandbox { tag: String, source: virtiofsd::sandbox::Error },
    #[error("share {tag}: {what}: {source}")]
    Io { tag: String, what: &'static str, source: io::Error },
    #[error("share {tag}: {what}: {message}")]
    Setup { tag: String, what: &'static str, message: String },
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Options {
    shared_dir: OsString,
    tag: String,
    read_only: bool,
}

impl Options {
    pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, Error> {
        let (mut shared_dir, mut tag, mut read_only) = (None, None, false);
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--shared-dir") => shared_dir = args.next(),
                Some("--tag") => tag = args.next().and_then(|tag| tag.into_string().ok()),
                Some("--readonly") => read_only = true,
                _ => return Err(Error::Usage(arg)),
            }
        }
        match (shared_dir, tag) {
            (Some(shared_dir), Some(tag)) => Ok(Self { shared_dir, tag, read_only }),
            _ => Err(Error::Usage("".into())),
        }
    }

    fn io(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error {
        let tag = self.tag.clone();
        move |source| Error::Io { tag, what, source }
    }

    fn setup<E: std::fmt::Display>(&self, what: &'static str) -> impl FnOnce(E) -> Error {
        let tag = self.tag.clone();
        move |error| Error::Setup { tag, what, message: error.to_string() }
    }
}

/// Serves until the connection ends.
pub(crate) fn run(options: Options) -> Result<(), Error> {
    let prefix = format!("{VIRTIOFSD}: share {}", options.tag);
    vmette_backend::complaints::print_errors(prefix).map_err(options.setup("log"))?;
    let Some(shared_dir) = options.shared_dir.to_str().map(str::to_owned) else {
        return Err(Error::Path { tag: options.tag });
    };
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(options.io("standard input"))?;
    let listener = Listener::from(UnixListener::from(socket));
    let fd_limit = virtiofsd::limits::setup_rlimit_nofile(None).map_err(options.setup("open files"))?;
    let guest_fd_limit = fd_limit.checked_sub(RESERVED_FDS).filter(|&limit| limit > 0).ok_or_else(|| {
        options.setup("open files")(format!("the limit is {fd_limit}, more than {RESERVED_FDS} are needed"))
    })?;

    let ids = Ids::of_this_process();
    let mut sandbox = Sandbox::new(shared_dir, SandboxMode::Namespace, ids.uid_map(), ids.gid_map());
    let mountinfo_prefix = sandbox.get_mountinfo_prefix().map_err(options.io("mountinfo"))?;
    let listener =
        sandbox.enter(listener).map_err(|source| Error::Sandbox { tag: options.tag.clone(), source })?;
    // From here on this is another process, in namespaces of its own. The library asks for SIGTERM at the parent's death,
    // and a change of ids may have cleared that.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| options.io("parent-death signal")(e.into()))?;
    if options.read_only {
        remount_read_only().map_err(options.io("mount the folder read-only"))?;
    }
    let config = Config {
        entry_timeout: CACHE_TIME,
        attr_timeout: CACHE_TIME,
        cache_policy: CachePolicy::Auto,
        root_dir: sandbox.get_root_dir(),
        mountinfo_prefix,
        xattr: true,
        proc_sfd_rawfd: sandbox.get_proc_self_fd(),
        proc_mountinfo_rawfd: sandbox.get_mountinfo_fd(),
        announce_submounts: false,
        inode_file_handles: InodeFileHandlesMode::Never,
        readdirplus: true,
        uid_map: Some(ids.translation()),
        gid_map: Some(ids.translation()),
        guest_fd_limit,
        ..Config::default()
    };
    drop_capabilities().map_err(options.io("drop capabilities"))?;
    enable_seccomp(SeccompAction::Kill, false).map_err(options.setup("system call filter"))?;
    if options.read_only {
        let fs = PassthroughFsRo::new(config).map_err(options.io("open the folder"))?;
        serve(&options, fs, listener)
    } else {
        let fs = PassthroughFs::new(config).map_err(options.io("open the folder"))?;
        serve(&options, fs, listener)
    }
}

fn serve<F>(options: &Options, fs: F, mut listener: Listener) -> Result<(), Error>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let backend = VhostUserFsBackendBuilder::default()
        .set_tag(None)
        .build(fs)
        .map_err(options.setup("create the device"))?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("vhost-user".into(), Arc::new(backend), memory)
        .map_err(options.setup("create the device"))?;
    daemon.start(&mut listener).map_err(options.setup("accept the machine's connection"))?;
    match daemon.wait() {
        // The machine has ended.
        Ok(()) | Err(HandleRequest(Disconnected)) => Ok(()),
        Err(error) => Err(options.setup("serve")(error)),
    }
}

/// The owner of the guest's files on the host.
enum Ids {
    /// Root's mapping: user 1000 of the guest is user 1000 of the host.
    Same,
    /// An ordinary user's mapping: all of the guest's users are this one. Files that the guest writes belong to the user
    /// who started the machine and can remove them; the user's own files show as root's in the guest.
    One { uid: u32, gid: u32 },
}

impl Ids {
    fn of_this_process() -> Self {
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

    fn translation(&self) -> Vec<IdMap> {
        match self {
            Self::Same => Vec::new(),
            Self::One { .. } => vec![IdMap::SquashGuest { from_guest: 0, to_host: 0, count: u32::MAX }],
        }
    }
}

/// A second refusal of writes below the one of the file system's own: by the kernel, in this process's mounts.
fn remount_read_only() -> io::Result<()> {
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

fn drop_capabilities() -> io::Result<()> {
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
