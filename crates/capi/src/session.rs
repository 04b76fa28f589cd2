//! A machine that stays: started, given commands, ended once.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use library::{Error, Session, SessionEnd, Started};

use crate::arguments::{Text, required};
use crate::command::VmetteCommand;
use crate::config::VmetteConfig;
use crate::entry::{entry, entry_or};
use crate::process::VmetteProcess;
use crate::start::{Streams, failed, start};
use crate::status::{Failure, VmetteStatus};
use crate::stop::VmetteStop;

/// How a session ended. The first cause wins. There may be more in a later version.
/// cbindgen:prefix-with-name
/// cbindgen:rename-all=ScreamingSnakeCase
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmetteSessionEnd {
    /// Its command exited.
    Exited = 0,
    /// The time of vmette_config_set_timeout() passed.
    TimedOut = 1,
    /// It was stopped.
    Stopped = 2,
    /// The machine or the connection to it failed.
    Failed = 3,
}

/// The header promises that these may be used from any thread.
const _: () = {
    const fn from_any_thread<T: Send + Sync>() {}
    from_any_thread::<VmetteSession>();
    from_any_thread::<VmetteProcess>();
    from_any_thread::<VmetteStop>();
};

/// A running machine. Its functions may be called from any thread, except for freeing it while another one is called.
pub struct VmetteSession {
    started: Started,
}

impl VmetteSession {
    /// The session, unless it ended while it started.
    pub(crate) fn running(&self) -> Result<&Session, Failure> {
        match &self.started {
            Started::Running(session) => Ok(session),
            Started::Ended(end) => Err(Error::Ended(end.clone()).into()),
        }
    }
}

pub(crate) fn with(
    session: Option<&VmetteSession>,
    work: impl FnOnce(&Session) -> Result<(), Failure>,
) -> VmetteStatus {
    entry(|| work(required(session, "session")?.running()?))
}

/// As [`with`], for calls that have nothing to do when the session has ended.
fn end_with(
    session: Option<&VmetteSession>,
    work: impl FnOnce(&Session) -> Result<(), Failure>,
) -> VmetteStatus {
    entry(|| match &required(session, "session")?.started {
        Started::Running(session) => work(session),
        Started::Ended(_) => Ok(()),
    })
}

/// Starts a session and stores it in `out`; the caller frees it with vmette_session_free(). Returns when the root is
/// ready and the configuration's command runs, if it has one; its output is captured or passed to this process's stdout
/// and stderr. `stop`, if that is not NULL, ends the session from another thread, also while it starts.
///
/// A timeout or a stop during the start is not a failure: vmette_session_wait() tells.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_start(
    config: Option<&VmetteConfig>,
    stop: Option<&VmetteStop>,
    out: Option<&mut MaybeUninit<Box<VmetteSession>>>,
) -> VmetteStatus {
    entry(|| {
        let config = required(config, "config")?;
        let out = required(out, "out")?;
        let started = start(config, stop, Streams::Library)?;
        out.write(Box::new(VmetteSession { started }));
        Ok(())
    })
}

/// As vmette_session_start(), with the streams of the session's command left to the caller, who gets it in `process`
/// and frees it with vmette_process_free(). `command`, if that is not NULL, takes the place of the configuration's.
/// `process` is set to NULL when there is no command, or when the session ended while it started.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_start_command(
    config: Option<&VmetteConfig>,
    command: Option<&VmetteCommand>,
    stop: Option<&VmetteStop>,
    out: Option<&mut MaybeUninit<Box<VmetteSession>>>,
    process: Option<&mut MaybeUninit<Option<Box<VmetteProcess>>>>,
) -> VmetteStatus {
    entry(|| {
        let config = required(config, "config")?;
        let (out, process) = (required(out, "out")?, required(process, "process")?);
        let streams = Streams::Caller(command.map(|command| command.options().clone()));
        let started = start(config, stop, streams)?;
        let command = match &started {
            Started::Running(session) => session.process().cloned(),
            Started::Ended(_) => None,
        };
        process.write(command.map(|command| Box::new(VmetteProcess::new(command))));
        out.write(Box::new(VmetteSession { started }));
        Ok(())
    })
}

/// Ends the machine, if it still runs, and frees the session; its processes and files are gone when this returns.
/// Its processes fail from then on, and still have to be freed. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_free(session: Option<Box<VmetteSession>>) {
    entry(|| {
        drop(session);
        Ok(())
    });
}

/// Waits for the session's end and stores how it ended and its exit status: the command's, 124 for a timeout, 0 for a
/// stop, 1 for a failure. Either may be NULL. SessionFailed when it failed, with the cause as the text. Any number of
/// threads may wait, any number of times.
///
/// Output that goes to this process's stdout and stderr belongs to the command: it has exited when all of it was written
/// there. Only a timeout or a stop does not wait for a reader that is late.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_wait(
    session: Option<&VmetteSession>,
    how: Option<&mut MaybeUninit<VmetteSessionEnd>>,
    exit_code: Option<&mut MaybeUninit<i32>>,
) -> VmetteStatus {
    entry(|| {
        let end = match &required(session, "session")?.started {
            Started::Running(session) => session.wait(),
            Started::Ended(end) => end.clone(),
        };
        tell(end, how, exit_code)
    })
}

/// As vmette_session_wait(), for up to `milliseconds`; Timeout when the session goes on.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_wait_for(
    session: Option<&VmetteSession>,
    milliseconds: u32,
    how: Option<&mut MaybeUninit<VmetteSessionEnd>>,
    exit_code: Option<&mut MaybeUninit<i32>>,
) -> VmetteStatus {
    entry(|| {
        let limit = Duration::from_millis(milliseconds.into());
        let end = match &required(session, "session")?.started {
            Started::Running(session) => session.stop_handle().wait_end(limit),
            Started::Ended(end) => Some(end.clone()),
        };
        let goes_on = || Failure::new(VmetteStatus::Timeout, format!("no end within {milliseconds} ms"));
        tell(end.ok_or_else(goes_on)?, how, exit_code)
    })
}

fn tell(
    end: SessionEnd,
    how: Option<&mut MaybeUninit<VmetteSessionEnd>>,
    exit_code: Option<&mut MaybeUninit<i32>>,
) -> Result<(), Failure> {
    if let Some(exit_code) = exit_code {
        exit_code.write(end.exit_code());
    }
    let kind = match &end {
        SessionEnd::Exited(_) => VmetteSessionEnd::Exited,
        SessionEnd::TimedOut => VmetteSessionEnd::TimedOut,
        SessionEnd::Stopped => VmetteSessionEnd::Stopped,
        SessionEnd::Error(_) => VmetteSessionEnd::Failed,
    };
    if let Some(how) = how {
        how.write(kind);
    }
    match end {
        SessionEnd::Error(message) => Err(failed(message)),
        _ => Ok(()),
    }
}

/// Ends the session now; nothing happens when it has ended. Returns when its machine is gone.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_stop(session: Option<&VmetteSession>) -> VmetteStatus {
    end_with(session, |session| {
        session.stop();
        Ok(())
    })
}

/// Asks the session's command to end, with the image's stop signal, and ends the session if that has not come about
/// within `grace_milliseconds`.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_stop_gently(
    session: Option<&VmetteSession>,
    grace_milliseconds: u32,
) -> VmetteStatus {
    end_with(session, |session| {
        session.stop_gently(Duration::from_millis(grace_milliseconds.into()));
        Ok(())
    })
}

/// Writes the guest's dirty data to its disks and shares, then ends the session. It ends also when this fails.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_shutdown(session: Option<&VmetteSession>) -> VmetteStatus {
    end_with(session, |session| Ok(session.shutdown()?))
}

/// Asks the guest whether it is there.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_ping(session: Option<&VmetteSession>) -> VmetteStatus {
    with(session, |session| Ok(session.ping()?))
}

/// Saves the whole machine into the new folder `path`; needs vmette_config_set_allow_snapshot(). The session goes on. A
/// failure leaves nothing at `path`: SaveFailed, with the reason as the text.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_snapshot(session: Option<&VmetteSession>, path: Text) -> VmetteStatus {
    with(session, |session| Ok(session.snapshot(path.required("path")?)?))
}

/// Runs one more command and stores it in `out`; the caller frees it with vmette_process_free(). Environment, folder and
/// user are the configuration's and the image's, except for those that `command` names.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_exec(
    session: Option<&VmetteSession>,
    command: Option<&VmetteCommand>,
    out: Option<&mut MaybeUninit<Box<VmetteProcess>>>,
) -> VmetteStatus {
    with(session, |session| {
        let command = required(command, "command")?;
        let out = required(out, "out")?;
        let process = session.exec(command.options())?;
        out.write(Box::new(VmetteProcess::new(Arc::new(process))));
        Ok(())
    })
}

/// The host's port that the guest reaches by vsock; 0 when there is none.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_session_vsock_port(session: Option<&VmetteSession>) -> u32 {
    entry_or(0, || match session.map(|session| &session.started) {
        Some(Started::Running(session)) => Ok(session.vsock_port().unwrap_or(0)),
        _ => Ok(0),
    })
}
