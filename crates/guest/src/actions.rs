//! The desktop's requests that need no display: `wait`, `exec`, `exec_capture`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::{Errno, read};
use vmette_wire::agent::{Command, Exec, ExitStatus};
use vmette_wire::{Action, ResponseHeader};

use crate::child::Child;
use crate::exec::ExecError;
use crate::exec::prepare::{self, History, Output, Start, Started};
use crate::exec::script::Script;
use crate::exec::starting::Starting;
use crate::serve::{Out, Poll, Progress, Role, ServeError};
use crate::world::{Place, WorldError};

/// Most `wait` and `exec_capture` requests at once.
const JOBS_MAX: usize = 16;

/// Most commands of `exec` at once.
const BACKGROUND_MAX: usize = 256;

/// Longest `wait`, in milliseconds; hosts give up on an answer well before.
const WAIT_MAX_MS: u64 = 60_000;

/// How long a captured command runs when the request says nothing, in milliseconds.
const CAPTURE_DEFAULT_MS: u64 = 15_000;

/// How long it runs at most, in milliseconds: less than hosts wait for an answer.
const CAPTURE_MAX_MS: u64 = 25_000;

/// Captured output that is kept, in bytes.
const CAPTURE_MAX: usize = 256 << 10;

/// Requests that have not been answered yet, and commands that nobody waits for.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    jobs: BTreeMap<u32, Job>,
    background: BTreeMap<u32, Background>,
}

/// A command that nobody waits for.
#[derive(Debug)]
struct Background {
    /// Declared before the script: the process is gone when its file is removed.
    child: Child,
    _script: Option<Script>,
    /// Whether the host that started it is not this machine's any more.
    orphaned: bool,
    /// Until it runs, and the request that is answered then; `None`: the host that has sent it is gone.
    starting: Option<(Starting, Option<u32>)>,
}

#[derive(Debug)]
enum Job {
    Wait { deadline: Instant },
    Capture(Box<Capture>),
}

#[derive(Debug)]
struct Capture {
    child: Child,
    _script: Option<Script>,
    starting: Option<Starting>,
    output: Option<OwnedFd>,
    ready: bool,
    kept: Vec<u8>,
    truncated: bool,
    deadline: Instant,
    expired: bool,
    exit: Option<ExitStatus>,
}

impl Jobs {
    /// Begins an action, or refuses it.
    pub(crate) fn start(
        &mut self,
        id: u32,
        action: &Action,
        place: Result<Place<'_>, WorldError>,
        history: &mut History,
        poll: &Poll,
        out: &mut Out,
    ) -> Result<(), ServeError> {
        match self.begin(id, action, place, history, poll)? {
            Ok(Some(header)) => Ok(out.respond(id, &header, b"")?),
            Ok(None) => Ok(()),
            Err(e) => Ok(out.respond(id, &ResponseHeader::error(e.to_string()), b"")?),
        }
    }

    fn begin(
        &mut self,
        id: u32,
        action: &Action,
        place: Result<Place<'_>, WorldError>,
        history: &mut History,
        poll: &Poll,
    ) -> Result<Result<Option<ResponseHeader>, ExecError>, ServeError> {
        let refuse = |message: String| Ok(Ok(Some(ResponseHeader::error(message))));
        let job = matches!(action, Action::Wait { .. } | Action::ExecCapture { .. });
        if job && (self.jobs.len() >= JOBS_MAX || self.jobs.contains_key(&id)) {
            return refuse(format!("too many concurrent jobs (allowed: {JOBS_MAX})"));
        }
        let start = |command: &str, output| {
            let exec = Exec { argc: 1, shell: true, ..Exec::default() };
            let command = Command { args: vec![command.as_bytes().to_vec()], env: Vec::new() };
            prepare::start(&place?, &exec, command, output, history)
        };
        match action {
            Action::Wait { ms } if *ms > WAIT_MAX_MS => {
                refuse(format!("a wait of {ms} ms is longer than the longest one, {WAIT_MAX_MS} ms"))
            }
            Action::Wait { ms } => {
                let deadline = Instant::now() + Duration::from_millis(*ms);
                self.jobs.insert(id, Job::Wait { deadline });
                Ok(Ok(None))
            }
            Action::Exec { .. } if self.background.len() >= BACKGROUND_MAX => {
                refuse(format!("too many commands in the background (allowed: {BACKGROUND_MAX})"))
            }
            Action::Exec { command } => match start(command, Output::Discard) {
                Ok(Started { child, start, script, .. }) => {
                    let key = child.pid().as_raw_nonzero().get().unsigned_abs();
                    poll.readable(child.pidfd(), Role::Background, key)?;
                    let starting = watch(start, key, poll)?.map(|starting| (starting, Some(id)));
                    let answer = starting.is_none().then(ResponseHeader::ok);
                    let command = Background { child, _script: script, orphaned: false, starting };
                    self.background.insert(key, command);
                    Ok(Ok(answer))
                }
                Err(e) => Ok(Err(e)),
            },
            Action::ExecCapture { command, timeout_ms } => match start(command, Output::Merged) {
                Ok(started) => {
                    let limit = timeout_ms.filter(|ms| *ms > 0).unwrap_or(CAPTURE_DEFAULT_MS);
                    let deadline = Instant::now() + Duration::from_millis(limit.min(CAPTURE_MAX_MS));
                    self.jobs.insert(id, Job::Capture(Box::new(Capture::new(started, id, deadline, poll)?)));
                    Ok(Ok(None))
                }
                Err(e) => Ok(Err(e)),
            },
            other => refuse(format!("action `{}` needs a desktop, and this machine has none", other.name())),
        }
    }

    /// The machine has another host now, which waits for none of this; what nobody waits for goes on, whatever becomes of
    /// that host.
    pub(crate) fn orphan(&mut self) {
        self.jobs.clear();
        for command in self.background.values_mut() {
            command.orphaned = true;
            if let Some((_, id)) = &mut command.starting {
                *id = None;
            }
        }
    }

    /// The host is gone, and what it has started is ended.
    pub(crate) fn end(&mut self) {
        self.jobs.clear();
        self.background.retain(|_, command| command.orphaned);
    }

    /// An event on one of the descriptors.
    pub(crate) fn wake(&mut self, role: Role, id: u32) -> Result<(), ServeError> {
        if role == Role::Background {
            if let Some(command) = self.background.get_mut(&id)
                && command.child.try_wait().map_err(ServeError::Child)?.is_some()
                && command.starting.is_none()
            {
                self.background.remove(&id);
            }
            return Ok(());
        }
        if let Some(Job::Capture(capture)) = self.jobs.get_mut(&id) {
            capture.ready = true;
            if role == Role::JobExit && capture.exit.is_none() {
                capture.exit = capture.child.try_wait().map_err(ServeError::Child)?;
            }
        }
        Ok(())
    }

    /// When [`Jobs::expire`] or [`Jobs::pump`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let jobs = self.jobs.values().filter_map(|job| match job {
            Job::Wait { deadline } => Some(*deadline),
            Job::Capture(capture) if capture.expired => None,
            Job::Capture(capture) => {
                let start = capture.starting.as_ref().and_then(Starting::deadline);
                Some(start.map_or(capture.deadline, |start| start.min(capture.deadline)))
            }
        });
        let background = self.background.values().filter_map(|command| command.starting.as_ref());
        jobs.chain(background.filter_map(|(starting, _)| starting.deadline())).min()
    }

    /// Answers the waits that are over, and kills the commands that are out of time.
    pub(crate) fn expire(&mut self, out: &mut Out) -> Result<(), ServeError> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let mut over = Vec::new();
        for (id, job) in &mut self.jobs {
            match job {
                Job::Wait { deadline } if *deadline <= now => over.push(*id),
                Job::Capture(capture) if capture.deadline <= now && !capture.expired => {
                    capture.expired = true;
                    capture.child.kill();
                }
                Job::Wait { .. } | Job::Capture(_) => {}
            }
        }
        for id in over {
            self.jobs.remove(&id);
            out.respond(id, &ResponseHeader::ok(), b"")?;
        }
        Ok(())
    }

    /// Reads one chunk of each captured command, and answers for those that have ended, or that run now or never will.
    pub(crate) fn pump(&mut self, out: &mut Out, scratch: &mut [u8]) -> Result<Progress, ServeError> {
        self.pump_background(out)?;
        let mut progress = Progress::Idle;
        let mut over = Vec::new();
        for (id, job) in &mut self.jobs {
            let Job::Capture(capture) = job else { continue };
            match capture.pump(out.is_held(), scratch) {
                Ok(Progress::Finished) => over.push((*id, None)),
                Ok(one) => progress = progress.max(one),
                Err(e) => over.push((*id, Some(e))),
            }
        }
        for (id, failure) in over {
            if let Some(Job::Capture(capture)) = self.jobs.remove(&id) {
                let (header, output) = match failure {
                    Some(e) => (ResponseHeader::error(e.to_string()), Vec::new()),
                    None => capture.answer(),
                };
                out.respond(id, &header, &output)?;
            }
        }
        Ok(progress)
    }

    fn pump_background(&mut self, out: &mut Out) -> Result<(), ServeError> {
        let mut over = Vec::new();
        for (key, Background { child, starting, .. }) in &mut self.background {
            let Some((process, id)) = starting else { continue };
            let Some(outcome) = process.outcome(out.is_held()) else { continue };
            if outcome.is_err() || child.has_ended() {
                over.push(*key);
            }
            if let Some(id) = *id {
                let header =
                    outcome.map_or_else(|e| ResponseHeader::error(e.to_string()), |_| ResponseHeader::ok());
                out.respond(id, &header, b"")?;
            }
            *starting = None;
        }
        over.iter().for_each(|key| drop(self.background.remove(key)));
        Ok(())
    }
}

/// Watches a process that is on its way to its program.
fn watch(start: Start, id: u32, poll: &Poll) -> Result<Option<Starting>, ServeError> {
    let Start::UnderWay(starting) = start else { return Ok(None) };
    poll.readable(starting.report(), Role::Start, id)?;
    Ok(Some(starting))
}

impl Capture {
    fn new(started: Started, id: u32, deadline: Instant, poll: &Poll) -> Result<Self, ServeError> {
        let Started { child, start, stdio, script } = started;
        poll.readable(child.pidfd(), Role::JobExit, id)?;
        let starting = watch(start, id, poll)?;
        if let Some(output) = &stdio.stdout {
            poll.readable(output.as_fd(), Role::JobOutput, id)?;
        }
        Ok(Self {
            child,
            _script: script,
            starting,
            output: stdio.stdout,
            ready: false,
            kept: Vec::new(),
            truncated: false,
            deadline,
            expired: false,
            exit: None,
        })
    }

    fn pump(&mut self, held: bool, scratch: &mut [u8]) -> Result<Progress, ExecError> {
        // One that is out of time has been killed, and that is the answer.
        if let Some(starting) = self.starting.as_mut().filter(|_| !self.expired) {
            match starting.outcome(held) {
                None => return Ok(Progress::Idle),
                Some(outcome) => drop(outcome?),
            }
            self.starting = None;
        }
        if let Some(output) = self.output.as_ref().filter(|_| self.ready) {
            match read(output, &mut *scratch) {
                Ok(n) if n > 0 => {
                    let keep = n.min(CAPTURE_MAX - self.kept.len());
                    self.kept.extend_from_slice(&scratch[..keep]);
                    self.truncated |= keep < n;
                    // What is beyond the limit after the command's end comes from what it left behind.
                    if !(self.truncated && self.exit.is_some()) {
                        return Ok(Progress::More);
                    }
                    self.output = None;
                }
                Err(Errno::INTR) => return Ok(Progress::More),
                Err(Errno::AGAIN) if self.exit.is_none() => self.ready = false,
                _ => self.output = None,
            }
        }
        let over = self.output.is_none() && self.exit.is_some();
        Ok(if over { Progress::Finished } else { Progress::Idle })
    }

    fn answer(mut self) -> (ResponseHeader, Vec<u8>) {
        if self.truncated {
            self.kept.extend_from_slice(format!("\n[output truncated at {CAPTURE_MAX} bytes]\n").as_bytes());
        }
        let exit_code = match self.exit {
            Some(ExitStatus::Code(code)) if !self.expired => Some(code),
            _ => None,
        };
        (ResponseHeader { exit_code, ..ResponseHeader::ok() }, self.kept)
    }
}
