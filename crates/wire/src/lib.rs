//! Every message that crosses a boundary of vmette, and the frame codec that carries it.
//!
//! One byte stream connects the host with the agent in the guest. On it travel frames
//!
//! ```text
//! u32 LE request id · u32 LE header length · JSON header · payload
//! ```
//!
//! in both directions. The header's `payload_len` (0 when absent) says how many payload bytes follow it. Requests
//! are [`Request`]s, answers are [`Reply`]s; every answer carries the id of its request. Requests that stream
//! (`exec`, `put`, `get`) exchange several frames under one id and are flow-controlled by credits, see [`agent`].
//!
//! The crate has no threads, no platform code and no unsafe: it builds everywhere and is tested without a VM.
#![forbid(unsafe_code)]

pub mod action;
pub mod agent;
pub mod frame;
pub mod strings;

pub use action::{Action, ResponseHeader, ScrollDirection};
pub use agent::{Event, Op, Reply, Request};
pub use frame::{Decoder, Frame, FrameError};
