//! The agent: one thread, one event loop, whatever the number of streams.
//!
//! Each turn takes what the host has sent, moves at most one chunk of every stream that can move, and writes as much as the
//! port takes. So no stream waits for another one, and a ping is answered between two chunks of the noisiest command.

mod change;
mod registry;
mod requests;
mod sync;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, ioctl_fionbio, read};
use vmette_wire::RootName;
use vmette_wire::frame::{CHUNK_MAX, Decoder, FrameError};

use crate::child;
use crate::exec::prepare::History;
use crate::log;
use crate::stream::{AGENT, Out, Poll, Progress, Role, StreamError};
use crate::world::World;
use change::Change;
use registry::Registry;

/// Bytes taken from the host in one turn.
const INPUT_TURN: usize = CHUNK_MAX;

/// The reason for which the agent has stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The host sent bytes that are no frame, or ended inside one.
    #[error("the host's stream cannot be read any more: {0}")]
    Frame(#[source] FrameError),
    /// The transport failed.
    #[error("the stream to the host failed: {0}")]
    Port(#[source] io::Error),
    /// A new stream under the id of an open one.
    #[error("stream {id} is open already")]
    DuplicateId {
        /// The request.
        id: u32,
    },
    /// The rules of streams are broken, or the kernel fails the agent.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl From<FrameError> for ServeError {
    /// A frame that cannot be written; one that cannot be read is a [`ServeError::Frame`].
    fn from(error: FrameError) -> Self {
        Self::Stream(error.into())
    }
}

/// The agent's state between two turns.
struct Agent<W> {
    registry: Registry,
    history: History,
    /// The change under way; until it has ended no further request is looked at.
    change: Option<Change>,
    world: W,
    poll: Poll,
    port: OwnedFd,
    port_readable: bool,
    decoder: Decoder,
    out: Out,
    phase: Phase,
    scratch: Vec<u8>,
}

/// The requests that the host may send.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// It has not said hello.
    Stranger,
    /// Everything; but neither commands nor files as long as one of these roots lacks its shares, which they would miss.
    Greeted { awaited: BTreeSet<RootName> },
}

/// State of the connection after a turn.
enum Connection {
    Open,
    Closed,
}

/// Serves the host on `stream` until it goes away (a world that [`World::reconnects`] waits for its return instead).
/// Ends every command it has started.
///
/// # Errors
/// [`ServeError`]: the stream is out of step, or the kernel fails the agent.
pub fn serve(stream: OwnedFd, world: impl World) -> Result<(), ServeError> {
    let mut agent = Agent {
        registry: Registry::default(),
        history: History::default(),
        change: None,
        poll: Poll::new()?,
        port: stream,
        port_readable: true,
        decoder: Decoder::new(),
        out: Out::default(),
        phase: Phase::Stranger,
        scratch: vec![0; INPUT_TURN.max(CHUNK_MAX)],
        world,
    };
    agent.listen()?;
    loop {
        match agent.turn()? {
            (Connection::Open, more) => agent.wait(more)?,
            (Connection::Closed, _) if agent.world.reconnects() => {
                agent.disconnect();
                agent.wait(false)?;
            }
            (Connection::Closed, _) if agent.decoder.is_mid_frame() => {
                return Err(ServeError::Frame(FrameError::Truncated));
            }
            (Connection::Closed, _) => return Ok(()),
        }
    }
}

/// `true` if the other end is gone. A restored machine is told that all its connections are void, and finds one that has
/// never been.
fn is_gone(errno: Errno) -> bool {
    [Errno::PIPE, Errno::CONNRESET, Errno::NOTCONN].contains(&errno)
}

fn port_error(errno: Errno) -> ServeError {
    ServeError::Port(errno.into())
}

impl<W: World> Agent<W> {
    /// Watches the host, and the place where another one may come.
    fn listen(&mut self) -> Result<(), ServeError> {
        if let Some(listener) = self.world.listener() {
            self.poll.watch(AGENT).readable(listener, Role::Listener).map_err(StreamError::Poll)?;
        }
        self.watch_port()
    }

    fn watch_port(&mut self) -> Result<(), ServeError> {
        ioctl_fionbio(&self.port, true).map_err(port_error)?;
        self.poll.watch(AGENT).both(self.port.as_fd(), Role::Port).map_err(StreamError::Poll)?;
        self.port_readable = true;
        Ok(())
    }

    /// One turn; the flag says that another one would find work without an event.
    fn turn(&mut self) -> Result<(Connection, bool), ServeError> {
        let mut connection = self.receive()?;
        while self.listens()
            && let Some(frame) = self.decoder.next_frame().map_err(ServeError::Frame)?
        {
            self.handle(&frame)?;
        }
        let mut progress = self.registry.pump(&mut self.out, &mut self.scratch)?;
        match self.out.flush(&self.port) {
            Ok(true) if progress == Progress::Starved => progress = Progress::More,
            Ok(_) => {}
            Err(e) if is_gone(e) => connection = Connection::Closed,
            Err(e) => return Err(port_error(e)),
        }
        if progress == Progress::Starved && !self.out.is_full() {
            progress = Progress::More;
        }
        let more = progress == Progress::More || (self.port_readable && self.listens());
        Ok((connection, more))
    }

    fn listens(&self) -> bool {
        self.change.is_none() && !self.out.is_congested()
    }

    /// Takes what the host has sent, up to [`INPUT_TURN`].
    fn receive(&mut self) -> Result<Connection, ServeError> {
        let mut filled = 0;
        let mut connection = Connection::Open;
        while self.port_readable && self.listens() && filled < INPUT_TURN {
            match read(&self.port, &mut self.scratch[filled..INPUT_TURN]) {
                Ok(0) => {
                    self.port_readable = false;
                    connection = Connection::Closed;
                }
                Ok(n) => filled += n,
                Err(Errno::AGAIN) => self.port_readable = false,
                Err(Errno::INTR) => {}
                Err(e) if is_gone(e) => {
                    self.port_readable = false;
                    connection = Connection::Closed;
                }
                Err(e) => return Err(port_error(e)),
            }
        }
        self.decoder.push(&self.scratch[..filled]);
        Ok(connection)
    }

    /// Waits for events, and notes what they are about.
    fn wait(&mut self, more: bool) -> Result<(), ServeError> {
        child::reap_killed();
        for (owner, role) in self.poll.wait(more, self.registry.deadline())? {
            match (owner, role) {
                (AGENT, Role::Port) => self.port_readable = true,
                (AGENT, Role::Listener) => self.welcome()?,
                (AGENT, Role::Change) => self.finish_change()?,
                (AGENT, _) => {}
                (stream, role) => self.registry.wake(stream, role)?,
            }
        }
        Ok(())
    }

    /// Another host takes the place of the one before, which a restored machine may still seem to have.
    fn welcome(&mut self) -> Result<(), ServeError> {
        while let Some(stream) = self.world.accept().map_err(ServeError::Port)? {
            self.disconnect();
            self.port = stream;
            self.watch_port()?;
        }
        Ok(())
    }

    /// This machine is a copy that has another host than the one it was copied from. That one's commands go on without it,
    /// its other requests are forgotten.
    fn orphan(&mut self) {
        self.registry.orphan();
        self.out.clear();
    }

    /// The host is gone, and its commands end, since they have nobody to report to; a new host begins with `hello`.
    fn disconnect(&mut self) {
        if self.out.is_held() {
            // The machine was saved: its commands do not end with a host that it has no more.
            self.orphan();
        }
        if !self.registry.is_empty() || self.decoder.is_mid_frame() {
            log::note("the host has gone away; its commands are ended");
        }
        self.registry.end();
        self.decoder = Decoder::new();
        self.out.clear();
        self.phase = Phase::Stranger;
    }
}
