//! The shortest way: one configuration, one command, one answer.

use crate::capture::RunOutput;
use crate::config::Config;
use crate::error::Error;
use crate::session::{Session, SessionBuilder, Started};

/// Runs the configuration's command to its end; its output goes to this process's stdout and stderr. Signal handlers, the
/// terminal and the process itself are left alone.
///
/// # Errors
/// The machine or the command could not be started; a session without a command is refused, since it would never end.
pub fn run(config: &Config) -> Result<RunOutput, Error> {
    run_to_the_end(config, Session::builder(config))
}

/// As [`run`], with the command's output in the answer instead.
///
/// # Errors
/// As [`run`].
pub fn run_captured(config: &Config) -> Result<RunOutput, Error> {
    run_to_the_end(config, Session::builder(config).captured())
}

fn run_to_the_end(config: &Config, builder: SessionBuilder<'_>) -> Result<RunOutput, Error> {
    config.check_it_ends()?;
    Ok(match builder.start()? {
        Started::Running(session) => session.wait_captured(),
        Started::Ended(end) => RunOutput { exit_code: end.exit_code(), output: String::new() },
    })
}
