//! Files in and out of the workload's root.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstat, openat, renameat, unlinkat};
use vmette_wire::frame::CHUNK_MAX;
use vmette_wire::path;
use vmette_wire::streams::{Event, Failure, FailureKind, Get as GetRequest, Input, Put as PutRequest};

use crate::errno::kind_of;
use crate::root::tree::Tree;
use crate::stream::{Limit, Out, Progress, Role, STREAMS, Stream, StreamError, Window};

/// All permission bits.
const MODE_MAX: u32 = 0o7777;

/// A transfer that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{0:?} is not an absolute path to a file, without ..")]
    Path(String),
    #[error("{0:#o} is not a file mode (0 to 0o7777)")]
    Mode(u32),
    #[error("cannot {what} {path} in the guest: {source}")]
    Io { what: &'static str, path: String, source: io::Error },
}

impl FileError {
    fn io<E: Into<io::Error>>(what: &'static str, path: &str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source: source.into() }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let kind = match &error {
            FileError::Path(_) | FileError::Mode(_) => FailureKind::Invalid,
            FileError::Io { source, .. } => kind_of(source),
        };
        Self { kind, message: error.to_string() }
    }
}

/// A file being written: under another name beside its own, until the last byte has arrived.
#[derive(Debug)]
pub(crate) struct Put {
    id: u32,
    path: String,
    dir: OwnedFd,
    name: String,
    /// Removed by the guard while it is set.
    temporary: Option<String>,
    file: File,
    window: Window,
}

impl Put {
    pub(crate) fn begin(tree: Tree<'_>, id: u32, request: &PutRequest) -> Result<Self, FileError> {
        let path = &request.path;
        let (parent, name) = path.rsplit_once('/').unwrap_or_default();
        if !path::is_plain(path) || name.is_empty() || name == "." {
            return Err(FileError::Path(path.clone()));
        }
        if request.mode > MODE_MAX {
            return Err(FileError::Mode(request.mode));
        }
        let dir = tree.make_dirs(parent).map_err(FileError::io("make the folder of", path))?;
        let temporary = format!(".vmette-put-{id}");
        // Left over from a machine that was cut off, on a disk that outlived it.
        let _ = unlinkat(dir.as_fd(), temporary.as_str(), AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(dir.as_fd(), temporary.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(FileError::io("create", path))?;
        let put = Self {
            id,
            path: path.clone(),
            dir,
            name: name.to_owned(),
            temporary: Some(temporary),
            file: file.into(),
            window: Window::default(),
        };
        fchmod(&put.file, Mode::from_raw_mode(request.mode))
            .map_err(FileError::io("set the mode of", path))?;
        Ok(put)
    }

    /// Takes bytes; the inner error ends the transfer, the outer one the connection.
    fn data(&mut self, bytes: &[u8], out: &mut Out) -> Result<Result<(), FileError>, StreamError> {
        self.window.receive(self.id, bytes.len())?;
        if let Err(e) = self.file.write_all(bytes) {
            return Ok(Err(FileError::io("write", &self.path)(e)));
        }
        self.window.consume(bytes.len());
        self.window.confirm(self.id, true, out)?;
        Ok(Ok(()))
    }

    /// Gives the file its name.
    fn finish(&mut self) -> Result<(), FileError> {
        if let Some(temporary) = &self.temporary {
            renameat(self.dir.as_fd(), temporary.as_str(), self.dir.as_fd(), self.name.as_str())
                .map_err(FileError::io("replace", &self.path))?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Stream for Put {
    fn limit(&self) -> &'static Limit {
        &STREAMS
    }

    fn id(&self) -> Option<u32> {
        Some(self.id)
    }

    fn wake(&mut self, _role: Role) -> Result<(), StreamError> {
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn input(&mut self, input: Input, payload: &[u8], out: &mut Out) -> Result<Progress, StreamError> {
        let failed = match input {
            Input::Data => match self.data(payload, out)? {
                Ok(()) => return Ok(Progress::Idle),
                Err(e) => e.into(),
            },
            Input::Eof => match self.finish() {
                Ok(()) => {
                    out.event(self.id, Event::Done, b"")?;
                    return Ok(Progress::Finished);
                }
                Err(e) => e.into(),
            },
            Input::Signal { .. } => given_up(),
            Input::Credit { .. } | Input::Resize(_) | Input::Unread { .. } => return Ok(Progress::Idle),
        };
        out.failed(self.id, failed)?;
        Ok(Progress::Finished)
    }

    fn pump(&mut self, _out: &mut Out, _scratch: &mut [u8]) -> Result<Progress, StreamError> {
        Ok(Progress::Idle)
    }

    fn orphan(&mut self) -> bool {
        false
    }
}

/// The end of a transfer that the host has cancelled.
fn given_up() -> Failure {
    Failure { kind: FailureKind::Other, message: "the host has given the transfer up".to_owned() }
}

impl Drop for Put {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The workload may have removed it.
            let _ = unlinkat(self.dir.as_fd(), temporary.as_str(), AtFlags::empty());
        }
    }
}

/// A file being read.
#[derive(Debug)]
pub(crate) struct Get {
    id: u32,
    path: String,
    file: File,
    window: Window,
    /// The event that describes the file, until it has been sent.
    found: Option<Event>,
}

impl Get {
    /// Opens the file.
    pub(crate) fn begin(tree: Tree<'_>, id: u32, request: &GetRequest) -> Result<Self, FileError> {
        let path = &request.path;
        if !path::is_plain(path) {
            return Err(FileError::Path(path.clone()));
        }
        let file = tree.open_regular(path, OFlags::RDONLY).map_err(FileError::io("read", path))?;
        let stat = fstat(&file).map_err(FileError::io("read", path))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let found = Some(Event::File { size, mode: stat.st_mode & MODE_MAX });
        Ok(Self { id, path: path.clone(), file, window: Window::default(), found })
    }
}

impl Stream for Get {
    fn limit(&self) -> &'static Limit {
        &STREAMS
    }

    fn id(&self) -> Option<u32> {
        Some(self.id)
    }

    fn wake(&mut self, _role: Role) -> Result<(), StreamError> {
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn input(&mut self, input: Input, _payload: &[u8], out: &mut Out) -> Result<Progress, StreamError> {
        match input {
            Input::Credit { bytes } => self.window.credit(self.id, bytes)?,
            Input::Signal { .. } => {
                out.failed(self.id, given_up())?;
                return Ok(Progress::Finished);
            }
            Input::Data | Input::Eof | Input::Resize(_) | Input::Unread { .. } => {}
        }
        Ok(Progress::Idle)
    }

    fn pump(&mut self, out: &mut Out, scratch: &mut [u8]) -> Result<Progress, StreamError> {
        if let Some(found) = self.found.take() {
            out.event(self.id, found, b"")?;
        }
        let room = self.window.room().min(CHUNK_MAX);
        if room == 0 {
            return Ok(Progress::Idle);
        }
        if out.is_full() {
            return Ok(Progress::Starved);
        }
        match self.file.read(&mut scratch[..room]) {
            Ok(0) => out.event(self.id, Event::Done, b"")?,
            Ok(n) => {
                self.window.send(n);
                out.event(self.id, Event::Data, &scratch[..n])?;
                return Ok(Progress::More);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(Progress::More),
            Err(e) => out.failed(self.id, FileError::io("read", &self.path)(e))?,
        }
        Ok(Progress::Finished)
    }

    fn orphan(&mut self) -> bool {
        false
    }
}
