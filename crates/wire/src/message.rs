//! The two kinds of frame headers: from the host a [`Request`], from the agent a [`Reply`].

use serde::{Deserialize, Serialize};

use crate::desktop::{DesktopRequest, ResponseHeader};
use crate::frame::{self, FrameError};
use crate::handshake::Hello;
use crate::machine::MachineRequest;
use crate::root::RootRequest;
use crate::streams::{Event, Input, Open};

/// A header from the host, by what has to be there before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Begins a connection. One answer.
    Hello(Hello),
    /// Needs a greeting. One answer.
    Machine(MachineRequest),
    /// Needs a machine that is set up. One answer.
    Root(RootRequest),
    /// Needs a root. Answered by [`Event`]s.
    Open(Open),
    /// Needs an open stream, whose id it has. No answer of its own.
    Input(Input),
    /// Needs a root. Answered by a [`Reply::Desktop`].
    Desktop(DesktopRequest),
}

/// A header from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// The request was carried out.
    Done,
    /// The request, of whatever kind, was not carried out, for this reason. Nothing follows under its id.
    Refused(String),
    /// The answer of the desktop.
    Desktop(ResponseHeader),
    /// An event of a stream.
    Event(Event),
}

impl Request {
    /// Reads a header.
    ///
    /// # Errors
    /// An unknown request, or an unknown or missing field.
    pub fn parse(header: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(header)
    }
}

impl Reply {
    /// Reads a header.
    ///
    /// # Errors
    /// An unknown reply, or an unknown or missing field.
    pub fn parse(header: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(header)
    }
}

/// Encodes the frame of the desktop's answer; `header.payload_len` is set here.
///
/// # Errors
/// See [`frame::encode`].
pub fn encode_response(id: u32, header: &ResponseHeader, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let payload_len =
        u32::try_from(payload.len()).map_err(|_| FrameError::PayloadLength(payload.len() as u64))?;
    frame::encode(id, &Reply::Desktop(ResponseHeader { payload_len, ..header.clone() }), payload)
}

macro_rules! requests {
    ($($kind:ident: $type:ty),*) => {
        $(impl From<$type> for Request {
            fn from(request: $type) -> Self {
                Self::$kind(request)
            }
        })*
    };
}

requests!(Hello: Hello, Machine: MachineRequest, Root: RootRequest, Open: Open, Input: Input, Desktop: DesktopRequest);

#[cfg(test)]
mod tests;
