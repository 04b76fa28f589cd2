//! Processes that serve a machine's devices over vhost-user: one for each share, one for vsock.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use vmette_backend::VIRTIOFSD;
use vmette_cache::OwnedFolder;
use vmette_spawn::{Child, Command, Tool};
use vmette_vmm::console::LastLines;
use vmette_vmm::{Device, DeviceId, Error, Owner, Result};
use vmette_work::Work;

use crate::locate::Programs;
use crate::vsock::Vsock;

/// Time for a vsock server to read a message; it does nothing that blocks.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// The beginning of a share server's lines.
const PREFIX: &str = "vmette-virtiofsd: ";

/// Time for a share server to try its sandbox, which takes some milliseconds.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// The share servers that could make their sandbox. A host may allow it later, and takes it back from nobody who runs.
static SANDBOXED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Starts the share server to see whether it could serve a folder.
///
/// # Errors
/// It could not, and says why in one line.
pub(crate) fn try_shares(program: &Path) -> Result<()> {
    let known = || SANDBOXED.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(program) {
        return Ok(());
    }
    let command = Command::new(program).arg("--probe");
    let reason = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&reason);
    let outcome = Tool::new(VIRTIOFSD, command, PROBE_LIMIT)
        .on_line(move |line| {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            line.trim_start_matches(PREFIX).clone_into(&mut heard);
        })
        .outcome(0, &Work::quiet())
        .map_err(|e| Error::Machine(e.to_string()))?;
    if outcome.status.success() {
        known().insert(program.to_owned());
        return Ok(());
    }
    let reason = reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let reason = if reason.is_empty() { outcome.status.to_string() } else { reason };
    Err(Error::Machine(reason))
}

/// A server and the connection that its machine is to have.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) server: Arc<Server>,
    /// QEMU's end of the connection to the server.
    pub(crate) connection: OwnedFd,
    /// The owner's side of a vsock device.
    pub(crate) vsock: Option<Arc<Vsock>>,
}

/// A process that serves one device.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) of: DeviceId,
    pub(crate) process: Child,
    /// The lines that it printed, and perhaps those of others.
    pub(crate) complaints: Arc<LastLines>,
}

/// Starts the server of a device whose lines on `stderr` end up in `complaints`. `None` for a device that QEMU serves by
/// itself.
pub(crate) fn start(
    programs: &Programs,
    device: &Device,
    stderr: impl FnOnce() -> Result<(OwnedFd, Arc<LastLines>)>,
) -> Result<Option<Started>> {
    let Some(program) = programs.for_device(device)? else { return Ok(None) };
    let (listener, connection) = connected().map_err(Error::io("connect to a device's server"))?;
    let mut command = Command::new(program).stdin(listener);
    let mut vsock = None;
    if let Device::Share(share) = device {
        // By its own folder rather than by a path: that need not be UTF-8, and the last part of it may be a link.
        command = command.folder(&share.path).args(["--shared-dir", ".", "--tag", &share.tag]);
        // The guest's kernel has taken its process's mask off already, and the mask of whoever started vmette is not for it.
        command = command.umask(0);
        command = command.args(share.read_only.then_some("--readonly"));
        if let Some(Owner { uid, gid }) = share.owner {
            command = command.args(["--owner", &format!("{uid}:{gid}")]);
        }
    } else {
        let failed = "connect to the vsock server";
        let (ours, theirs) = UnixStream::pair().map_err(Error::io(failed))?;
        ours.set_write_timeout(Some(SEND_LIMIT)).map_err(Error::io(failed))?;
        command = command.stdout(theirs);
        vsock = Some(Arc::new(Vsock::new(ours)?));
    }
    let (stderr, complaints) = stderr()?;
    let process = command.stderr(stderr).spawn().map_err(Error::io("start a device's server"))?;
    let server = Arc::new(Server { of: device.id(), process, complaints });
    Ok(Some(Started { server, connection, vsock }))
}

/// A listening socket with the one connection that it will ever accept already waiting in it. Its path exists for the
/// time between `bind` and `connect`, in a folder that nobody else can enter.
fn connected() -> io::Result<(OwnedFd, OwnedFd)> {
    let dir = OwnedFolder::new("vmette-socket")?;
    let (listener, connection) = if cfg!(target_os = "linux") {
        // A socket's path has at most 107 bytes; through the folder's descriptor any folder will do.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = File::from(rustix::fs::open(dir.path(), flags, Mode::empty())?);
        bind_and_connect(&PathBuf::from(format!("/proc/self/fd/{}/s", folder.as_raw_fd())))?
    } else {
        bind_and_connect(&dir.path().join("s"))?
    };
    Ok((listener.into(), connection.into()))
}

fn bind_and_connect(path: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let listener = UnixListener::bind(path)?;
    let connection = UnixStream::connect(path)?;
    Ok((listener, connection))
}
