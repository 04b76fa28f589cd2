//! From a configuration to a running session.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use vmette_vmm::{Console, Hypervisor};
use vmette_work::Work;

use super::{Session, SessionHandle, Started, save, watch};
use crate::config::Config;
use crate::end::{SessionEnd, Shared, StopHandle};
use crate::error::Error;
use crate::launch::Launcher;
use crate::notice::{Observer, Told};
use crate::process::{ExecOptions, Process};
use crate::resolved::Resolved;
use crate::rootfs::cache_of;
use crate::snapshot::Snapshot;
use crate::{engine, stop_signal, vsock};

/// What a session needs beside its [`Config`]: what belongs to the program that starts it rather than to the machine. Made
/// by [`Session::builder`].
pub struct SessionBuilder<'a> {
    config: &'a Config,
    stop: StopHandle,
    observer: Option<Observer>,
    engine: Option<Arc<dyn Hypervisor>>,
    snapshot: Option<Snapshot>,
    console: Console,
    output: CommandOutput,
}

/// The reader of the command's output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CommandOutput {
    /// This process's stdout and stderr.
    PassedOn,
    /// Whoever asks for it later.
    Captured,
    /// The caller, who has the process.
    Piped,
}

impl Session {
    /// Starts a session with the defaults of [`Session::builder`].
    ///
    /// # Errors
    /// As [`SessionBuilder::start`], and [`Error::Ended`] when its time limit passed while it started.
    pub fn start(config: &Config) -> Result<Self, Error> {
        Self::builder(config).start()?.running()
    }

    /// Prepares a session.
    #[must_use]
    pub fn builder(config: &Config) -> SessionBuilder<'_> {
        SessionBuilder {
            config,
            stop: StopHandle::new(),
            observer: None,
            engine: None,
            snapshot: None,
            console: Console::Discard,
            output: CommandOutput::PassedOn,
        }
    }
}

impl SessionBuilder<'_> {
    /// Makes `handle` stop this session, from the first moment of its start.
    #[must_use]
    pub fn stop_handle(mut self, handle: &StopHandle) -> Self {
        self.stop = handle.clone();
        self
    }

    /// Receives progress and warnings.
    #[must_use]
    pub fn observer(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Runs on this engine rather than the host's own.
    #[must_use]
    pub fn engine(mut self, engine: Arc<dyn Hypervisor>) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Starts from this snapshot, which need not be read again:
    /// [`SnapshotOptions::resume`](crate::SnapshotOptions::resume) names the same or nothing.
    #[must_use]
    pub fn snapshot(mut self, snapshot: Snapshot) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// Writes the guest kernel's messages there. By default they are dropped.
    #[must_use]
    pub fn console(mut self, console: Console) -> Self {
        self.console = console;
        self
    }

    /// Keeps the command's output for [`Session::wait_captured`] and [`Session::capture_rx`] rather than passing it to this
    /// process's stdout and stderr.
    #[must_use]
    pub fn captured(mut self) -> Self {
        self.output = CommandOutput::Captured;
        self
    }

    /// Leaves the command's stdin, stdout and stderr to the caller: see [`Session::process`].
    #[must_use]
    pub fn piped(mut self) -> Self {
        self.output = CommandOutput::Piped;
        self
    }

    /// Starts the session. Returns when the workload's root is ready and its command runs, or when a timeout or a stop has
    /// ended the session meanwhile.
    ///
    /// # Errors
    /// The configuration is wrong, the host lacks something, or the machine did not come up. A command that does not
    /// exist is an [`Error::Request`].
    pub fn start(self) -> Result<Started, Error> {
        self.launch(Resolved::main_command)
    }

    /// As [`SessionBuilder::start`], with this command in place of the configuration's, or with none. It starts where,
    /// as whom and with the environment that the configuration says, except for what it says itself.
    ///
    /// # Errors
    /// As [`SessionBuilder::start`].
    pub fn start_with(self, exec: Option<ExecOptions>) -> Result<Started, Error> {
        self.launch(|_| exec)
    }

    fn launch(self, exec: impl FnOnce(&Resolved) -> Option<ExecOptions>) -> Result<Started, Error> {
        let started = Instant::now();
        let shared = self.stop.shared.clone();
        if let Some(limit) = self.config.machine.timeout() {
            shared.watch_timeout(started, limit)?;
        }
        let unstarted = Unstarted(Some(&shared));
        let cache = cache_of(&self.config.host)?;
        cache.ensure()?;
        let snapshot = match (self.snapshot, &self.config.snapshots.resume) {
            (None, Some(folder)) => Some(Snapshot::open(folder)?),
            (opened, _) => opened,
        };
        let resolved = Resolved::new(self.config, snapshot)?;
        let engine = match self.engine {
            Some(engine) => engine,
            None => engine::for_this_host(&resolved.host, &cache)?,
        };
        let told = Told::new(self.observer);
        let notices = told.notices();
        let work = Work::new(shared.cancel().clone()).reporting(notices.reporter());
        let surroundings = resolved.surroundings();
        let exec = exec(&resolved).map(|exec| exec.within(&surroundings).init(resolved.command.switch_root));
        let runs = exec.is_some();
        let launcher = Launcher {
            config: &resolved,
            engine,
            cache: &cache,
            shared: &shared,
            work: &work,
            notices,
            started,
            console: self.console,
            runs,
        };
        let parts = launcher.launch().and_then(|launched| {
            let vsock = vsock::Open::new(&launched.machine, resolved.vsock.as_ref(), runs, notices)?;
            let process = match &exec {
                Some(options) => Some(Arc::new(Process::start(&launched.root, options)?)),
                None => None,
            };
            Ok((launched, vsock, process))
        });
        let (launched, vsock, process) = match (parts, shared.ended()) {
            (Ok(parts), _) => parts,
            // A timeout or a stop: that is how this session ended, not why it failed.
            (Err(_), Some(end)) => return Ok(Started::Ended(end)),
            (Err(e), None) => return Err(e),
        };
        unstarted.disarm();
        let mut session = Session {
            handle: SessionHandle {
                shared,
                root: launched.root.clone(),
                machine: Arc::downgrade(&launched.machine),
                surroundings: Arc::new(surroundings),
                stop_signal: stop_signal::of(&resolved.root.image),
                main: process.as_ref().map(Arc::downgrade).unwrap_or_default(),
                vsock_port: resolved.vsock.as_ref().and_then(|vsock| vsock.port),
            },
            launched,
            process: None,
            captured: Mutex::default(),
            _vsock: vsock,
            _told: told,
        };
        watch::connection(&session)?;
        match (process, &resolved.build_snapshot) {
            (Some(process), _) => {
                let output = match self.output {
                    CommandOutput::PassedOn => Some(watch::pass_on(&session, process.clone())?),
                    CommandOutput::Captured => {
                        session.captured = Mutex::new(Some(watch::capture(process.clone())?));
                        None
                    }
                    CommandOutput::Piped => {
                        session.process = Some(process.clone());
                        None
                    }
                };
                watch::process(&session, process, &resolved, output)?;
            }
            (None, Some(target)) => save::save_and_end(&session, target)?,
            (None, None) => {}
        }
        Ok(Started::Running(session))
    }
}

/// Ends a session whose start fails: its timeout's thread waits for the end, and so may others.
struct Unstarted<'a>(Option<&'a Shared>);

impl Unstarted<'_> {
    /// The session has started: it ends when it is dropped.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Unstarted<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.finish(SessionEnd::Error("the session did not start".into()));
        }
    }
}
