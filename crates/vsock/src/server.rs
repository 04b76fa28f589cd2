//! The program `vmette-vsockd`.

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
use vmm_sys_util::epoll::EventSet;

use crate::control::Channel;
use crate::queues::{OTHERS, Queues};
use crate::sandbox::{self, SandboxError};

/// How long the last bytes of a guest that is gone may take to reach the host's sockets. Whoever waits for this program
/// has a little more patience than that.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// Why the device is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// What was inherited is not what it has to be.
    #[error("{what}: {source}")]
    Inherited {
        /// Which descriptor.
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
        /// What was tried.
        what: &'static str,
        /// Its words.
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
/// What was inherited is no socket, no sandbox can be had, or the machine breaks the protocol.
pub fn run() -> Result<(), ServerError> {
    log_errors()?;
    // A device of which one thread is gone would hang its guest: the whole of it ends, and the machine with it.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("vmette-vsockd: {info}");
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

/// The library reports some failures only to its log.
fn log_errors() -> Result<(), ServerError> {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Error
        }
        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                eprintln!("vmette-vsockd: {}", record.args());
            }
        }
        fn flush(&self) {}
    }
    static STDERR: Stderr = Stderr;
    log::set_logger(&STDERR).map_err(vhost("log"))?;
    log::set_max_level(log::LevelFilter::Error);
    Ok(())
}
