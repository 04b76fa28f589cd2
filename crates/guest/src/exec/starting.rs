//! A process on its way to its program.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::ExecError;
use crate::stream::{Role, Watch};
use crate::sys::{Outcome, Report};

/// How long a process may take from its birth to its program: a small part of it is needed. Other processes of the
/// workload can stop it before it has become the program, or have it wait for a file system of theirs.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(10);

/// How far a command is on its way.
#[derive(Debug)]
pub(crate) enum Start {
    /// It runs.
    Done {
        /// Its process id as the workload sees it.
        inner_pid: u32,
    },
    /// Its process has been born and is not the program yet.
    UnderWay(Starting),
}

impl Start {
    /// Tells the owner when there may be an outcome.
    pub(crate) fn watch(&self, watch: Watch<'_>) -> io::Result<()> {
        match self {
            Self::Done { .. } => Ok(()),
            Self::UnderWay(starting) => watch.readable(starting.report.as_fd(), Role::Start),
        }
    }

    /// The process id as the workload sees it, or the reason why there will be no command; `None` as long as nobody knows.
    /// `held`: the machine is about to be saved, or stands still.
    pub(crate) fn outcome(&mut self, held: bool) -> Option<Result<u32, ExecError>> {
        match self {
            Self::Done { inner_pid } => Some(Ok(*inner_pid)),
            Self::UnderWay(starting) => starting.outcome(held),
        }
    }

    /// The latest time at which [`Start::outcome`] has something to say without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Done { .. } => None,
            Self::UnderWay(starting) => starting.since.map(|since| since + START_LIMIT),
        }
    }
}

/// A process that has been born and is not the program yet.
#[derive(Debug)]
pub(crate) struct Starting {
    report: Report,
    /// The beginning of the time in which it could go on.
    since: Option<Instant>,
    program: String,
    cwd: String,
}

impl Starting {
    pub(crate) fn new(report: Report, program: String, cwd: String) -> Self {
        Self { report, since: None, program, cwd }
    }

    /// The time in which the machine stands still does not count.
    fn outcome(&mut self, held: bool) -> Option<Result<u32, ExecError>> {
        match self.report.outcome() {
            Outcome::Runs { inner_pid } => Some(Ok(inner_pid)),
            Outcome::Failed(e) => Some(Err(ExecError::spawn(e, &self.program, &self.cwd))),
            Outcome::Pending if held => {
                self.since = None;
                None
            }
            Outcome::Pending => {
                let since = *self.since.get_or_insert_with(Instant::now);
                (since.elapsed() >= START_LIMIT).then_some(Err(ExecError::HeldUp))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_which_the_machine_is_saved_does_not_count() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let starting = Starting::new(Report::new(reader), String::new(), String::new());
        let mut start = Start::UnderWay(starting);
        let mut begun_long_ago = |held| {
            assert!(start.outcome(false).is_none());
            if let Start::UnderWay(starting) = &mut start {
                starting.since = starting.since.and_then(|since| since.checked_sub(START_LIMIT));
            }
            let outcome = start.outcome(held);
            (outcome, start.deadline())
        };
        assert!(matches!(begun_long_ago(true), (None, None)));
        assert!(matches!(begun_long_ago(false), (Some(Err(ExecError::HeldUp)), Some(_))));
    }
}
