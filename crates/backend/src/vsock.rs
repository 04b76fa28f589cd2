//! The control channel between the owner of a machine and the server of its vsock device.
//!
//! Messages have one size and travel over a UNIX stream socket. A socket that comes with a message is the host's end of a
//! connection: the server makes no sockets itself, it asks the owner for one when the guest connects.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Bytes of every message.
const MESSAGE_LEN: usize = 24;

/// From the owner to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToDevice {
    /// The guest may connect to this port of the host.
    Listen {
        /// The port.
        port: u32,
    },
    /// The guest may no longer connect to it. Open connections stay.
    Unlisten {
        /// The port.
        port: u32,
    },
    /// Connect the socket that comes with this message to a port of the guest. Answered by [`ToOwner::Connected`] or
    /// [`ToOwner::Refused`]; closing the socket's other end
    /// cancels it.
    Connect {
        /// Chosen by the owner, for the answer.
        id: u64,
        /// The port of the guest.
        port: u32,
    },
    /// Connect the guest that asked with the socket that comes with this message.
    Accept {
        /// That of [`ToOwner::Asked`].
        id: u64,
    },
    /// Refuse the guest that asked.
    Refuse {
        /// That of [`ToOwner::Asked`].
        id: u64,
    },
}

/// From the device to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToOwner {
    /// The guest wants to connect. The owner answers with [`ToDevice::Accept`] or [`ToDevice::Refuse`].
    Asked {
        /// For the answer.
        id: u64,
        /// The port of the host.
        port: u32,
    },
    /// The guest has accepted the connection that [`ToDevice::Connect`] asked for.
    Connected {
        /// The owner's.
        id: u64,
    },
    /// The guest has refused the connection, or there are too many.
    Refused {
        /// The owner's.
        id: u64,
    },
}

/// A message of either direction, as it travels.
pub trait Message: Sized {
    /// Kind, port, id.
    #[doc(hidden)]
    fn parts(self) -> (u32, u32, u64);
    /// `None` if there is no such kind.
    #[doc(hidden)]
    fn from_parts(kind: u32, port: u32, id: u64) -> Option<Self>;
}

impl Message for ToDevice {
    fn parts(self) -> (u32, u32, u64) {
        match self {
            Self::Listen { port } => (1, port, 0),
            Self::Unlisten { port } => (2, port, 0),
            Self::Connect { id, port } => (3, port, id),
            Self::Accept { id } => (4, 0, id),
            Self::Refuse { id } => (5, 0, id),
        }
    }

    fn from_parts(kind: u32, port: u32, id: u64) -> Option<Self> {
        Some(match kind {
            1 => Self::Listen { port },
            2 => Self::Unlisten { port },
            3 => Self::Connect { id, port },
            4 => Self::Accept { id },
            5 => Self::Refuse { id },
            _ => return None,
        })
    }
}

impl Message for ToOwner {
    fn parts(self) -> (u32, u32, u64) {
        match self {
            Self::Asked { id, port } => (1, port, id),
            Self::Connected { id } => (2, 0, id),
            Self::Refused { id } => (3, 0, id),
        }
    }

    fn from_parts(kind: u32, port: u32, id: u64) -> Option<Self> {
        Some(match kind {
            1 => Self::Asked { id, port },
            2 => Self::Connected { id },
            3 => Self::Refused { id },
            _ => return None,
        })
    }
}

/// One end of the channel. The socket's own setting decides whether it blocks.
#[derive(Debug)]
pub struct Channel {
    socket: UnixStream,
}

impl Channel {
    /// The channel over this socket.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Sends a message, whole or not at all, with a duplicate of a descriptor if one is given.
    ///
    /// # Errors
    /// The socket's, `WouldBlock` among them if the socket does not block and is full.
    pub fn send(&self, message: impl Message, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let (kind, port, id) = message.parts();
        let mut bytes = [0; MESSAGE_LEN];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&port.to_le_bytes());
        bytes[8..16].copy_from_slice(&id.to_le_bytes());
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let sent = loop {
            match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result?,
            }
        };
        // A message of this size fits into one buffer of the socket's.
        if sent == MESSAGE_LEN { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Receives the next message and the socket that came with it. `None` when the other end is closed.
    ///
    /// # Errors
    /// The socket's; `InvalidData` for bytes that are no message.
    pub fn receive<M: Message>(&self) -> io::Result<Option<(M, Option<OwnedFd>)>> {
        let mut bytes = [0; MESSAGE_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result?.bytes,
            }
        };
        let mut fd = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last();
            }
        }
        let field = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let id = u64::from(field(8)) | u64::from(field(12)) << 32;
        match received {
            0 => Ok(None),
            MESSAGE_LEN => {
                let message = M::from_parts(field(0), field(4), id).ok_or(io::ErrorKind::InvalidData)?;
                Ok(Some((message, fd)))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one), Channel::new(other))
    }

    #[test]
    fn messages_and_their_sockets_arrive_in_order() {
        let (owner, device) = pair();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let id = u64::MAX - 1;
        owner.send(ToDevice::Listen { port: 7 }, None).unwrap();
        owner.send(ToDevice::Connect { id, port: u32::MAX }, Some(theirs.as_fd())).unwrap();
        owner.send(ToDevice::Refuse { id: 3 }, None).unwrap();
        drop((theirs, owner));
        assert_eq!(device.receive::<ToDevice>().unwrap().unwrap().0, ToDevice::Listen { port: 7 });
        let (message, fd) = device.receive::<ToDevice>().unwrap().unwrap();
        assert_eq!(message, ToDevice::Connect { id, port: u32::MAX });
        UnixStream::from(fd.unwrap()).write_all(b"through").unwrap();
        let (message, fd) = device.receive::<ToDevice>().unwrap().unwrap();
        assert!(message == ToDevice::Refuse { id: 3 } && fd.is_none());
        assert!(device.receive::<ToDevice>().unwrap().is_none());
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn every_message_comes_back_as_itself() {
        let all = [
            ToDevice::Listen { port: 1 },
            ToDevice::Unlisten { port: 2 },
            ToDevice::Connect { id: 3, port: 4 },
            ToDevice::Accept { id: 5 },
            ToDevice::Refuse { id: 6 },
        ];
        for message in all {
            let (kind, port, id) = message.parts();
            assert_eq!(ToDevice::from_parts(kind, port, id), Some(message));
        }
        for message in
            [ToOwner::Asked { id: 1, port: 2 }, ToOwner::Connected { id: 3 }, ToOwner::Refused { id: 4 }]
        {
            let (kind, port, id) = message.parts();
            assert_eq!(ToOwner::from_parts(kind, port, id), Some(message));
        }
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        let (owner, device) = pair();
        owner.socket().write_all(&[9; MESSAGE_LEN]).unwrap();
        assert_eq!(device.receive::<ToDevice>().unwrap_err().kind(), io::ErrorKind::InvalidData);
        owner.socket().write_all(&[1; 3]).unwrap();
        assert_eq!(device.receive::<ToDevice>().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
