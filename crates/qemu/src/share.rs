//! One process per host folder that serves it to the guest over virtio-fs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use vmette_vmm::{Error, Result, Share};

use crate::process::{Process, Spawn};
use crate::runtime_dir::RuntimeDir;

/// A server that runs and QEMU's end of the connection to it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) server: Process,
    pub(crate) connection: OwnedFd,
}

/// Starts the server of a share. Its complaints go to `stderr`.
pub(crate) fn serve(program: &Path, share: &Share, stderr: OwnedFd) -> Result<Served> {
    let (listener, connection) = connected().map_err(Error::io("connect to a share server"))?;
    let mut args = vec!["--shared-dir".into(), share.path.clone().into_os_string()];
    args.extend(["--tag".into(), share.tag.clone().into()]);
    if share.read_only {
        args.push("--readonly".into());
    }
    let server = Process::spawn(Spawn {
        program: program.to_owned(),
        args,
        inherit: Vec::new(),
        stdin: Some(listener),
        stdout: None,
        stderr: Some(stderr),
    })
    .map_err(Error::io("start the share server vmette-virtiofsd"))?;
    Ok(Served { server, connection })
}

/// A listening socket with the one connection that it will ever accept already waiting in it. Its path exists for the
/// time between `bind` and `connect`, in a folder that nobody else can enter.
pub(crate) fn connected() -> io::Result<(OwnedFd, OwnedFd)> {
    let dir = RuntimeDir::new()?;
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
