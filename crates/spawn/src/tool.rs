//! A program that does one piece of work and ends.

use std::fmt;
use std::process::ExitStatus;
use std::time::Duration;

use crate::command::Command;
use crate::tail::Ear;

/// Everything about a tool that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// The first bytes of its standard output, as many as were asked for.
    pub output: Vec<u8>,
    /// True if there was more.
    pub truncated: bool,
    /// The last words of its standard error, or the causes in it. Without control characters.
    pub message: String,
}

/// A command with a limit of time, whose standard error is listened to.
pub struct Tool {
    pub(crate) name: String,
    pub(crate) command: Command,
    pub(crate) time_max: Duration,
    pub(crate) clean_up_max: Duration,
    pub(crate) ear: Ear,
}

impl Tool {
    /// A tool that may take `time_max`. Messages call it `name`. It speaks English.
    #[must_use]
    pub fn new(name: impl Into<String>, command: Command, time_max: Duration) -> Self {
        Self {
            name: name.into(),
            command: command.env("LC_ALL", "C"),
            time_max,
            clean_up_max: Duration::ZERO,
            ear: Ear { is_cause: |_| false, on_line: Box::new(|_| ()) },
        }
    }

    /// Tells the lines of its standard error that say why it failed; if none does, the last ones are taken to.
    #[must_use]
    pub fn causes(mut self, is_cause: fn(&str) -> bool) -> Self {
        self.ear.is_cause = is_cause;
        self
    }

    /// Hears each line of its standard error, without control characters.
    #[must_use]
    pub fn on_line(mut self, on_line: impl FnMut(&str) + Send + 'static) -> Self {
        self.ear.on_line = Box::new(on_line);
        self
    }

    /// When it is given up it is asked to end first, and killed after this time. Without this it is killed at once.
    #[must_use]
    pub fn clean_up(mut self, clean_up_max: Duration) -> Self {
        self.clean_up_max = clean_up_max;
        self
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool")
            .field("name", &self.name)
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}
