//! What a session does with its vsock device by itself: ports that lead to UNIX sockets of the host, sockets that lead to
//! ports of the guest, and the port that answers with what it is sent.

mod connect;
mod echo;
mod entrance;
mod relay;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmette_vmm::{Machine, VsockListener};

use crate::config::Vsock;
use crate::error::{Error, VsockError};
use crate::identity;
use crate::notice::Notices;
use crate::report::{VsockGrant, VsockGrantForward};
use connect::{CONNECT_LIMIT, connect};
use entrance::Entrance;
use relay::Relays;

/// Where ports that nobody has chosen come from.
pub(crate) const AUTO_PORTS: std::ops::RangeInclusive<u32> = 50_000..=59_999;

/// Ports that are tried before giving up: the range has thousands, and a session opens a handful.
const ATTEMPTS: usize = 100;

/// How long what the guest has sent may take to reach its sockets once the machine has ended.
const LINGER: Duration = Duration::from_secs(1);

/// A port that nobody has chosen.
pub(crate) fn random_port() -> Result<u32, Error> {
    let count = AUTO_PORTS.end() - AUTO_PORTS.start() + 1;
    Ok(AUTO_PORTS.start() + u32::from_le_bytes(identity::random()?) % count)
}

/// For the report. `runs`: there is a command, which the port answers to.
pub(crate) fn grant(vsock: &Vsock, runs: bool) -> VsockGrant {
    let lead = |port, path: &Path| VsockGrantForward { port, host: path.display().to_string() };
    VsockGrant {
        port: vsock.port,
        echo: runs && vsock.echo,
        forwards: vsock.forwards.iter().map(|to| lead(to.port, &to.path)).collect(),
        connects: vsock.connects.iter().map(|to| lead(to.port, &to.path)).collect(),
    }
}

/// The ports that are open, and the connections through them. Dropped after its machine it waits a moment for what the
/// guest has sent.
#[derive(Default)]
pub(crate) struct Open {
    entrances: Vec<Entrance>,
    relays: Arc<Relays>,
}

impl Open {
    /// Opens what the configuration asks for, before the first command runs. The ports close with the machine.
    pub(crate) fn new(
        machine: &Arc<dyn Machine>,
        vsock: Option<&Vsock>,
        runs: bool,
        notices: &Arc<Notices>,
    ) -> Result<Self, Error> {
        let mut open = Self::default();
        let Some(vsock) = vsock else { return Ok(open) };
        for forward in &vsock.forwards {
            let listener = machine.vsock_listen(forward.port)?;
            let path = std::path::absolute(&forward.path)?;
            open.serve(listener, move |stream, relays| to_socket(stream, &path, relays), notices)?;
        }
        for connect in &vsock.connects {
            open.entrances.push(Entrance::open(machine, connect, &open.relays, notices)?);
        }
        if let Some(port) = vsock.port
            && runs
            && vsock.echo
        {
            let echo = echo::Echo::new(port, notices.clone());
            open.serve(
                machine.vsock_listen(port)?,
                move |stream, relays| echo.serve(stream, relays),
                notices,
            )?;
        }
        Ok(open)
    }

    fn serve<F>(&self, listener: VsockListener, serve: F, notices: &Arc<Notices>) -> Result<(), Error>
    where
        F: Fn(UnixStream, &Arc<Relays>) -> std::io::Result<()> + Send + 'static,
    {
        let (relays, notices) = (self.relays.clone(), notices.clone());
        thread::Builder::new().name("vmette-vsock".into()).spawn(move || {
            while let Some(stream) = listener.accept() {
                if let Err(e) = serve(stream, &relays) {
                    notices.warn(format!("vsock port {}: {e}", listener.port()));
                }
            }
        })?;
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.entrances.clear();
        self.relays.end(Instant::now() + LINGER);
    }
}

/// Connects a guest with a UNIX socket of the host. A guest that finds nobody there sees its connection end.
fn to_socket(guest: UnixStream, path: &Path, relays: &Arc<Relays>) -> std::io::Result<()> {
    let host = connect(path, CONNECT_LIMIT)
        .map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    relays.start(guest, host)
}

/// Opens a port: that one, or for 0 any that is free.
pub(crate) fn listen(machine: &dyn Machine, port: u32) -> Result<VsockListener, Error> {
    if port != 0 {
        return machine.vsock_listen(port).map_err(Error::of_vsock);
    }
    let mut taken = None;
    for _ in 0..ATTEMPTS {
        match machine.vsock_listen(random_port()?) {
            Err(vmette_vmm::Error::Io { what, source }) if source.kind() == std::io::ErrorKind::AddrInUse => {
                taken = Some(vmette_vmm::Error::Io { what, source });
            }
            result => return result.map_err(Error::of_vsock),
        }
    }
    Err(taken.map_or_else(|| VsockError::NoPort.into(), Error::of_vsock))
}

impl Error {
    /// Without a device it is vsock that is unavailable, not the engine.
    pub(crate) fn of_vsock(error: vmette_vmm::Error) -> Self {
        match error {
            vmette_vmm::Error::Unsupported { reason, .. } => VsockError::NoDevice(reason).into(),
            error => Self::Engine(error),
        }
    }
}

#[cfg(test)]
mod tests;
