//! A command that runs: its output goes out as far as the host has room, its input goes in as far as it reads.
//!
//! All descriptors are watched edge-triggered: an event sets a flag, and the system call that says `EAGAIN` clears it. So a
//! stream whose reader has no room costs nothing, and no event of a closed pipe repeats for ever.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, ioctl_fionread, read, write};
use vmette_wire::frame::CHUNK_MAX;
use vmette_wire::streams::{Command, Event, Exec, ExitStatus, Input as Frame, OutputName, TtySize};

use super::prepare::{self, History, Output as Wiring, Started};
use super::script::Script;
use super::starting::Start;
use super::{ExecError, stdio};
use crate::child::Child;
use crate::stream::{Limit, Out, Progress, Role, STREAMS, Stream, StreamError, Watch, Window};
use crate::world::Place;

/// Output of a command that has ended is read up to this many bytes for each stream: the most a pipe holds. More can
/// only come from a process that it left behind, and there is no end to wait for in that.
const LEFTOVER_MAX: usize = 1 << 20;

/// End of file, typed on a terminal.
const CTRL_D: u8 = 4;

/// A command with its streams.
#[derive(Debug)]
pub(crate) struct Running {
    /// `None`: its host is gone, and nobody reads its output any more.
    id: Option<u32>,
    /// Declared before the script: the process is gone when its file is removed.
    child: Child,
    _script: Option<Script>,
    /// Nothing is moved, and nothing said, before it runs.
    start: Option<Start>,
    input: Option<Input>,
    outputs: Vec<Output>,
    terminal: Option<OwnedFd>,
    window: Window,
    exit: Option<ExitStatus>,
    /// A stdin that has been closed, and may not have been read to its end.
    closed: Option<Closed>,
    /// Bytes of its stdin that were read, known at its end; `None` if it has none but a terminal.
    consumed: Option<u64>,
}

/// The rest of a pipe whose writing end is closed. The reading end keeps nobody from anything: there is no writer left.
#[derive(Debug)]
struct Closed {
    rest: OwnedFd,
    written: u64,
}

#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    event: Event,
    ready: bool,
    /// Bytes that may still be read, once the command has ended.
    leftover: usize,
}

#[derive(Debug)]
struct Input {
    fd: OwnedFd,
    queue: VecDeque<u8>,
    /// Bytes that were passed on, of which the pipe may still hold some.
    written: u64,
    ready: bool,
    ending: bool,
    /// On a terminal the end is a character, and where it stands matters.
    terminal: bool,
    last: u8,
}

impl Running {
    /// Starts a command, and watches its beginning, its streams and its end.
    pub(crate) fn start(
        place: &Place<'_>,
        id: u32,
        exec: &Exec,
        payload: &[u8],
        history: &mut History,
        watch: Watch<'_>,
    ) -> Result<Self, ExecError> {
        let command = Command::decode(exec, payload)
            .map_err(|e| ExecError::Invalid(format!("the command's arguments: {e}")))?;
        let started = prepare::start(place, exec, command, Wiring::Streams, history)?;
        Self::watched(id, started, watch).map_err(|source| ExecError::Stdio { what: "a watch", source })
    }

    fn watched(id: u32, started: Started, watch: Watch<'_>) -> io::Result<Self> {
        let Started { child, start, stdio, script } = started;
        watch.readable(child.pidfd(), Role::End)?;
        start.watch(watch)?;
        let mut outputs = Vec::new();
        for (fd, event, role) in
            [(stdio.stdout, Event::Stdout, Role::Output), (stdio.stderr, Event::Stderr, Role::Errors)]
        {
            if let Some(fd) = fd {
                watch.readable(fd.as_fd(), role)?;
                outputs.push(Output { fd, event, ready: false, leftover: usize::MAX });
            }
        }
        let terminal = stdio.terminal;
        let input = match stdio.input {
            Some(fd) => {
                watch.writable(fd.as_fd(), Role::Input)?;
                Some(Input {
                    fd,
                    queue: VecDeque::new(),
                    written: 0,
                    ready: true,
                    ending: false,
                    terminal: terminal.is_some(),
                    last: b'\n',
                })
            }
            None => None,
        };
        Ok(Self {
            id: Some(id),
            child,
            _script: script,
            start: Some(start),
            input,
            outputs,
            terminal,
            window: Window::default(),
            exit: None,
            closed: None,
            consumed: None,
        })
    }

    /// Its process.
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// `data` from the host.
    fn data(&mut self, id: u32, bytes: &[u8], out: &mut Out) -> Result<(), StreamError> {
        self.window.receive(id, bytes.len())?;
        match &mut self.input {
            Some(input) if !input.ending => {
                input.queue.extend(bytes);
                Ok(())
            }
            // Nobody reads it any more: it is confirmed and forgotten.
            _ => {
                self.window.consume(bytes.len());
                self.window.confirm(id, true, out)
            }
        }
    }

    /// `resize` from the host; without a terminal there is nothing to resize.
    fn resize(&mut self, size: TtySize) {
        if let Some(terminal) = &self.terminal {
            // Fails only when the terminal has hung up: the command is about to end.
            let _ = stdio::set_size(terminal.as_fd(), size);
        }
    }

    /// `unread` from the host: a pipe is closed, and the kernel tells its writers.
    fn unread(&mut self, output: OutputName) {
        if self.terminal.is_some() {
            self.signal(libc::SIGPIPE);
            return;
        }
        let event = match output {
            OutputName::Stdout => Event::Stdout,
            OutputName::Stderr => Event::Stderr,
        };
        self.outputs.retain(|output| output.event != event);
    }

    /// `signal` from the host. A number that is no signal's, or a group that has ended, is not the stream's business.
    fn signal(&self, signal: i32) {
        if (1..=64).contains(&signal) && self.exit.is_none() {
            let _ = self.child.signal(signal);
        }
    }

    /// Moves one chunk of each output.
    fn pump_outputs(&mut self, out: &mut Out, scratch: &mut [u8]) -> Result<Progress, StreamError> {
        let mut progress = Progress::Idle;
        let mut closed = false;
        for output in &mut self.outputs {
            if !output.ready {
                continue;
            }
            if out.is_full() && self.id.is_some() {
                progress = progress.max(Progress::Starved);
                continue;
            }
            let room = if self.id.is_some() { self.window.room().min(CHUNK_MAX) } else { CHUNK_MAX };
            let room = room.min(output.leftover);
            if room == 0 && output.leftover > 0 {
                continue;
            }
            match read(&output.fd, &mut scratch[..room]) {
                Ok(0) => closed = true,
                Ok(n) => {
                    output.leftover -= n;
                    if let Some(id) = self.id {
                        self.window.send(n);
                        out.event(id, output.event.clone(), &scratch[..n])?;
                    }
                    progress = Progress::More;
                    continue;
                }
                Err(Errno::INTR) => {
                    progress = Progress::More;
                    continue;
                }
                Err(Errno::AGAIN) if self.exit.is_none() => {
                    output.ready = false;
                    continue;
                }
                // EIO is the end of a terminal; EAGAIN after the command's end is the end of what it left.
                Err(_) => closed = true,
            }
            output.leftover = 0;
        }
        if closed {
            self.outputs.retain(|output| output.leftover > 0);
        }
        Ok(progress)
    }

    /// Closes its stdin, and keeps an eye on what it has not read.
    fn close_input(&mut self) {
        let Some(input) = self.input.take().filter(|input| !input.terminal) else { return };
        // A pipe has no other name. Without a look at its rest the host hears nothing about it.
        let name = format!("/proc/self/fd/{}", input.fd.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let rest = open(name, flags, Mode::empty()).ok();
        self.closed = rest.map(|rest| Closed { rest, written: input.written });
    }

    /// The command has ended: counts what it has read.
    fn end_input(&mut self) {
        let input = self.input.take().filter(|input| !input.terminal);
        let (fd, written) = match (&input, &self.closed) {
            (Some(input), _) => (&input.fd, input.written),
            (None, Some(closed)) => (&closed.rest, closed.written),
            (None, None) => return,
        };
        self.consumed = ioctl_fionread(fd).ok().map(|unread| written.saturating_sub(unread));
        self.closed = None;
    }

    fn pump_input(&mut self, id: u32, out: &mut Out) -> Result<(), StreamError> {
        let Some(input) = &mut self.input else { return Ok(()) };
        let mut open = true;
        while input.ready && !input.queue.is_empty() {
            match write(&input.fd, input.queue.as_slices().0) {
                Ok(n) => {
                    input.written += n as u64;
                    input.last = input.queue.drain(..n).next_back().unwrap_or(input.last);
                    self.window.consume(n);
                }
                Err(Errno::AGAIN) => input.ready = false,
                Err(Errno::INTR) => {}
                // The command has closed its input: the rest is confirmed and forgotten.
                Err(_) => {
                    self.window.consume(input.queue.len());
                    input.queue.clear();
                    open = false;
                }
            }
        }
        let drained = input.queue.is_empty();
        if drained && input.ending && input.terminal && input.ready && open {
            // In the middle of a line the first one only passes the line on.
            let ends: &[u8] = if input.last == b'\n' { &[CTRL_D] } else { &[CTRL_D, CTRL_D] };
            match write(&input.fd, ends) {
                Err(Errno::AGAIN) => input.ready = false,
                _ => open = false,
            }
        } else if drained && input.ending && !input.terminal {
            open = false;
        }
        if !open {
            self.close_input();
        }
        self.window.confirm(id, drained, out)
    }
}

impl Stream for Running {
    fn limit(&self) -> &'static Limit {
        &STREAMS
    }

    fn id(&self) -> Option<u32> {
        self.id
    }

    fn wake(&mut self, role: Role) -> Result<(), StreamError> {
        let mark = |event: Event, outputs: &mut Vec<Output>| {
            outputs.iter_mut().filter(|o| o.event == event).for_each(|o| o.ready = true);
        };
        match role {
            Role::Input => {
                if let Some(input) = &mut self.input {
                    input.ready = true;
                }
            }
            Role::Output => mark(Event::Stdout, &mut self.outputs),
            Role::Errors => mark(Event::Stderr, &mut self.outputs),
            Role::End if self.exit.is_none() => {
                self.exit = self.child.try_wait().map_err(StreamError::Child)?;
                if self.exit.is_some() {
                    self.end_input();
                    for output in &mut self.outputs {
                        output.ready = true;
                        output.leftover = LEFTOVER_MAX;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.start.as_ref().and_then(Start::deadline)
    }

    fn input(&mut self, input: Frame, payload: &[u8], out: &mut Out) -> Result<Progress, StreamError> {
        let Some(id) = self.id else { return Ok(Progress::Idle) };
        match input {
            Frame::Data => self.data(id, payload, out)?,
            Frame::Eof => {
                if let Some(input) = &mut self.input {
                    input.ending = true;
                }
            }
            Frame::Credit { bytes } => self.window.credit(id, bytes)?,
            Frame::Resize(size) => self.resize(size),
            Frame::Unread { output } => self.unread(output),
            Frame::Signal { signal } => self.signal(signal),
        }
        Ok(Progress::Idle)
    }

    fn pump(&mut self, out: &mut Out, scratch: &mut [u8]) -> Result<Progress, StreamError> {
        if let Some(start) = &mut self.start {
            let Some(outcome) = start.outcome(out.is_held()) else { return Ok(Progress::Idle) };
            self.start = None;
            match (outcome, self.id) {
                (Ok(pid), Some(id)) => out.event(id, Event::Started { pid }, b"")?,
                (Ok(_), None) => {}
                (Err(e), id) => {
                    id.map_or(Ok(()), |id| out.failed(id, e))?;
                    return Ok(Progress::Finished);
                }
            }
        }
        if let Some(id) = self.id {
            self.pump_input(id, out)?;
        }
        let progress = self.pump_outputs(out, scratch)?;
        match self.exit {
            Some(status) if self.outputs.is_empty() => {
                if let Some(id) = self.id {
                    if let Some(bytes) = self.consumed {
                        out.event(id, Event::Consumed { bytes }, b"")?;
                    }
                    out.event(id, Event::Exited(status), b"")?;
                }
                Ok(Progress::Finished)
            }
            _ => Ok(progress),
        }
    }

    /// Its output is read and lost, so that it neither blocks nor fails, and there is no more input. A terminal stays open:
    /// a hang-up would end what runs on it.
    fn orphan(&mut self) -> bool {
        self.id = None;
        self.input = None;
        true
    }
}
