//! From a configuration to a session, for every call that starts one.

use library::{ExecOptions, SessionEnd, Started};

use crate::config::VmetteConfig;
use crate::status::{Failure, VmetteStatus};
use crate::stop::VmetteStop;

/// The owner of the command's streams.
pub(crate) enum Streams {
    /// The library: captured, or passed to this process's.
    Library,
    /// The caller, with this command in place of the configuration's.
    Caller(Option<ExecOptions>),
}

/// Starts a session of the caller's configuration.
pub(crate) fn start(
    config: &VmetteConfig,
    stop: Option<&VmetteStop>,
    streams: Streams,
) -> Result<Started, Failure> {
    let mut builder = config.builder()?;
    if let Some(stop) = stop {
        builder = builder.stop_handle(stop.take()?);
    }
    Ok(match streams {
        Streams::Library => builder.start()?,
        Streams::Caller(None) => builder.piped().start()?,
        Streams::Caller(command) => builder.piped().start_with(command)?,
    })
}

/// The failure of a session that did not end as sessions should.
pub(crate) fn failed(message: String) -> Failure {
    Failure::new(VmetteStatus::SessionFailed, format!("the session failed: {message}"))
}

/// The exit code of an end that is a result.
pub(crate) fn result_of(end: SessionEnd) -> Result<i32, Failure> {
    match end {
        SessionEnd::Error(message) => Err(failed(message)),
        end => Ok(end.exit_code()),
    }
}
