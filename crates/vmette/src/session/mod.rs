//! A machine with a workload: started, watched, ended once.

mod builder;
mod handle;
mod save;
mod watch;

use std::ops::Deref;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

pub use builder::SessionBuilder;
pub use handle::SessionHandle;

use crate::capture::RunOutput;
use crate::end::SessionEnd;
use crate::error::Error;
use crate::launch::Launched;
use crate::notice::Told;
use crate::process::Process;
use crate::report::Report;
use crate::vsock;

/// A running machine, owned: dropping it ends the machine and removes everything that belonged to it.
///
/// It may be shared between threads. What it can do for any holder are the methods of [`SessionHandle`], of which
/// [`Session::handle`] gives out copies that do not keep it alive.
pub struct Session {
    handle: SessionHandle,
    launched: Launched,
    /// The command of a piped session.
    process: Option<Arc<Process>>,
    captured: Mutex<Option<Receiver<Vec<u8>>>>,
    /// After the machine, whose last bytes it passes on.
    _vsock: vsock::Open,
    /// The last: until then something may be told.
    _told: Told,
}

/// What came of a start.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for each start of a machine")]
pub enum Started {
    /// The workload's root is ready, and its command runs.
    Running(Session),
    /// A timeout or a stop ended the session while it started.
    Ended(SessionEnd),
}

impl Started {
    /// The running session.
    ///
    /// # Errors
    /// [`Error::Ended`]: it ended while it started.
    pub fn running(self) -> Result<Session, Error> {
        match self {
            Self::Running(session) => Ok(session),
            Self::Ended(end) => Err(Error::Ended(end)),
        }
    }
}

impl Session {
    /// A handle for other threads, which does not keep the session alive.
    #[must_use]
    pub fn handle(&self) -> SessionHandle {
        self.handle.clone()
    }

    /// Waits for the end and returns what was captured, as text: invalid UTF-8 is replaced, CRLF becomes LF.
    pub fn wait_captured(&self) -> RunOutput {
        let mut bytes = Vec::new();
        if let Some(receiver) = self.capture_rx() {
            for chunk in receiver {
                bytes.extend_from_slice(&chunk);
            }
        }
        let exit_code = self.wait().exit_code();
        RunOutput { exit_code, output: String::from_utf8_lossy(&bytes).replace("\r\n", "\n") }
    }

    /// Takes the channel of captured output, once. It ends when the command has ended and everything was received.
    pub fn capture_rx(&self) -> Option<Receiver<Vec<u8>>> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The kernel's command line.
    #[must_use]
    pub fn cmdline(&self) -> &str {
        &self.launched.cmdline
    }

    /// What this session has.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.launched.report
    }

    /// The command of a piped session.
    #[must_use]
    pub fn process(&self) -> Option<&Arc<Process>> {
        self.process.as_ref()
    }

    /// Ids of the host processes that make up the machine, for measuring.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.launched.machine.processes()
    }
}

impl Deref for Session {
    type Target = SessionHandle;

    fn deref(&self) -> &SessionHandle {
        &self.handle
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
        self.launched.connection.close("the session is gone");
        self.launched.machine.stop();
        if let Ok(saver) = &self.launched.saver {
            saver.wait_idle();
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("ended", &self.handle.shared.ended()).finish_non_exhaustive()
    }
}
