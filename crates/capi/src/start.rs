//! From a configuration to a session, for every call that starts one.

use library::{Config, ExecOptions, Session, SessionEnd};

use crate::config::VmetteConfig;
use crate::notice;
use crate::status::{Failure, VmetteStatus};
use crate::stop::VmetteStop;

/// Whose the command's streams are.
pub(crate) enum Streams {
    /// The library's: captured, or passed to this process's.
    Library,
    /// The caller's, with this command in place of the configuration's.
    Caller(Option<ExecOptions>),
}

/// Starts the session; `config` is the caller's, with changes of the call's own.
pub(crate) fn start(
    handle: &VmetteConfig,
    config: &Config,
    stop: Option<&VmetteStop>,
    streams: Streams,
) -> Result<Session, Failure> {
    let mut builder = Session::builder(config);
    if let Some(stop) = stop {
        builder = builder.stop_handle(stop.take()?);
    }
    if let Some(sink) = handle.notices() {
        builder = builder.observer(notice::observer(sink));
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
