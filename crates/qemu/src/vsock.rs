//! The owner's side of a vsock device: ports that listen, and connections to the guest.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use vmette_backend::vsock::{Channel, ToDevice, ToOwner};
use vmette_vmm::{Error, Result, VsockListener, VsockStream, checks};

/// Connections that wait for being accepted at one port; further ones are refused.
const BACKLOG: usize = 256;

/// Time for a guest to answer a connection. An emulated one that starts may be slow.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A machine's vsock device. It ends with its machine; ports and waiting callers are told then.
#[derive(Debug)]
pub(crate) struct Vsock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    channel: Channel,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listening: HashMap<u32, SyncSender<VsockStream>>,
    connecting: HashMap<u64, Sender<bool>>,
    next_id: u64,
    over: bool,
}

impl Vsock {
    /// The owner's side of a device whose server has the other end of `socket`.
    pub(crate) fn new(socket: UnixStream) -> Result<Self> {
        let shared = Arc::new(Shared { channel: Channel::new(socket), state: Mutex::default() });
        let reader = shared.clone();
        thread::Builder::new()
            .name("vsock".into())
            .spawn(move || reader.hear())
            .map_err(Error::io("start a thread"))?;
        Ok(Self { shared })
    }

    /// Opens a port of the host.
    pub(crate) fn listen(&self, port: u32) -> Result<VsockListener> {
        const WHAT: &str = "listen on a vsock port";
        checks::vsock_port(port)?;
        let (sender, incoming) = mpsc::sync_channel(BACKLOG);
        let mut state = self.shared.lock();
        if state.over {
            return Err(over());
        }
        if state.listening.contains_key(&port) {
            return Err(Error::Io { what: WHAT, source: io::ErrorKind::AddrInUse.into() });
        }
        self.shared.channel.send(ToDevice::Listen { port }, None).map_err(Error::io(WHAT))?;
        state.listening.insert(port, sender);
        drop(state);
        Ok(VsockListener::new(port, incoming, Open { shared: self.shared.clone(), port }))
    }

    /// Connects to a port of the guest.
    pub(crate) fn connect(&self, port: u32) -> Result<VsockStream> {
        const WHAT: &str = "connect to a vsock port of the guest";
        checks::vsock_port(port)?;
        let (ours, theirs) = UnixStream::pair().map_err(Error::io("create a socket pair"))?;
        let (sender, answer) = mpsc::channel();
        let mut state = self.shared.lock();
        if state.over {
            return Err(over());
        }
        let id = state.next_id;
        state.next_id += 1;
        let sent = self.shared.channel.send(ToDevice::Connect { id, port }, Some(theirs.as_fd()));
        sent.map_err(Error::io(WHAT))?;
        state.connecting.insert(id, sender);
        drop((state, theirs));
        match answer.recv_timeout(CONNECT_LIMIT) {
            Ok(true) => Ok(ours),
            Ok(false) => Err(Error::Io { what: WHAT, source: io::ErrorKind::ConnectionRefused.into() }),
            Err(RecvTimeoutError::Disconnected) => Err(over()),
            Err(RecvTimeoutError::Timeout) => {
                // Closing our end calls it off.
                self.shared.lock().connecting.remove(&id);
                Err(Error::Timeout { operation: WHAT, seconds: CONNECT_LIMIT.as_secs() })
            }
        }
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        // Ends the reader. Fails only when the server has ended.
        let _ = self.shared.channel.socket().shutdown(std::net::Shutdown::Both);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader's life.
    fn hear(&self) {
        // Whatever ends the channel: the device is gone for us.
        while let Ok(Some((message, _))) = self.channel.receive::<ToOwner>() {
            let heard = match message {
                ToOwner::Asked { id, port } => self.asked(id, port),
                ToOwner::Connected { id } => self.answered(id, true),
                ToOwner::Refused { id } => self.answered(id, false),
            };
            if heard.is_err() {
                break;
            }
        }
        let mut state = self.lock();
        state.over = true;
        state.listening.clear();
        state.connecting.clear();
    }

    /// The guest wants to connect. Without room in the backlog, without a descriptor: refused.
    fn asked(&self, id: u64, port: u32) -> io::Result<()> {
        let state = self.lock();
        let accepted = state.listening.get(&port).and_then(|waiting| {
            let (ours, theirs) = UnixStream::pair().ok()?;
            waiting.try_send(ours).ok()?;
            Some(theirs)
        });
        match accepted {
            Some(socket) => self.channel.send(ToDevice::Accept { id }, Some(socket.as_fd())),
            None => self.channel.send(ToDevice::Refuse { id }, None),
        }
    }

    fn answered(&self, id: u64, connected: bool) -> io::Result<()> {
        if let Some(caller) = self.lock().connecting.remove(&id) {
            // It may have given up meanwhile, and has closed its end.
            let _ = caller.send(connected);
        }
        Ok(())
    }
}

/// Keeps a port open.
struct Open {
    shared: Arc<Shared>,
    port: u32,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if !state.over {
            state.listening.remove(&self.port);
            // A server that is gone listens nowhere.
            let _ = self.shared.channel.send(ToDevice::Unlisten { port: self.port }, None);
        }
    }
}

fn over() -> Error {
    Error::Machine("the machine has ended, and its vsock device with it".into())
}

#[cfg(test)]
#[path = "vsock_tests.rs"]
mod tests;
