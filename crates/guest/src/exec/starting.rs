//! A process on its way to its program.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::ExecError;
use crate::sys::{Outcome, Report};

/// How long a process may take from its birth to its program: a small part of it is needed. Other processes of the
/// workload can stop it before it has become the program, or have it wait for a file system of theirs.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(10);

/// A process that has been born and is not the program yet.
#[derive(Debug)]
pub(crate) struct Starting {
    report: Report,
    /// Since when it could go on.
    since: Option<Instant>,
    program: String,
    cwd: String,
}

impl Starting {
    pub(crate) fn new(report: Report, program: String, cwd: String) -> Self {
        Self { report, since: None, program, cwd }
    }

    /// Readable when there may be an outcome.
    pub(crate) fn report(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// What has come of it: its process id inside of its namespace, or an error; then the process is to be killed. `None`
    /// while it is on its way. `held`: the machine is being saved, and what runs in it stands still.
    pub(crate) fn outcome(&mut self, held: bool) -> Option<Result<u32, ExecError>> {
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

    /// When [`Starting::outcome`] has something to say at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + START_LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_which_the_machine_is_saved_does_not_count() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let mut starting = Starting::new(Report::new(reader), String::new(), String::new());
        let mut begun_long_ago = |held| {
            assert!(starting.outcome(false).is_none());
            starting.since = starting.since.and_then(|since| since.checked_sub(START_LIMIT));
            let outcome = starting.outcome(held);
            (outcome, starting.deadline())
        };
        assert!(matches!(begun_long_ago(true), (None, None)));
        assert!(matches!(begun_long_ago(false), (Some(Err(ExecError::HeldUp)), Some(_))));
    }
}
