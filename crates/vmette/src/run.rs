//! The shortest way: one configuration, one command, one answer.

use crate::{Config, Error, Session};

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutput {
    /// The command's exit status; 124 for a timeout, 0 for a stop, 1 for an error of the machine.
    pub exit_code: i32,
    /// What was captured; empty unless [`Config::capture_output`] is set.
    pub output: String,
}

/// Runs the configuration's command to its end. Without [`Config::capture_output`] its output goes to this process's
/// stdout and stderr. Signal handlers, the terminal and the process itself are left alone.
///
/// # Errors
/// The machine or the command could not be started; a session without a command is refused, since it would never end.
pub fn run(config: &Config) -> Result<RunOutput, Error> {
    if config.timeout_seconds.is_none() && crate::command::main_command(config).is_none() {
        return Err(Error::InvalidConfig(
            "nothing to run: set exec_cmd or argv; the rootfs names no command".into(),
        ));
    }
    let session = Session::start(config)?;
    Ok(session.wait_captured())
}
