//! The shortest way: one configuration, one command, one answer.

use crate::error::{ConfigError, Error};
use crate::{Config, Session};

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutput {
    /// The command's exit status; 124 for a timeout, 0 for a stop, 1 for an error of the machine.
    pub exit_code: i32,
    /// What was captured; empty unless [`Config::capture_output`] is set.
    pub output: String,
}

impl Config {
    /// Refuses what would never end by itself: neither a command, of the caller's or the image's, nor a timeout.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn check_it_ends(&self) -> Result<(), Error> {
        if self.timeout_seconds.is_some() || crate::command::main_command(self).is_some() {
            return Ok(());
        }
        Err(ConfigError::NothingToRun.into())
    }
}

/// Runs the configuration's command to its end. Without [`Config::capture_output`] its output goes to this process's
/// stdout and stderr. Signal handlers, the terminal and the process itself are left alone.
///
/// # Errors
/// The machine or the command could not be started; a session without a command is refused, since it would never end.
pub fn run(config: &Config) -> Result<RunOutput, Error> {
    config.check_it_ends()?;
    let session = Session::start(config)?;
    Ok(session.wait_captured())
}
