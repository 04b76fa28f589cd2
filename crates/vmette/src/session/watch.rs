//! The threads that notice a session's end, and that carry its command's output.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use vmette_wire::MachineRequest;
use vmette_wire::streams::ExitStatus;

use super::Session;
use super::handle::SYNC_TIMEOUT;
use super::save::{end_of_save, saver};
use crate::end::SessionEnd;
use crate::error::Error;
use crate::process::Process;
use crate::resolved::Resolved;
use crate::waiting::Waiting;
use crate::{capture, pump};

/// The connection's end is the session's, unless there was one: a machine that ends takes the connection with it,
/// and a guest that breaks the protocol has its machine stopped.
pub(super) fn connection(session: &Session) -> Result<(), Error> {
    let (shared, connection) = (session.handle.shared.clone(), session.launched.connection.clone());
    thread::Builder::new().name("vmette-watch".into()).spawn(move || {
        shared.finish(SessionEnd::Error(connection.wait_end()));
    })?;
    Ok(())
}

/// The command's end is the session's, once `output` has written what the command has printed.
pub(super) fn process(
    session: &Session,
    process: Arc<Process>,
    resolved: &Resolved,
    output: Option<JoinHandle<()>>,
) -> Result<(), Error> {
    let (shared, connection) = (session.handle.shared.clone(), session.launched.connection.clone());
    let grants = &resolved.grants;
    let dirty = !grants.disks.is_empty() || grants.shares.iter().any(|share| !share.read_only);
    let is_init = resolved.command.switch_root;
    let save = match &resolved.build_snapshot {
        Some(target) => Some((saver(&session.launched)?.clone(), target.clone())),
        None => None,
    };
    thread::Builder::new().name("vmette-process".into()).spawn(move || {
        let end = match process.wait() {
            Ok(status) => SessionEnd::Exited(exit_code(status, is_init)),
            Err(e) => SessionEnd::Error(e.to_string()),
        };
        let end = match (end, &save) {
            // Its shares are written out when it gives them up.
            (SessionEnd::Exited(0), Some((saver, target))) => end_of_save(saver, target, &shared),
            (end, _) => {
                if dirty && matches!(end, SessionEnd::Exited(_)) {
                    // A guest that does not confirm has its plug pulled all the same.
                    let _ = connection.request(MachineRequest::Sync, &[], SYNC_TIMEOUT);
                }
                end
            }
        };
        // A reader that is late may take its time, and nothing of the machine is to last as long.
        drop((process, connection, save));
        if let (SessionEnd::Exited(_), Some(output)) = (&end, output) {
            // Whoever is told of the end may end this process, and unwritten output would go with it. A stop or the
            // timeout ends the session all the same. A writer that panicked has written what it could.
            let _ = output.join();
        }
        shared.finish(end);
    })?;
    Ok(())
}

/// A PID 1 that asks its kernel to power off or to reboot is ended by `SIGINT` or `SIGHUP` in its namespace: that is
/// how an init system exits.
fn exit_code(status: ExitStatus, is_init: bool) -> i32 {
    match status {
        ExitStatus::Signal(libc::SIGINT | libc::SIGHUP) if is_init => 0,
        status => status.code(),
    }
}

/// Keeps the command's output for the receiver. The session's end does not wait for it.
pub(super) fn capture(process: Arc<Process>) -> Result<Receiver<Vec<u8>>, Error> {
    let (sender, receiver) = mpsc::sync_channel(capture::PIECES);
    // An error here is the connection's, and the session's end says it.
    let work = move || drop(capture::capture(&process, &sender));
    thread::Builder::new().name("vmette-output".into()).spawn(work)?;
    Ok(receiver)
}

/// Passes the command's output to this process's stdout and stderr, in a thread.
pub(super) fn pass_on(session: &Session, process: Arc<Process>) -> Result<JoinHandle<()>, Error> {
    let shared = session.handle.shared.clone();
    let work = move || {
        let (mut stdout, mut stderr) = (Waiting::new(io::stdout()), Waiting::new(io::stderr()));
        // Nobody takes its output any more: it could never end. Other errors are the connection's, which is watched.
        if let Err(Error::Io(e)) = pump::forward(&process, &mut stdout, &mut stderr) {
            shared.finish(SessionEnd::Error(format!("cannot write the command's output: {e}")));
        }
    };
    Ok(thread::Builder::new().name("vmette-output".into()).spawn(work)?)
}
