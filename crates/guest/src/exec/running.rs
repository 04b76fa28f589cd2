//! A command that runs: its output goes out as far as the host has room, its input goes in as far as it reads.
//!
//! All descriptors are watched edge-triggered: an event sets a flag, and the flag is cleared by the system call that says
//! `EAGAIN`. So a stream whose reader has no room costs nothing, and no event of a closed pipe repeats for ever.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::io::{Errno, read, write};
use vmette_wire::agent::{Event, ExitStatus, OutputName, TtySize};
use vmette_wire::frame::CHUNK_MAX;

use super::prepare::{Start, Started};
use super::script::Script;
use super::starting::Starting;
use super::stdio;
use crate::child::Child;
use crate::serve::{Out, Poll, Progress, Role, ServeError, Window};

/// Output of a command that has ended is read up to this many bytes for each stream: the most a pipe holds. More can
/// only come from a process that it left behind, and there is no end to wait for in that.
const LEFTOVER_MAX: usize = 1 << 20;

/// End of file, typed on a terminal.
const CTRL_D: u8 = 4;

/// A command with its streams.
#[derive(Debug)]
pub(crate) struct Running {
    id: u32,
    /// Declared before the script: the process is gone when its file is removed.
    child: Child,
    _script: Option<Script>,
    /// Nothing is moved, and nothing said, before it runs.
    starting: Option<Starting>,
    input: Option<Input>,
    outputs: Vec<Output>,
    terminal: Option<OwnedFd>,
    window: Window,
    exit: Option<ExitStatus>,
    /// Whether nobody reads its output any more.
    orphaned: bool,
    /// Whether it is the workload's PID 1.
    pub(crate) init: bool,
}

#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    event: Event,
    ready: bool,
    /// What may still be read, once the command has ended.
    leftover: usize,
}

#[derive(Debug)]
struct Input {
    fd: OwnedFd,
    queue: VecDeque<u8>,
    ready: bool,
    ending: bool,
    /// On a terminal the end is a character, and where it stands matters.
    terminal: bool,
    last: u8,
}

impl Running {
    /// Watches a command's beginning, its streams and its end.
    pub(crate) fn new(id: u32, started: Started, init: bool, poll: &Poll) -> Result<Self, ServeError> {
        let Started { child, start, stdio, script } = started;
        poll.readable(child.pidfd(), Role::Exit, id)?;
        let starting = match start {
            Start::Done { .. } => None,
            Start::UnderWay(starting) => {
                poll.readable(starting.report(), Role::Start, id)?;
                Some(starting)
            }
        };
        let mut outputs = Vec::new();
        for (fd, event, role) in
            [(stdio.stdout, Event::Stdout, Role::Stdout), (stdio.stderr, Event::Stderr, Role::Stderr)]
        {
            if let Some(fd) = fd {
                poll.readable(fd.as_fd(), role, id)?;
                outputs.push(Output { fd, event, ready: false, leftover: usize::MAX });
            }
        }
        let terminal = stdio.terminal;
        let input = match stdio.input {
            Some(fd) => {
                poll.writable(fd.as_fd(), Role::Stdin, id)?;
                Some(Input {
                    fd,
                    queue: VecDeque::new(),
                    ready: true,
                    ending: false,
                    terminal: terminal.is_some(),
                    last: b'\n',
                })
            }
            None => None,
        };
        Ok(Self {
            id,
            child,
            _script: script,
            starting,
            input,
            outputs,
            terminal,
            window: Window::default(),
            exit: None,
            orphaned: false,
            init,
        })
    }

    /// Its host is gone and it goes on: its output is read and lost, so that it neither blocks nor fails, and there is
    /// no more input. A terminal stays open: a hang-up would end what runs on it.
    pub(crate) fn orphan(&mut self) {
        self.orphaned = true;
        self.input = None;
    }

    /// An event on one of its descriptors.
    pub(crate) fn wake(&mut self, role: Role) -> Result<(), ServeError> {
        let mark = |event: Event, outputs: &mut Vec<Output>| {
            outputs.iter_mut().filter(|o| o.event == event).for_each(|o| o.ready = true);
        };
        match role {
            Role::Stdin => {
                if let Some(input) = &mut self.input {
                    input.ready = true;
                }
            }
            Role::Stdout => mark(Event::Stdout, &mut self.outputs),
            Role::Stderr => mark(Event::Stderr, &mut self.outputs),
            Role::Exit if self.exit.is_none() => {
                self.exit = self.child.try_wait().map_err(ServeError::Child)?;
                if self.exit.is_some() {
                    self.input = None;
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

    /// `data` from the host.
    pub(crate) fn data(&mut self, bytes: &[u8], out: &mut Out) -> Result<(), ServeError> {
        self.window.receive(self.id, bytes.len())?;
        match &mut self.input {
            Some(input) if !input.ending => {
                input.queue.extend(bytes);
                Ok(())
            }
            // Nobody reads it any more: it is confirmed and forgotten.
            _ => {
                self.window.consume(bytes.len());
                self.window.confirm(self.id, true, out)
            }
        }
    }

    /// `eof` from the host.
    pub(crate) fn eof(&mut self) {
        if let Some(input) = &mut self.input {
            input.ending = true;
        }
    }

    /// `credit` from the host.
    pub(crate) fn credit(&mut self, bytes: u32) -> Result<(), ServeError> {
        self.window.credit(self.id, bytes)
    }

    /// `resize` from the host; without a terminal there is nothing to resize.
    pub(crate) fn resize(&mut self, size: TtySize) {
        if let Some(terminal) = &self.terminal {
            // Fails only when the terminal has hung up: the command is about to end.
            let _ = stdio::set_size(terminal.as_fd(), size);
        }
    }

    /// `unread` from the host: a pipe is closed, and the kernel tells whoever writes to it.
    pub(crate) fn unread(&mut self, output: OutputName) {
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

    /// `signal` from the host; a number that is none, or a group that has ended, is not the stream's business.
    pub(crate) fn signal(&self, signal: i32) {
        if (1..=64).contains(&signal) && self.exit.is_none() {
            let _ = self.child.signal(signal);
        }
    }

    /// When it is looked at again without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.starting.as_ref().and_then(Starting::deadline)
    }

    /// Moves one chunk of each stream.
    pub(crate) fn pump(&mut self, out: &mut Out, scratch: &mut [u8]) -> Result<Progress, ServeError> {
        if let Some(starting) = &mut self.starting {
            match starting.outcome(out.is_held()) {
                None => return Ok(Progress::Idle),
                Some(Ok(pid)) => {
                    self.starting = None;
                    if !self.orphaned {
                        out.event(self.id, &Event::Started { pid }, b"")?;
                    }
                }
                Some(Err(e)) => {
                    if !self.orphaned {
                        out.failed(self.id, e)?;
                    }
                    return Ok(Progress::Finished);
                }
            }
        }
        let mut progress = self.pump_input(out)?;
        let mut closed = false;
        for output in &mut self.outputs {
            if !output.ready {
                continue;
            }
            if out.is_full() && !self.orphaned {
                progress = progress.max(Progress::Starved);
                continue;
            }
            let room = if self.orphaned { CHUNK_MAX } else { self.window.room().min(CHUNK_MAX) };
            let room = room.min(output.leftover);
            if room == 0 && output.leftover > 0 {
                continue;
            }
            match read(&output.fd, &mut scratch[..room]) {
                Ok(0) => closed = true,
                Ok(n) => {
                    output.leftover -= n;
                    if !self.orphaned {
                        self.window.send(n);
                        out.event(self.id, &output.event, &scratch[..n])?;
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
        if self.outputs.is_empty()
            && let Some(status) = self.exit
        {
            if !self.orphaned {
                out.event(self.id, &Event::Exited(status), b"")?;
            }
            return Ok(Progress::Finished);
        }
        Ok(progress)
    }

    fn pump_input(&mut self, out: &mut Out) -> Result<Progress, ServeError> {
        let Some(input) = &mut self.input else { return Ok(Progress::Idle) };
        let mut open = true;
        while input.ready && !input.queue.is_empty() {
            match write(&input.fd, input.queue.as_slices().0) {
                Ok(n) => {
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
            self.input = None;
        }
        self.window.confirm(self.id, drained, out)?;
        Ok(Progress::Idle)
    }
}
