//! Every message that crosses a boundary of vmette, and the frame codec that carries it.
//!
//! One byte stream connects the host with the agent in the guest. On it travel frames
//!
//! ```text
//! u32 LE request id · u32 LE header length · u32 LE payload length · JSON header · payload
//! ```
//!
//! in both directions. The host's headers are [`Request`]s, the agent's are [`Reply`]s; each has the id of its request.
//!
//! # Order
//! A connection begins with `hello`. Then `boot` sets the machine up, once, and `make` makes roots in it, each with a name
//! that `exec`, `put`, `get` and the desktop's requests refer to. Everything may be sent without waiting for the answer to
//! what came before: the agent works through it in order, and refuses what lacks its ground. Streams and the desktop's
//! requests run side by side.
//!
//! # Saving a machine
//! The host sends `hold` before it saves the machine, and nothing more until the state is written. Between the answer and a
//! `release` no byte is under way in either direction, so that the saved state has no half of a message in it. In the
//! machine that goes on, a `release` follows; in one that is made from the state, another host's `hello`: its commands run
//! on, their further output is lost, and their input is at its end.
//!
//! No workload runs without shares that it is to have, or it would write to its root what is meant for them: workloads are
//! frozen from a `detach`, or from a `hello` that announces it, until an `attach` of each such root has succeeded. Commands
//! and files are refused meanwhile.
//!
//! The crate has no threads, no platform code and no unsafe: it builds everywhere and is tested without a VM.
#![forbid(unsafe_code)]

pub mod desktop;
pub mod devices;
pub mod frame;
pub mod handshake;
pub mod machine;
pub mod message;
pub mod path;
pub mod root;
pub mod streams;
pub mod strings;

pub use desktop::{Action, ResponseHeader, ScrollDirection};
pub use frame::{Decoder, Frame, FrameError};
pub use handshake::Hello;
pub use machine::{Boot, MachineRequest};
pub use message::{Reply, Request};
pub use root::{Root, RootName, RootRequest};
pub use streams::{Event, Input, Open};
