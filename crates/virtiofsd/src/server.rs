//! The process: from its command line to the end of the machine's connection.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use vhost::vhost_user::Error::{Disconnected, PartialMessage};
use vhost::vhost_user::Listener;
use vhost_user_backend::Error::HandleRequest;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, InodeFileHandlesMode, PassthroughFs};
use virtiofsd::seccomp::{SeccompAction, enable_seccomp};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmette_backend::VIRTIOFSD;
use vmm_sys_util::epoll::EventSet;

use crate::folder::{Bounds, Files, Folder, NAME_TIME};
use crate::locks::Locks;
use crate::options::{Options, Share, Usage};
use crate::queues::{AGAIN, Queues};
use crate::sandbox::{self, Failure, Ids, Inside};

/// Folders that every host has, of which one is entered to see whether that can be done.
const ANY_FOLDER: [&str; 2] = ["/usr", "/etc"];

/// Bytes of a thread's stack that only waits and rings.
const CLOCK_STACK: usize = 64 << 10;

/// Most files that a guest may know before it has said how much memory it has.
const FILES_MAX: usize = 1 << 16;

/// The reason for not serving the folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Usage(#[from] Usage),
    #[error("share {tag}: the path is not valid UTF-8")]
    Path { tag: String },
    #[error("this host lets no program make the sandbox that folders are served from: {0}")]
    Probe(String),
    #[error("share {tag}: this host lets no program make the sandbox that folders are served from: {reason}")]
    Sandbox { tag: String, reason: String },
    /// Another process tells why.
    #[error("nobody needs this process any more")]
    Helper,
    #[error("share {tag}: {what}: {source}")]
    Io { tag: String, what: &'static str, source: io::Error },
    #[error("share {tag}: {what}: {message}")]
    Setup { tag: String, what: &'static str, message: String },
}

impl Share {
    fn io(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error {
        let tag = self.tag.clone();
        move |source| Error::Io { tag, what, source }
    }

    fn setup<E: std::fmt::Display>(&self, what: &'static str) -> impl FnOnce(E) -> Error {
        let tag = self.tag.clone();
        move |error| Error::Setup { tag, what, message: error.to_string() }
    }
}

/// Does what the command line asks for.
pub(crate) fn run(options: Options) -> Result<(), Error> {
    match options {
        Options::Serve(share) => serve(&share),
        Options::Probe => probe(),
    }
}

/// Restricts this process as one that serves.
fn probe() -> Result<(), Error> {
    let failed = |e: io::Error| Error::Probe(e.to_string());
    let folder = ANY_FOLDER.into_iter().find(|path| Path::new(path).is_dir()).unwrap_or("/");
    // Nobody connects.
    let null = std::fs::File::open("/dev/null").map_err(failed)?;
    let listener = Listener::from(UnixListener::from(std::os::fd::OwnedFd::from(null)));
    sandbox::limit_descriptors().map_err(failed)?;
    sandbox::enter(folder.into(), &Ids::of_this_process(), listener).map_err(|failure| match failure {
        Failure::Reason(reason) => Error::Probe(reason),
        Failure::Helper => Error::Helper,
    })?;
    sandbox::drop_capabilities().map_err(failed)?;
    enable_seccomp(SeccompAction::Kill, false).map_err(|e| Error::Probe(format!("system call filter: {e}")))
}

/// Serves until the connection ends.
fn serve(share: &Share) -> Result<(), Error> {
    let prefix = format!("{VIRTIOFSD}: share {}", share.tag);
    vmette_backend::complaints::print_errors(prefix).map_err(share.setup("log"))?;
    let Some(folder) = share.folder.to_str().map(str::to_owned) else {
        return Err(Error::Path { tag: share.tag.clone() });
    };
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(share.io("standard input"))?;
    let listener = Listener::from(UnixListener::from(socket));
    let guest_fds = sandbox::limit_descriptors().map_err(share.io("open files"))?;
    let size = sandbox::largest_file().map_err(share.io("limit of a file's size"))?;

    let ids = Ids::of_this_process();
    let Inside { listener, root, mountinfo_prefix, mountinfo, descriptors } =
        sandbox::enter(folder, &ids, listener).map_err(|failure| match failure {
            Failure::Reason(reason) => Error::Sandbox { tag: share.tag.clone(), reason },
            Failure::Helper => Error::Helper,
        })?;
    // A panic fails the one request that has led to it.
    std::panic::set_hook(Box::new(|info| log::error!("{info}")));
    if share.read_only {
        sandbox::remount_read_only().map_err(share.io("mount the folder read-only"))?;
    }
    let missing = || io::Error::other("/proc/self/fd is missing");
    let reopened = descriptors.as_ref().ok_or_else(missing).and_then(std::fs::File::try_clone);
    let locks =
        reopened.and_then(|open| Locks::new(open, !share.read_only)).map_err(share.io("prepare locks"))?;
    let config = Config {
        entry_timeout: NAME_TIME,
        attr_timeout: NAME_TIME,
        cache_policy: CachePolicy::Auto,
        root_dir: root,
        mountinfo_prefix,
        xattr: true,
        proc_sfd_rawfd: descriptors,
        proc_mountinfo_rawfd: mountinfo,
        announce_submounts: false,
        inode_file_handles: InodeFileHandlesMode::Never,
        readdirplus: true,
        uid_map: Some(ids.translation(share.owner.0)),
        gid_map: Some(ids.translation(share.owner.1)),
        guest_fd_limit: guest_fds,
        ..Config::default()
    };
    let descriptors = usize::try_from(guest_fds).unwrap_or(usize::MAX);
    let bounds = Bounds { descriptors, files: FILES_MAX, size };
    sandbox::drop_capabilities().map_err(share.io("drop capabilities"))?;
    enable_seccomp(SeccompAction::Kill, false).map_err(share.setup("system call filter"))?;
    if share.read_only {
        let fs = PassthroughFsRo::new(config).map_err(share.io("open the folder"))?;
        serve_folder(share, Folder::new(fs, bounds, locks), listener)
    } else {
        let fs = PassthroughFs::new(config).map_err(share.io("open the folder"))?;
        serve_folder(share, Folder::new(fs, bounds, locks), listener)
    }
}

fn serve_folder<P: Files>(share: &Share, folder: Folder<P>, mut listener: Listener) -> Result<(), Error> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let queues = Queues::new(memory.clone(), folder).map_err(share.io("create the queues"))?;
    let clock = queues.clock();
    let mut daemon = VhostUserDaemon::new("vhost-user".into(), Arc::new(Mutex::new(queues)), memory)
        .map_err(share.setup("create the device"))?;
    for handler in daemon.get_epoll_handlers() {
        handler
            .register_listener(clock.event().as_raw_fd(), EventSet::IN, AGAIN.into())
            .map_err(share.io("the queues' events"))?;
    }
    std::thread::Builder::new()
        .name("clock".into())
        .stack_size(CLOCK_STACK)
        .spawn(move || clock.run())
        .map_err(share.io("start a thread"))?;
    daemon.start(&mut listener).map_err(share.setup("accept the machine's connection"))?;
    match daemon.wait() {
        // The machine has ended.
        Ok(()) | Err(HandleRequest(Disconnected | PartialMessage)) => Ok(()),
        Err(error) => Err(share.setup("serve")(error)),
    }
}
