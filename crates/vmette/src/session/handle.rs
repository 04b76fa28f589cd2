//! A session as others than its owner reach it.

use std::io::{Read, Write};
use std::sync::{Arc, Weak};
use std::time::Duration;

use vmette_vmm::{Machine, VsockListener, VsockStream};
use vmette_wire::{Action, MachineRequest, ResponseHeader};

use crate::connection::{REQUEST_TIMEOUT, RootHandle};
use crate::end::{SessionEnd, Shared, StopHandle};
use crate::error::Error;
use crate::files::{self, FileInfo};
use crate::process::{ExecOptions, Process};
use crate::vsock;

/// How long the guest may take to write its dirty data to disks and shares before the plug is pulled.
pub(super) const SYNC_TIMEOUT: Duration = Duration::from_secs(20);

/// Reaches a session from any thread, as often as it is cloned, and does not keep it alive: once the session has ended, or
/// its owner has dropped it, calls fail with [`Error::Ended`].
#[derive(Clone)]
pub struct SessionHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) root: RootHandle,
    pub(super) machine: Weak<dyn Machine>,
    /// Environment, folder and user of every command.
    pub(super) surroundings: Arc<ExecOptions>,
    /// The signal that asks the session's command to end.
    pub(super) stop_signal: i32,
    /// The command whose end is the session's.
    pub(super) main: Weak<Process>,
    pub(super) vsock_port: Option<u32>,
}

impl SessionHandle {
    /// Runs one more command in the guest. Environment, folder and user are those of the image and the configuration,
    /// except for those that `options` name; the entrypoint has no part in it.
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

    /// Carries out one request of the desktop's protocol; several may be under way at once.
    ///
    /// # Errors
    /// The connection is gone, or there was no answer within 30 s. A refusal is an answer with `ok: false`.
    pub fn request(&self, action: &Action) -> Result<(ResponseHeader, Vec<u8>), Error> {
        self.root()?.action(action)
    }

    /// Asks the agent whether it is there.
    ///
    /// # Errors
    /// The connection is gone, or there was no answer within 30 s.
    pub fn ping(&self) -> Result<(), Error> {
        let connection = self.root()?.connection();
        connection.request(MachineRequest::Ping, &[], REQUEST_TIMEOUT)?.map_err(Error::Agent)
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
    /// [`Error::Vsock`] when the machine has no vsock device
    /// ([`VsockOptions::device`](crate::VsockOptions::device) asks for one); the port is taken in this session; the session
    /// has ended.
    pub fn vsock_listen(&self, port: u32) -> Result<VsockListener, Error> {
        vsock::listen(&*self.machine()?, port)
    }

    /// Connects to a port of the guest, within 10 s.
    ///
    /// # Errors
    /// [`Error::Vsock`] when the machine has no vsock device; nobody listens there; the session has ended.
    pub fn vsock_connect(&self, port: u32) -> Result<VsockStream, Error> {
        self.machine()?.vsock_connect(port).map_err(Error::of_vsock)
    }

    /// Ends the session as [`SessionEnd::Stopped`]; nothing happens when it has ended.
    pub fn stop(&self) {
        self.shared.finish(SessionEnd::Stopped);
    }

    /// Asks the session's command to end, with [`SessionHandle::stop_signal`], and ends the session if that has not come
    /// about within `grace`. At once when there is no such command.
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

    /// The signal that asks the session's command to end: the image's, `SIGTERM` when it names none. Linux's number.
    #[must_use]
    pub fn stop_signal(&self) -> i32 {
        self.stop_signal
    }

    /// Ends the session, writing what is dirty in the guest to its disks and shares first.
    ///
    /// # Errors
    /// The guest did not confirm; the session is ended all the same.
    pub fn shutdown(&self) -> Result<(), Error> {
        let synced = if self.shared.ended().is_none() { self.sync() } else { Ok(()) };
        self.stop();
        synced
    }

    fn sync(&self) -> Result<(), Error> {
        self.root.connection().request(MachineRequest::Sync, &[], SYNC_TIMEOUT)?.map_err(Error::Agent)
    }

    /// Waits for the end. Any number of threads may wait, any number of times.
    ///
    /// Output that goes to this process's stdout and stderr belongs to the command: it has exited when all of it was
    /// written there. Only a timeout or a stop does not wait for a reader that is late.
    pub fn wait(&self) -> SessionEnd {
        self.shared.wait()
    }

    /// A handle that can only end the session and wait for its end.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle { shared: self.shared.clone() }
    }

    /// The root of a session that goes on.
    pub(super) fn root(&self) -> Result<&RootHandle, Error> {
        self.shared.ended().map_or(Ok(&self.root), |end| Err(Error::Ended(end)))
    }

    fn machine(&self) -> Result<Arc<dyn Machine>, Error> {
        self.root()?;
        // Without its owner it is about to end, or has.
        self.machine.upgrade().ok_or_else(|| Error::Ended(self.shared.wait()))
    }
}

impl std::fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionHandle").field("ended", &self.shared.ended()).finish_non_exhaustive()
    }
}
