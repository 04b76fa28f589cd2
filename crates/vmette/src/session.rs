//! A machine with a workload: started, watched, ended once.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmette_vmm::{Hypervisor, VsockListener, VsockStream};
use vmette_wire::streams::ExitStatus;
use vmette_wire::{Action, MachineRequest, ResponseHeader};
use vmette_work::Work;

use crate::connection::{REQUEST_TIMEOUT, RootHandle};
use crate::end::Shared;
use crate::error::{Error, SaveError};
use crate::launch::{Launched, Launcher};
use crate::notice::{Observer, Told};
use crate::report::Report;
use crate::resolve::cache_of;
use crate::snapshot::{Saver, Snapshot, Then};
use crate::{
    Config, ExecOptions, FileInfo, Process, RunOutput, SessionEnd, StopHandle, Waiting, capture, command,
    engine, files, pump, validate, vsock,
};

/// How long the guest may take to write its dirty data to disks and shares before the plug is pulled.
const SYNC_TIMEOUT: Duration = Duration::from_secs(20);

/// A running machine. Dropping it ends the machine and removes everything that belonged to it.
///
/// It may be shared between threads; [`SessionClient`] and [`StopHandle`] are smaller handles for them.
pub struct Session {
    shared: Arc<Shared>,
    /// `None` when the session ended while it was starting.
    launched: Option<Launched>,
    process: Option<Arc<Process>>,
    /// The command whose end is the session's.
    main: Weak<Process>,
    /// What every command starts with.
    surroundings: ExecOptions,
    stop_signal: i32,
    capture: Mutex<Option<Receiver<Vec<u8>>>>,
    vsock_port: Option<u32>,
    /// After the machine, whose last bytes it passes on.
    _vsock: vsock::Open,
    /// The last: until then something may be told.
    _told: Told,
}

/// What a session needs beside its [`Config`]. Made by [`Session::builder`].
pub struct SessionBuilder<'a> {
    config: &'a Config,
    stop: StopHandle,
    observer: Option<Observer>,
    engine: Option<Arc<dyn Hypervisor>>,
    piped: bool,
}

impl<'a> SessionBuilder<'a> {
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

    /// Leaves the command's stdin, stdout and stderr to the caller: see [`Session::process`].
    #[must_use]
    pub fn piped(mut self) -> Self {
        self.piped = true;
        self
    }

    /// Starts the session. Returns when the workload's root is ready and its command runs, or when the session has
    /// ended meanwhile because of a timeout or a stop.
    ///
    /// # Errors
    /// What is wrong with the configuration or the host, or why the machine did not come up. A command that does not
    /// exist is an [`Error::Request`].
    pub fn start(self) -> Result<Session, Error> {
        let exec = command::main_command(self.config);
        self.start_with(exec)
    }

    /// As [`SessionBuilder::start`], with this command in place of the configuration's, or with none. It starts where,
    /// as whom and with the environment that the configuration says, but for what it says itself.
    ///
    /// # Errors
    /// As [`SessionBuilder::start`].
    pub fn start_with(self, exec: Option<ExecOptions>) -> Result<Session, Error> {
        let started = Instant::now();
        let shared = self.stop.shared.clone();
        if let Some(seconds) = self.config.timeout_seconds {
            shared.watch_timeout(started, Duration::from_secs(seconds.into()))?;
        }
        // The timeout's thread waits on the slot: whatever happens below, the slot is set.
        let guard = FinishOnDrop(&shared);
        let cache = cache_of(self.config)?;
        cache.ensure()?;
        let saved = self.config.resume_snapshot.as_deref().map(Snapshot::open).transpose()?;
        let adopted = saved.as_ref().map(|saved| saved.adopt(self.config)).transpose()?;
        let config = adopted.as_ref().unwrap_or(self.config);
        // What a snapshot says of its image is as foreign as what an image says of itself.
        validate::check(config)?;
        let engine = match &self.engine {
            Some(engine) => engine.clone(),
            None => engine::for_this_host(config, &cache)?,
        };
        let told = Told::new(self.observer.clone());
        let notices = told.notices();
        let work = Work::new(shared.cancel().clone()).reporting(notices.reporter());
        let vsock_port = vsock::port_of(self.config)?;
        let runs = exec.is_some();
        let launcher = Launcher {
            config,
            engine,
            saved: saved.as_ref(),
            cache: &cache,
            shared: &shared,
            work: &work,
            notices,
            started,
            vsock_port,
            runs,
        };
        let surroundings = config.surroundings(vsock_port);
        let exec = exec.map(|options| options.within(&surroundings).init(config.switch_root));
        let result = launcher.launch().and_then(|launched| {
            let vsock = vsock::Open::new(&launched.machine, self.config, vsock_port, runs, notices)?;
            let process = match &exec {
                Some(options) => Some(Arc::new(Process::start(&launched.root, options)?)),
                None => None,
            };
            Ok((launched, vsock, process))
        });
        let (launched, vsock, process) = match result {
            Ok(parts) => parts,
            // The cause is in the slot: a timeout or a stop, which is how this session ends, not why it failed.
            Err(_) if shared.ended().is_some() => {
                std::mem::forget(guard);
                return Ok(Session {
                    shared,
                    launched: None,
                    process: None,
                    main: Weak::new(),
                    surroundings,
                    stop_signal: config.stop_signal(),
                    capture: Mutex::default(),
                    vsock_port,
                    _vsock: vsock::Open::default(),
                    _told: told,
                });
            }
            Err(e) => return Err(e),
        };
        std::mem::forget(guard);
        let mut session = Session {
            shared,
            launched: Some(launched),
            process: process.clone(),
            main: process.as_ref().map(Arc::downgrade).unwrap_or_default(),
            surroundings,
            stop_signal: config.stop_signal(),
            capture: Mutex::default(),
            vsock_port,
            _vsock: vsock,
            _told: told,
        };
        session.watch_connection()?;
        if let Some(process) = process {
            let output = if self.piped {
                None
            } else {
                session.process = None;
                session.forward(process.clone(), config)?
            };
            session.watch_process(process, config, output)?;
        } else if let Some(target) = &config.build_snapshot {
            session.save_and_end(target)?;
        }
        Ok(session)
    }
}

struct FinishOnDrop<'a>(&'a Shared);

impl Drop for FinishOnDrop<'_> {
    fn drop(&mut self) {
        self.0.finish(SessionEnd::Error("the session did not start".into()));
    }
}

impl Session {
    /// Starts a session with the defaults of [`Session::builder`].
    ///
    /// # Errors
    /// As [`SessionBuilder::start`].
    pub fn start(config: &Config) -> Result<Self, Error> {
        Self::builder(config).start()
    }

    /// Prepares a session.
    #[must_use]
    pub fn builder(config: &Config) -> SessionBuilder<'_> {
        SessionBuilder { config, stop: StopHandle::new(), observer: None, engine: None, piped: false }
    }

    /// Waits for the end. Any number of threads may wait, any number of times.
    ///
    /// Output that goes to this process's stdout and stderr belongs to the command: it has exited when all of it was
    /// written there. Only a timeout or a stop does not wait for a reader that is late.
    pub fn wait(&self) -> SessionEnd {
        self.shared.wait()
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
        self.capture.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends the session as [`SessionEnd::Stopped`]; nothing happens when it has ended.
    pub fn stop(&self) {
        self.shared.finish(SessionEnd::Stopped);
    }

    /// Asks the session's command to end, with the image's stop signal (`SIGTERM` when it names none), and ends the
    /// session if that has not come about within `grace`. At once when there is no such command.
    pub fn stop_gently(&self, grace: Duration) -> SessionEnd {
        let signal = self.stop_signal;
        // In a thread: a guest that takes nothing more must not prolong the grace. A connection that is gone ends the
        // session by itself.
        let asked = self.main.upgrade().is_some_and(|process| {
            let ask = move || drop(process.signal(signal));
            std::thread::Builder::new().name("vmette-ask".into()).spawn(ask).is_ok()
        });
        if !asked || self.shared.wait_for(grace).is_none() {
            self.stop();
        }
        self.wait()
    }

    /// Ends the session, writing what is dirty in the guest to its disks and shares first.
    ///
    /// # Errors
    /// The guest did not confirm; the session is ended all the same.
    pub fn shutdown(&self) -> Result<(), Error> {
        let synced = match &self.launched {
            Some(launched) if self.shared.ended().is_none() => sync(launched),
            _ => Ok(()),
        };
        self.stop();
        synced
    }

    /// Carries out one request of the desktop's protocol.
    ///
    /// # Errors
    /// The connection is gone, or there was no answer within 30 s. A refusal is an answer with `ok: false`.
    pub fn request(&self, action: &Action) -> Result<(ResponseHeader, Vec<u8>), Error> {
        self.root()?.action(action)
    }

    /// A handle for requests from other threads.
    #[must_use]
    pub fn client(&self) -> SessionClient {
        SessionClient { root: self.launched.as_ref().map(|l| l.root.clone()) }
    }

    /// A handle that ends this session from other threads.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle { shared: self.shared.clone() }
    }

    /// The port of the host that the guest is told of in `VMETTE_VSOCK_PORT`, if there is one.
    #[must_use]
    pub fn vsock_port(&self) -> Option<u32> {
        self.vsock_port
    }

    /// Opens a port of the host to the guest: this one, or for 0 one of 50000 to 59999 that is free. A guest may connect
    /// from now on; up to 256 connections (64 on macOS) wait for being accepted, further ones are refused.
    ///
    /// # Errors
    /// [`Error::Vsock`] when the machine has no vsock device ([`Config::vsock`] asks for one); the port is taken in this
    /// session; the session has ended.
    pub fn vsock_listen(&self, port: u32) -> Result<VsockListener, Error> {
        vsock::listen(&*self.running()?.machine, port)
    }

    /// Connects to a port of the guest, within 10 s.
    ///
    /// # Errors
    /// [`Error::Vsock`] when the machine has no vsock device; nobody listens there; the session has ended.
    pub fn vsock_connect(&self, port: u32) -> Result<VsockStream, Error> {
        self.running()?.machine.vsock_connect(port).map_err(Error::of_vsock)
    }

    /// The kernel's command line.
    #[must_use]
    pub fn cmdline(&self) -> &str {
        self.launched.as_ref().map_or("", |l| &l.cmdline)
    }

    /// What this session had. `None` when it ended before its machine was up.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        self.launched.as_ref().map(|l| &l.report)
    }

    /// The command of a piped session.
    #[must_use]
    pub fn process(&self) -> Option<&Arc<Process>> {
        self.process.as_ref()
    }

    /// Runs one more command in the guest. Environment, folder and user are those of the image and the configuration,
    /// but for what `options` name; the entrypoint has no part in it.
    ///
    /// # Errors
    /// [`Error::Request`] when the command cannot be run, or the connection is gone.
    pub fn exec(&self, options: &ExecOptions) -> Result<Process, Error> {
        Process::start(self.root()?, &options.clone().within(&self.surroundings))
    }

    /// Copies `source` to its end into a file of the guest: parent folders are made, an existing file is replaced when
    /// everything has arrived. `mode` is its permission bits. Returns the number of bytes.
    ///
    /// # Errors
    /// The guest refused, `source` failed, or the connection is gone.
    pub fn put(&self, path: &str, mode: u32, source: &mut dyn Read) -> Result<u64, Error> {
        files::put(self.root()?, path, mode, source)
    }

    /// Copies a regular file of the guest into `target`.
    ///
    /// # Errors
    /// The guest refused, `target` failed, or the connection is gone.
    pub fn get(&self, path: &str, target: &mut dyn Write) -> Result<FileInfo, Error> {
        files::get(self.root()?, path, target)
    }

    /// Saves the whole machine into the new folder `target`: memory, devices, and what was written to its root. The
    /// session goes on, after a pause of a fraction of a second. Needs [`Config::allow_snapshot`].
    ///
    /// Commands that run now run on in each machine that starts from the snapshot; nobody reads what they print there,
    /// and their input is at its end. They are frozen until that machine has its own randomness, clock and names, and the
    /// shares that it was started with. Shares are unmounted while the machine is saved, and are no part of it: a command
    /// that has one in use makes this fail. Commands are frozen as long as the shares are gone.
    ///
    /// # Errors
    /// [`Error::SaveFailed`]: the session cannot be saved, a share is in use, or there is no room; nothing is left at
    /// `target` then, and the session goes on. [`Error::Engine`] and [`Error::Agent`] when the machine did not come
    /// through; if it has lost its shares, the session has ended.
    pub fn snapshot(&self, target: impl AsRef<Path>) -> Result<(), Error> {
        self.saver()?.save(target.as_ref(), Then::GoOn, &self.shared)
    }

    fn saver(&self) -> Result<&Arc<Saver>, Error> {
        self.running()?.saver.as_ref().map_err(|reason| SaveError::Impossible(reason.clone()).into())
    }

    /// Saves the machine, whose command has done its work, in a thread, and ends the session.
    fn save_and_end(&self, target: &Path) -> Result<(), Error> {
        let (saver, shared, target) = (self.saver()?.clone(), self.shared.clone(), target.to_owned());
        std::thread::Builder::new().name("vmette-save".into()).spawn(move || {
            let end = end_of_save(&saver, &target, &shared);
            shared.finish(end);
        })?;
        Ok(())
    }

    /// Asks the agent whether it is there.
    ///
    /// # Errors
    /// The connection is gone, or there was no answer within 30 s.
    pub fn ping(&self) -> Result<(), Error> {
        let pinged = self.running()?.connection.request(MachineRequest::Ping, &[], REQUEST_TIMEOUT)?;
        pinged.map_err(Error::Agent)
    }

    /// Ids of the host processes that make up the machine, for measuring.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        self.launched.as_ref().map(|l| l.machine.processes()).unwrap_or_default()
    }

    fn root(&self) -> Result<&RootHandle, Error> {
        Ok(&self.running()?.root)
    }

    fn running(&self) -> Result<&Launched, Error> {
        match (&self.launched, self.shared.ended()) {
            (Some(launched), None) => Ok(launched),
            (_, Some(end)) => Err(Error::Ended(end)),
            (None, None) => Err(Error::Ended(self.shared.wait())),
        }
    }

    /// The connection's end is the session's, unless there was one: a machine that ends takes the connection with it,
    /// and a guest that breaks the protocol has its machine stopped.
    fn watch_connection(&self) -> Result<(), Error> {
        let Some(launched) = &self.launched else { return Ok(()) };
        let (shared, connection) = (self.shared.clone(), launched.connection.clone());
        std::thread::Builder::new().name("vmette-watch".into()).spawn(move || {
            shared.finish(SessionEnd::Error(connection.wait_end()));
        })?;
        Ok(())
    }

    /// The command's end is the session's, once `output` has written what the command has printed.
    fn watch_process(
        &self,
        process: Arc<Process>,
        config: &Config,
        output: Option<JoinHandle<()>>,
    ) -> Result<(), Error> {
        let Some(launched) = &self.launched else { return Ok(()) };
        let shared = self.shared.clone();
        let connection = launched.connection.clone();
        let dirty = !config.disks.is_empty() || config.shares.iter().any(|s| !s.read_only);
        let is_init = config.switch_root;
        let save = match &config.build_snapshot {
            Some(target) => Some((self.saver()?.clone(), target.clone())),
            None => None,
        };
        std::thread::Builder::new().name("vmette-process".into()).spawn(move || {
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
                // Whoever is told of the end may end this process, and what was not written would go with it. A stop or
                // the timeout ends the session all the same. A writer that panicked has written what it could.
                let _ = output.join();
            }
            shared.finish(end);
        })?;
        Ok(())
    }

    /// Takes the command's output in a thread, which is returned when the end has to wait for it: what is captured is
    /// kept for whoever asks.
    fn forward(&self, process: Arc<Process>, config: &Config) -> Result<Option<JoinHandle<()>>, Error> {
        let thread = std::thread::Builder::new().name("vmette-output".into());
        if config.capture_output {
            let (sender, receiver) = mpsc::sync_channel(capture::PIECES);
            *self.capture.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
            // An error here is the connection's, and the session's end says it.
            thread.spawn(move || drop(capture::capture(&process, &sender)))?;
            return Ok(None);
        }
        let shared = self.shared.clone();
        Ok(Some(thread.spawn(move || {
            let (mut stdout, mut stderr) = (Waiting::new(io::stdout()), Waiting::new(io::stderr()));
            // Nobody takes its output any more: it could never end. Other errors are the connection's, which is watched.
            if let Err(Error::Io(e)) = pump::forward(&process, &mut stdout, &mut stderr) {
                shared.finish(SessionEnd::Error(format!("cannot write the command's output: {e}")));
            }
        })?))
    }
}

/// A PID 1 that asks its kernel to power off or to reboot is ended by `SIGINT` or `SIGHUP` in its namespace: that is
/// how an init system exits.
fn exit_code(status: ExitStatus, is_init: bool) -> i32 {
    match status {
        ExitStatus::Signal(libc::SIGINT | libc::SIGHUP) if is_init => 0,
        status => status.code(),
    }
}

/// How a session ends that is saved when its command has succeeded.
fn end_of_save(saver: &Saver, target: &Path, shared: &Shared) -> SessionEnd {
    match saver.save(target, Then::End, shared) {
        Ok(()) => SessionEnd::Exited(0),
        Err(e) => SessionEnd::Error(e.to_string()),
    }
}

fn sync(launched: &Launched) -> Result<(), Error> {
    launched.connection.request(MachineRequest::Sync, &[], SYNC_TIMEOUT)?.map_err(Error::Agent)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
        if let Some(launched) = &self.launched {
            launched.connection.close("the session is gone");
            launched.machine.stop();
            if let Ok(saver) = &launched.saver {
                saver.wait_idle();
            }
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("ended", &self.shared.ended()).finish_non_exhaustive()
    }
}

/// Sends requests of the desktop's protocol from any thread. It does not keep the session alive.
#[derive(Clone)]
pub struct SessionClient {
    /// `None` for a session that ended while it started.
    root: Option<RootHandle>,
}

impl SessionClient {
    /// Carries out one request; several may be under way at once.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub fn request(&self, action: &Action) -> Result<(ResponseHeader, Vec<u8>), Error> {
        match &self.root {
            Some(root) => root.action(action),
            None => Err(Error::Ended(SessionEnd::Stopped)),
        }
    }
}

impl std::fmt::Debug for SessionClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionClient").finish_non_exhaustive()
    }
}
