//! The agent: one thread, one event loop, whatever the number of streams.
//!
//! Each turn takes what the host has sent, moves at most one chunk of every stream that can move, and writes what the
//! port takes. So no stream waits for another one, and a ping is answered between two chunks of the noisiest command.

mod out;
mod poll;
mod requests;
mod window;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::io::{Errno, ioctl_fionbio, read};
use vmette_wire::ResponseHeader;
use vmette_wire::agent::ExitStatus;
use vmette_wire::frame::{CHUNK_MAX, Decoder, FrameError};

use crate::actions::Jobs;
use crate::child;
use crate::exec::prepare::History;
use crate::exec::running::Running;
use crate::files::{Get, Put};
use crate::log;
use crate::world::{World, WorldError};

pub(crate) use out::Out;
pub(crate) use poll::{Poll, Role};
pub(crate) use window::Window;

/// Bytes taken from the host in one turn.
const INPUT_TURN: usize = CHUNK_MAX;

/// Why the agent has stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The host sent what is no frame, or ended inside one.
    #[error("the host's stream cannot be read any more: {0}")]
    Frame(#[from] FrameError),
    /// The transport failed.
    #[error("the stream to the host failed: {0}")]
    Port(#[source] io::Error),
    /// More data than the window allows.
    #[error("stream {id}: the host has {received} unconfirmed bytes under way, more than the window allows")]
    Window {
        /// The request.
        id: u32,
        /// What it would have been.
        received: u32,
    },
    /// A credit for bytes that were never sent.
    #[error("stream {id}: the host confirms {bytes} bytes, {sent} were under way")]
    Credit {
        /// The request.
        id: u32,
        /// What it confirms.
        bytes: u32,
        /// What it could confirm.
        sent: u32,
    },
    /// A new stream under the id of an open one.
    #[error("stream {id} is open already")]
    DuplicateId {
        /// The request.
        id: u32,
    },
    /// `epoll` failed.
    #[error("cannot wait for events: {0}")]
    Poll(#[source] io::Error),
    /// The end of a child cannot be read.
    #[error("cannot wait for a child: {0}")]
    Child(#[source] io::Error),
}

/// What a turn of a stream came to; of two, the greater one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    /// An event or a credit is needed.
    Idle,
    /// Room in the queue to the host is needed.
    Starved,
    /// It could go on at once.
    More,
    /// The last event is in the queue.
    Finished,
}

/// A request that exchanges several frames.
#[derive(Debug)]
enum Stream {
    Exec(Box<Running>),
    Put(Put),
    Get(Get),
}

/// The agent's state between two turns.
struct Agent<W> {
    streams: BTreeMap<u32, Stream>,
    /// Commands of the host whose machine this is a copy of.
    orphans: Vec<Running>,
    jobs: Jobs,
    syncs: Vec<Syncing>,
    history: History,
    /// The change of the root under way; until it has ended no further request is looked at.
    booting: Option<Change>,
    world: W,
    poll: Poll,
    port: OwnedFd,
    port_readable: bool,
    decoder: Decoder,
    out: Out,
    phase: Phase,
    scratch: Vec<u8>,
}

/// What the host may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has not said who it is.
    Stranger,
    /// The workload lacks shares, and stands still until it has them: neither commands nor files, which would miss them.
    Bare,
    /// Everything.
    Ready,
}

/// A change of the workload's root that a child works on.
#[derive(Debug)]
struct Change {
    kind: ChangeKind,
    /// The request.
    id: u32,
    report: OwnedFd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChangeKind {
    Boot,
    Attach,
    Detach,
}

/// A `sync` under way.
#[derive(Debug)]
struct Syncing {
    pidfd: OwnedFd,
    /// `None` when the host that asked is gone.
    id: Option<u32>,
}

/// How a turn left the connection.
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
    ioctl_fionbio(&stream, true).map_err(port_error)?;
    let poll = Poll::new()?;
    poll.both(stream.as_fd(), Role::Port, 0)?;
    if let Some(listener) = world.listener() {
        poll.readable(listener, Role::Listener, 0)?;
    }
    let mut agent = Agent {
        world,
        poll,
        port: stream,
        port_readable: true,
        decoder: Decoder::new(),
        out: Out::default(),
        streams: BTreeMap::new(),
        orphans: Vec::new(),
        jobs: Jobs::default(),
        history: History::default(),
        booting: None,
        syncs: Vec::new(),
        phase: Phase::Stranger,
        scratch: vec![0; INPUT_TURN.max(CHUNK_MAX)],
    };
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

/// Whether the other end is there no more. A restored machine is told that all its connections are void, and finds one that
/// has never been.
fn is_gone(errno: Errno) -> bool {
    [Errno::PIPE, Errno::CONNRESET, Errno::NOTCONN].contains(&errno)
}

fn port_error(errno: Errno) -> ServeError {
    ServeError::Port(errno.into())
}

impl<W: World> Agent<W> {
    /// One turn; the flag says whether another one would find work without an event.
    fn turn(&mut self) -> Result<(Connection, bool), ServeError> {
        let mut connection = self.receive()?;
        while self.booting.is_none()
            && !self.out.is_congested()
            && let Some(frame) = self.decoder.next_frame()?
        {
            self.handle(frame)?;
        }
        let mut progress = self.pump()?;
        progress = progress.max(self.jobs.pump(&mut self.out, &mut self.scratch)?);
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
        self.booting.is_none() && !self.out.is_congested()
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

    fn pump(&mut self) -> Result<Progress, ServeError> {
        let mut progress = Progress::Idle;
        let mut finished = Vec::new();
        for (id, stream) in &mut self.streams {
            let one = match stream {
                Stream::Exec(running) => running.pump(&mut self.out, &mut self.scratch)?,
                Stream::Get(get) => get.pump(&mut self.out, &mut self.scratch)?,
                Stream::Put(_) => Progress::Idle,
            };
            if one == Progress::Finished { finished.push(*id) } else { progress = progress.max(one) }
        }
        for id in finished {
            if let Some(Stream::Exec(running)) = self.streams.remove(&id)
                && running.init
            {
                self.world.init_ended();
            }
        }
        for i in (0..self.orphans.len()).rev() {
            match self.orphans[i].pump(&mut self.out, &mut self.scratch)? {
                Progress::Finished if self.orphans.swap_remove(i).init => self.world.init_ended(),
                Progress::Finished => {}
                one => progress = progress.max(one),
            }
        }
        Ok(progress)
    }

    /// Waits for events, and notes what they are about.
    fn wait(&mut self, more: bool) -> Result<(), ServeError> {
        child::reap_killed();
        for (role, id) in self.poll.wait(more, self.deadline())? {
            match role {
                Role::Port => self.port_readable = true,
                Role::Listener => self.welcome()?,
                Role::Boot => self.finish_boot()?,
                // It is looked at in each turn.
                Role::Start => {}
                Role::Stdin | Role::Stdout | Role::Stderr | Role::Exit => {
                    if let Some(Stream::Exec(running)) = self.streams.get_mut(&id) {
                        running.wake(role)?;
                    }
                    // Two hosts may give the same number to their requests; to be woken for nothing does no harm.
                    self.orphans.iter_mut().try_for_each(|orphan| orphan.wake(role))?;
                }
                Role::JobOutput | Role::JobExit | Role::Background => self.jobs.wake(role, id)?,
                Role::Sync => self.finish_syncs()?,
            }
        }
        self.jobs.expire(&mut self.out)
    }

    /// When there is something to do without an event.
    fn deadline(&self) -> Option<Instant> {
        let streams = self.streams.values().filter_map(|stream| match stream {
            Stream::Exec(running) => running.deadline(),
            Stream::Put(_) | Stream::Get(_) => None,
        });
        let orphans = self.orphans.iter().filter_map(Running::deadline);
        streams.chain(orphans).chain(self.jobs.deadline()).min()
    }

    /// Another host takes the place of the one before, which a restored machine may still seem to have.
    fn welcome(&mut self) -> Result<(), ServeError> {
        while let Some(stream) = self.world.accept().map_err(ServeError::Port)? {
            ioctl_fionbio(&stream, true).map_err(port_error)?;
            self.disconnect();
            self.poll.both(stream.as_fd(), Role::Port, 0)?;
            self.port = stream;
            self.port_readable = true;
        }
        Ok(())
    }

    fn finish_boot(&mut self) -> Result<(), ServeError> {
        let Some(Change { kind, id, report }) = self.booting.take() else { return Ok(()) };
        let done = self.world.boot_finished(report);
        self.changed(kind, id, done)
    }

    fn finish_syncs(&mut self) -> Result<(), ServeError> {
        for i in (0..self.syncs.len()).rev() {
            let ended = child::try_reap(self.syncs[i].pidfd.as_fd()).map_err(ServeError::Child)?;
            let Some(status) = ended else { continue };
            if let Some(id) = self.syncs.swap_remove(i).id {
                let header = match status {
                    ExitStatus::Code(0) => ResponseHeader::ok(),
                    _ => ResponseHeader::error("sync was killed in the guest (out of memory?)"),
                };
                self.out.respond(id, &header, b"")?;
            }
        }
        Ok(())
    }

    /// This machine is a copy that has another host than the one it was copied from. What that one had started goes on
    /// without it; what it had asked for is forgotten.
    fn orphan(&mut self) {
        for (_, stream) in std::mem::take(&mut self.streams) {
            if let Stream::Exec(mut running) = stream {
                running.orphan();
                self.orphans.push(*running);
            }
        }
        self.jobs.orphan();
        self.syncs.iter_mut().for_each(|sync| sync.id = None);
        self.out.clear();
    }

    /// The host is gone. What it had started has nobody to report to, and is ended; a new host begins with `hello`.
    fn disconnect(&mut self) {
        if self.out.is_held() {
            // The machine was saved: what runs in it is not ended with a host that it has no more.
            self.orphan();
        }
        if !self.streams.is_empty() || self.decoder.is_mid_frame() {
            log::note("the host has gone away; its commands are ended");
        }
        self.streams.clear();
        self.jobs.end();
        child::settle();
        self.decoder = Decoder::new();
        self.out.clear();
        self.syncs.iter_mut().for_each(|sync| sync.id = None);
        self.phase = Phase::Stranger;
    }
}

impl<W> Drop for Agent<W> {
    /// When the host sees the end of the stream, what it had started is gone.
    fn drop(&mut self) {
        self.streams.clear();
        self.orphans.clear();
        self.jobs = Jobs::default();
        child::settle();
    }
}

/// A refusal as the answer of a request.
fn refusal(error: WorldError) -> ResponseHeader {
    ResponseHeader::error(error.to_string())
}
