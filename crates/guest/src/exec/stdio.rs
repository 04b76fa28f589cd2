//! The three standard streams of a command: pipes, or one terminal.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown};
use rustix::io::{fcntl_dupfd_cloexec, ioctl_fionbio};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use vmette_wire::streams::TtySize;

use super::ExecError;
use crate::root::tree::Tree;
use crate::sys::Credentials;

/// Lowest number of a descriptor for a child: below are the places it is moved to.
const FIRST_FREE: i32 = 3;

/// Both ends of a command's streams. Our ends do not block.
#[derive(Debug)]
pub(crate) struct Stdio {
    child: [OwnedFd; 3],
    pub(crate) input: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// The terminal's control side, for its size.
    pub(crate) terminal: Option<OwnedFd>,
}

impl Stdio {
    /// Pipes; without `input` stdin is `/dev/null`. They belong to `owner`, or `/dev/stderr` could not be opened by it.
    pub(crate) fn pipes(input: bool, owner: Option<&Credentials>) -> Result<Self, ExecError> {
        let (stdin, input) = if input {
            let (theirs, ours) = pipe(owner)?;
            (theirs, Some(ours))
        } else {
            (null()?, None)
        };
        let (stdout_ours, stdout) = pipe(owner)?;
        let (stderr_ours, stderr) = pipe(owner)?;
        for ours in input.iter().chain([&stdout_ours, &stderr_ours]) {
            ioctl_fionbio(ours, true).map_err(failed("a pipe"))?;
        }
        let child = [above_stdio(stdin)?, above_stdio(stdout)?, above_stdio(stderr)?];
        Ok(Self { child, input, stdout: Some(stdout_ours), stderr: Some(stderr_ours), terminal: None })
    }

    /// One pipe for stdout and stderr, nothing to read.
    pub(crate) fn merged() -> Result<Self, ExecError> {
        let (ours, theirs) = pipe(None)?;
        ioctl_fionbio(&ours, true).map_err(failed("a pipe"))?;
        let stdout = above_stdio(theirs)?;
        let stderr = stdout.try_clone().map_err(failed("a pipe"))?;
        let child = [above_stdio(null()?)?, stdout, stderr];
        Ok(Self { child, input: None, stdout: Some(ours), stderr: None, terminal: None })
    }

    /// Nothing to read, and nobody who listens.
    pub(crate) fn none() -> Result<Self, ExecError> {
        let child = [above_stdio(null()?)?, above_stdio(null()?)?, above_stdio(null()?)?];
        Ok(Self { child, input: None, stdout: None, stderr: None, terminal: None })
    }

    /// A new terminal of the workload's own `devpts`, so that it has a name there.
    pub(crate) fn terminal(
        tree: Option<Tree<'_>>,
        size: TtySize,
        input: bool,
        owner: Option<&Credentials>,
    ) -> Result<Self, ExecError> {
        const WHAT: &str = "a terminal";
        let control = match tree {
            Some(tree) => tree.open("/dev/pts/ptmx", OFlags::RDWR, Mode::empty()).map_err(failed(WHAT))?,
            None => rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                .map_err(failed(WHAT))?,
        };
        unlockpt(&control).map_err(failed(WHAT))?;
        set_size(control.as_fd(), size).map_err(failed(WHAT))?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let side = above_stdio(ioctl_tiocgptpeer(&control, flags).map_err(failed(WHAT))?)?;
        if let Some(owner) = owner {
            fchown(&side, Some(Uid::from_raw(owner.uid)), None).map_err(failed(WHAT))?;
        }
        ioctl_fionbio(&control, true).map_err(failed(WHAT))?;
        let clone = |fd: &OwnedFd| fd.try_clone().map_err(failed(WHAT));
        let child = [clone(&side)?, clone(&side)?, side];
        let writer = if input { Some(clone(&control)?) } else { None };
        Ok(Self {
            child,
            input: writer,
            stdout: Some(clone(&control)?),
            stderr: None,
            terminal: Some(control),
        })
    }

    /// The child's ends.
    pub(crate) fn for_child(&self) -> [BorrowedFd<'_>; 3] {
        [self.child[0].as_fd(), self.child[1].as_fd(), self.child[2].as_fd()]
    }
}

/// Sets a terminal's size.
pub(crate) fn set_size(control: BorrowedFd<'_>, size: TtySize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(control, size).map_err(Into::into)
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> ExecError {
    move |source| ExecError::Stdio { what, source: source.into() }
}

/// The reading end, then the writing end.
fn pipe(owner: Option<&Credentials>) -> Result<(OwnedFd, OwnedFd), ExecError> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("a pipe"))?;
    if let Some(owner) = owner {
        fchown(&reader, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
            .map_err(failed("a pipe"))?;
    }
    Ok((reader, writer))
}

fn null() -> Result<OwnedFd, ExecError> {
    File::options().read(true).write(true).open("/dev/null").map(Into::into).map_err(failed("/dev/null"))
}

fn above_stdio(fd: OwnedFd) -> Result<OwnedFd, ExecError> {
    use std::os::fd::AsRawFd;
    if fd.as_raw_fd() >= FIRST_FREE {
        return Ok(fd);
    }
    fcntl_dupfd_cloexec(&fd, FIRST_FREE).map_err(failed("a descriptor"))
}
