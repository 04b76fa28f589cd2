//! Commands in a running guest.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Instant;

use vmette_wire::streams::{Command, Exec, ExitStatus, OutputName, TtySize, WINDOW};
use vmette_wire::{Input, Open};

use crate::connection::{Connection, RootHandle};
use crate::error::{ConfigError, Error};
use crate::stream::{Channel, Kind, StreamEnd, StreamQueue};

/// A command for a guest. Made by [`ExecOptions::argv`] or [`ExecOptions::shell`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    exec: Exec,
}

impl ExecOptions {
    /// A program, looked up in `PATH`, and its arguments.
    pub fn argv<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let args = args.into_iter().map(|a| a.as_ref().as_bytes().to_vec()).collect();
        Self { args, ..Self::default() }
    }

    /// A command line for `/bin/sh -c`; it may be several MiB long.
    pub fn shell(command: impl AsRef<OsStr>) -> Self {
        Self {
            args: vec![command.as_ref().as_bytes().to_vec()],
            exec: Exec { shell: true, ..Exec::default() },
            ..Self::default()
        }
    }

    /// Adds an environment variable; a later one of the same name wins.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let mut pair = key.as_ref().as_bytes().to_vec();
        pair.push(b'=');
        pair.extend_from_slice(value.as_ref().as_bytes());
        self.env.push(pair);
        self
    }

    /// Starts in that folder of the guest (absolute).
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<String>) -> Self {
        self.exec.cwd = Some(cwd.into());
        self
    }

    /// Runs as `name`, `uid`, `name:group` or `uid:gid` of the guest.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.exec.user = Some(user.into());
        self
    }

    /// Runs on a terminal of that size.
    #[must_use]
    pub fn tty(mut self, rows: u16, cols: u16) -> Self {
        self.exec.tty = Some(TtySize { rows, cols });
        self
    }

    /// Gives the command a stdin that [`Process::write_stdin`] feeds; without it stdin is empty.
    #[must_use]
    pub fn stdin(mut self, open: bool) -> Self {
        self.exec.stdin = open;
        self
    }

    /// Runs as PID 1 of the workload's namespace; see [`CommandOptions::switch_root`](crate::CommandOptions::switch_root).
    #[must_use]
    pub(crate) fn init(mut self, init: bool) -> Self {
        self.exec.init = init;
        self
    }

    /// The same in `surroundings`, of which the command's own options take precedence.
    #[must_use]
    pub(crate) fn within(mut self, surroundings: &Self) -> Self {
        self.env.splice(0..0, surroundings.env.iter().cloned());
        self.exec.cwd = self.exec.cwd.or_else(|| surroundings.exec.cwd.clone());
        self.exec.user = self.exec.user.or_else(|| surroundings.exec.user.clone());
        self
    }

    fn encode(&self) -> Result<(Exec, Vec<u8>), Error> {
        let invalid = |problem: String| Error::from(ConfigError::Command(problem));
        let count = |n: usize| u32::try_from(n).map_err(|_| invalid(format!("{n} arguments")));
        let exec = Exec { argc: count(self.args.len())?, envc: count(self.env.len())?, ..self.exec.clone() };
        if exec.argc == 0 {
            return Err(invalid("it has no argument, not even its name".into()));
        }
        let command = Command { args: self.args.clone(), env: self.env.clone() };
        let payload = command.encode().map_err(|e| invalid(e.to_string()))?;
        Ok((exec, payload))
    }
}

/// A piece of a command's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From its standard output, or its terminal.
    Stdout(Vec<u8>),
    /// From its standard error.
    Stderr(Vec<u8>),
}

/// A command in a guest. All methods may be called from any thread; dropping the last handle of a command that still
/// runs kills it.
///
/// Output has to be taken with [`Process::next_output`]: the guest holds the command back when about 1 MiB waits.
pub struct Process {
    connection: Connection,
    queue: Arc<StreamQueue>,
    id: u32,
    pid: u32,
}

impl Process {
    /// Starts a command and waits until it runs.
    pub(crate) fn start(place: &RootHandle, options: &ExecOptions) -> Result<Self, Error> {
        let (exec, payload) = options.encode()?;
        let queue = Arc::new(StreamQueue::new(Kind::Exec));
        let id = place.open(|root| Open::Exec(Exec { root, ..exec }), &payload, &queue)?;
        let mut process = Self { connection: place.connection().clone(), queue, id, pid: 0 };
        process.pid = process.queue.wait_started()?;
        Ok(process)
    }

    /// Its process id, as the workload sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// `true` once it has ended, even if some of its output was not taken yet.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.queue.has_ended()
    }

    /// Waits for output. `None` when the command has ended and everything was taken.
    ///
    /// # Errors
    /// The connection to the guest is gone.
    pub fn next_output(&self) -> Result<Option<Output>, Error> {
        let Some((channel, bytes, credit)) = self.queue.next_chunk(None)? else { return Ok(None) };
        self.confirm(credit);
        Ok(Some(match channel {
            Channel::Stderr => Output::Stderr(bytes),
            Channel::Main => Output::Stdout(bytes),
        }))
    }

    /// Feeds its stdin; blocks while the guest holds about 1 MiB that the command has not read.
    ///
    /// # Errors
    /// [`Error::Io`] with `BrokenPipe` when the command has ended, or the connection is gone.
    pub fn write_stdin(&self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let n = self.queue.reserve(bytes.len(), None)?;
            self.connection.send(self.id, Input::Data, &bytes[..n])?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Ends its stdin.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn close_stdin(&self) -> Result<(), Error> {
        self.send_unless_ended(Input::Eof)
    }

    /// Bytes that were read of its stdin, by itself or by others that had it, once it has ended: a caller may want the rest
    /// back. `None` before that, if it has no stdin or a terminal, and if the guest does not tell. It is the guest's word, and
    /// may be any number.
    #[must_use]
    pub fn stdin_consumed(&self) -> Option<u64> {
        self.queue.consumed()
    }

    /// Sends a signal (Linux number) to its process group.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        self.send_unless_ended(Input::Signal { signal })
    }

    /// Tells it that nobody reads its standard output any more: whoever writes to it gets `SIGPIPE`, or `EPIPE` where
    /// that is ignored, as when the reader of a pipe goes away. With a terminal its process group gets `SIGPIPE`.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn close_stdout(&self) -> Result<(), Error> {
        self.send_unless_ended(Input::Unread { output: OutputName::Stdout })
    }

    /// As [`Process::close_stdout`], for its standard error.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn close_stderr(&self) -> Result<(), Error> {
        self.send_unless_ended(Input::Unread { output: OutputName::Stderr })
    }

    /// Tells its terminal the new size.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<(), Error> {
        self.send_unless_ended(Input::Resize(TtySize { rows, cols }))
    }

    /// Waits for the command to end. Output must be taken meanwhile, by this thread before or by another.
    ///
    /// # Errors
    /// The connection is gone, or the agent gave the command up.
    pub fn wait(&self) -> Result<ExitStatus, Error> {
        match self.queue.wait_end(None)? {
            StreamEnd::Exited(status) => Ok(status),
            StreamEnd::Failed(failure) => Err(Error::Request(failure)),
            StreamEnd::Aborted(cause) => Err(Error::Agent(cause)),
            StreamEnd::Done => Err(Error::Agent("the guest ended a command as if it were a file".into())),
        }
    }

    /// Takes all output until the command ends; `keep` bytes of each stream at most, the rest is dropped.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn collect(&self, keep: usize) -> Result<Collected, Error> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(output) = self.next_output()? {
            let (kept, bytes) = match &output {
                Output::Stdout(bytes) => (&mut stdout, bytes),
                Output::Stderr(bytes) => (&mut stderr, bytes),
            };
            let room = keep.saturating_sub(kept.len()).min(bytes.len());
            kept.extend_from_slice(&bytes[..room]);
        }
        Ok(Collected { status: self.wait()?, stdout, stderr })
    }

    /// Drops all output until the command ends. [`Error::Timeout`] when it has not by the deadline; it goes on then.
    pub(crate) fn run_out(&self, deadline: Instant) -> Result<ExitStatus, Error> {
        let left = || Some(deadline.saturating_duration_since(Instant::now()));
        while let Some((_, _, credit)) = self.queue.next_chunk(left())? {
            self.confirm(credit);
        }
        self.wait()
    }

    /// Lets the guest send so many bytes more. When the connection is gone it has nothing more to send, but what has
    /// arrived is still to be taken: its end is at the end of the queue.
    fn confirm(&self, credit: u32) {
        if credit > 0 {
            let _ = self.connection.send(self.id, Input::Credit { bytes: credit }, &[]);
        }
    }

    fn send_unless_ended(&self, input: Input) -> Result<(), Error> {
        if self.queue.has_ended() { Ok(()) } else { self.connection.send(self.id, input, &[]) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.queue.has_ended() {
            return;
        }
        // Best effort: when the connection is gone, so is the command. The credit lets the guest send what is left.
        let _ = self.connection.send(self.id, Input::Signal { signal: libc::SIGKILL }, &[]);
        self.confirm(self.queue.abandon().min(WINDOW));
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// A command's end and its output, from [`Process::collect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// How the command ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmette_wire::Event;
    use vmette_wire::frame::CHUNK_MAX;

    #[test]
    fn what_has_arrived_is_given_out_when_the_connection_is_gone() {
        let (host, _guest) = std::os::unix::net::UnixStream::pair().unwrap();
        let connection = Connection::new(host, || None).unwrap();
        connection.close("gone");
        let queue = Arc::new(StreamQueue::new(Kind::Exec));
        // Enough for a credit to be due before the end is there.
        let chunks = WINDOW as usize / CHUNK_MAX;
        for _ in 0..chunks {
            queue.push(Event::Stdout, vec![1; CHUNK_MAX]).unwrap();
        }
        let process = Process { connection, queue: queue.clone(), id: 0, pid: 1 };
        for _ in 0..chunks {
            assert_eq!(process.next_output().unwrap(), Some(Output::Stdout(vec![1; CHUNK_MAX])));
        }
        queue.push(Event::Exited(ExitStatus::Code(3)), Vec::new()).unwrap();
        assert_eq!(process.collect(0).unwrap().status, ExitStatus::Code(3));
    }
}
