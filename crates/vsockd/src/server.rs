//! The process: its inherited descriptors, its sandbox, its life.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use vhost::vhost_user::Error::{Disconnected, PartialMessage};
use vhost::vhost_user::Listener;
use vhost_user_backend::Error::HandleRequest;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmette_backend::vsock::Channel;
use vmette_backend::{VSOCKD, complaints};
use vmm_sys_util::epoll::EventSet;

use crate::queues::{OTHERS, Queues};
use crate::sandbox::{self, SandboxError};

/// Time for the last bytes of a guest that is gone to reach the host's sockets. The engine waits a little longer for this
/// program.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// Why the device is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// An inherited descriptor is not of the expected kind.
    #[error("{what}: {source}")]
    Inherited {
        /// The descriptor's role.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The sandbox.
    #[error("sandbox: {0}")]
    Sandbox(#[from] SandboxError),
    /// The library.
    #[error("{what}: {message}")]
    Vhost {
        /// The step that failed.
        what: &'static str,
        /// The library's own text.
        message: String,
    },
}

fn inherited(what: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::Inherited { what, source }
}

fn vhost<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> ServerError {
    move |error| ServerError::Vhost { what, message: error.to_string() }
}

/// Serves until the machine's connection ends.
///
/// # Errors
/// An inherited descriptor is no socket, the sandbox cannot be had, or the machine breaks the protocol.
pub(crate) fn run() -> Result<(), ServerError> {
    complaints::print_errors(VSOCKD.into()).map_err(vhost("log"))?;
    // A device of which one thread is gone would hang its guest: the whole of it ends, and the machine with it.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{VSOCKD}: {info}");
        std::process::abort()
    }));
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(inherited("standard input"))?;
    let mut listener = Listener::from(UnixListener::from(socket));
    let control = io::stdout().as_fd().try_clone_to_owned().map_err(inherited("standard output"))?;
    // Whatever a library prints must not get between the owner's messages.
    rustix::stdio::dup2_stdout(io::stderr()).map_err(|e| inherited("standard output")(e.into()))?;
    let control = UnixStream::from(control);
    control.peer_addr().map_err(inherited("standard output"))?;
    sandbox::limit()?;

    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let (queues, events) =
        Queues::new(memory.clone(), Channel::new(control)).map_err(inherited("the device's events"))?;
    let mut daemon = VhostUserDaemon::new("vhost-user".into(), queues.clone(), memory)
        .map_err(vhost("create the device"))?;
    for handler in daemon.get_epoll_handlers() {
        handler
            .register_listener(events.as_raw_fd(), EventSet::IN, OTHERS.into())
            .map_err(inherited("the device's events"))?;
    }
    sandbox::filter()?;
    daemon.start(&mut listener).map_err(vhost("accept the machine's connection"))?;
    let ended = daemon.wait();
    let finished = queues.lock().unwrap_or_else(PoisonError::into_inner).finish(Instant::now() + LAST_BYTES);
    finished.map_err(vhost("pass on the last bytes"))?;
    match ended {
        // The machine has ended.
        Ok(()) | Err(HandleRequest(Disconnected | PartialMessage)) => Ok(()),
        Err(error) => Err(vhost("serve")(error)),
    }
}
