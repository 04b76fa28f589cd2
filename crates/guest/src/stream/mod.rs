//! The primitives of requests that go on after they were taken: a [`Stream`], what it watches ([`poll`]), its flow
//! control ([`window`]), and the queue to the host ([`out`]).

mod out;
mod poll;
mod window;

use std::io;
use std::time::Instant;

use vmette_wire::frame::FrameError;
use vmette_wire::streams::Input;

pub(crate) use out::Out;
pub(crate) use poll::{AGENT, Poll, Role, Watch};
pub(crate) use window::Window;

/// A request that goes on: it watches descriptors, takes frames of the host, and answers in one or in many frames.
pub(crate) trait Stream {
    /// The limit that it counts against.
    fn limit(&self) -> &'static Limit;

    /// The request under which the host may still send frames; `None` once it has been answered or its host is gone.
    fn id(&self) -> Option<u32>;

    /// An event of one of its descriptors; it is pumped afterwards.
    ///
    /// # Errors
    /// The kernel fails the agent.
    fn wake(&mut self, role: Role) -> Result<(), StreamError>;

    /// Time at which it is to be pumped without an event.
    fn deadline(&self) -> Option<Instant>;

    /// A frame of the host.
    ///
    /// # Errors
    /// The host breaks the protocol.
    fn input(&mut self, input: Input, payload: &[u8], out: &mut Out) -> Result<Progress, StreamError>;

    /// Moves at most one chunk of each of its descriptors; `scratch` has room for one.
    ///
    /// # Errors
    /// The kernel fails the agent.
    fn pump(&mut self, out: &mut Out, scratch: &mut [u8]) -> Result<Progress, StreamError>;

    /// The host of a machine that was saved is gone, and with it the request. `true`: the stream goes on without it.
    fn orphan(&mut self) -> bool;
}

/// Progress of a stream in one turn; of two, the greater one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    /// An event, a frame of the host or the deadline is needed.
    Idle,
    /// Room in the queue to the host is needed.
    Starved,
    /// It could go on at once.
    More,
    /// It is over, and its last frame is in the queue.
    Finished,
}

/// Most streams of one sort at once: each costs descriptors, memory, and a look in every turn.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) max: usize,
    /// In the plural, for people.
    pub(crate) what: &'static str,
}

/// Commands and file transfers.
pub(crate) static STREAMS: Limit = Limit { max: STREAMS_MAX, what: "commands and transfers" };

/// See [`STREAMS`].
const STREAMS_MAX: usize = 256;

/// A host that breaks the rules of streams, or a kernel that fails the agent. Ends the connection.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// More data than the window allows.
    #[error("stream {id}: the host has {received} unconfirmed bytes under way, more than the window allows")]
    Window {
        /// The request.
        id: u32,
        /// Unconfirmed bytes with these.
        received: u32,
    },
    /// A credit for bytes that were never sent.
    #[error("stream {id}: the host confirms {bytes} bytes, {sent} were under way")]
    Credit {
        /// The request.
        id: u32,
        /// Bytes that the host confirms.
        bytes: u32,
        /// Bytes that it could confirm.
        sent: u32,
    },
    /// A frame that is too long.
    #[error("cannot write a frame to the host: {0}")]
    Frame(#[from] FrameError),
    /// `epoll` failed.
    #[error("cannot wait for events: {0}")]
    Poll(#[source] io::Error),
    /// The end of a child cannot be read.
    #[error("cannot wait for a child: {0}")]
    Child(#[source] io::Error),
}
