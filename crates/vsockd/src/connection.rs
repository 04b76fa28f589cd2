//! One connection: a socket of the host on one side, packets on the other, and the credits that keep either side from
//! being sent more than it has room for.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::packet::{Header, Op, PAYLOAD_MAX, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// The guest learns of new room in steps of this part of the window: often enough that it never waits for news of room
/// that has long been there, seldom enough that most news travels with data.
const CREDIT_STEPS: u32 = 4;

/// A connection's identity within its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) host: u32,
    pub(crate) guest: u32,
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The guest has asked for it; the owner decides.
    Asked,
    /// The owner has asked for it, under this id; the guest decides.
    Offered {
        owner: u64,
    },
    Open,
    /// The host's side is gone, and the guest has been or is being told; it has the last word.
    Closing,
    /// The guest has closed it in good order and is gone; what it sent goes on to the host.
    Draining,
}

/// A breach of the protocol by the guest; the connection is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation;

/// The next packet for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) op: Op,
    pub(crate) flags: u32,
    /// Bytes of payload, in the buffer.
    pub(crate) len: usize,
}

impl Outgoing {
    fn bare(op: Op) -> Self {
        Self { op, flags: 0, len: 0 }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ports: Ports,
    pub(crate) state: State,
    /// It is in the device's list of connections that have something for the guest.
    pub(crate) queued: bool,
    /// Absent while the owner decides, and when the host's side is gone.
    socket: Option<OwnedFd>,

    /// Packets that are due before anything else.
    handshake: Option<Op>,
    reset: bool,
    shutdown: u32,
    credit_wanted: bool,

    /// The guest's own account of its room and of the bytes it has passed on, and the bytes sent to it. Counters wrap.
    peer_window: u32,
    peer_forwarded: u32,
    sent: u32,
    credit_requested: bool,
    readable: bool,
    /// The host will send no more.
    host_done: bool,
    hung_up: bool,

    /// Room that the guest was promised.
    window: u32,
    /// Bytes that the host's socket did not take yet: never more than the window.
    pending: VecDeque<u8>,
    /// Bytes that were passed on, and the part of them that the guest knows of. Counters wrap.
    forwarded: u32,
    advertised: u32,
    writable: bool,
    /// The host reads no more.
    host_deaf: bool,
    guest_shutdown: u32,
    write_closed: bool,
}

impl Connection {
    /// The guest asks.
    pub(crate) fn asked(ports: Ports, window: u32) -> Self {
        Self::new(ports, window, State::Asked, None, None)
    }

    /// The owner asks.
    pub(crate) fn offered(ports: Ports, window: u32, socket: OwnedFd, owner: u64) -> Self {
        Self::new(ports, window, State::Offered { owner }, Some(socket), Some(Op::Request))
    }

    fn new(ports: Ports, window: u32, state: State, socket: Option<OwnedFd>, handshake: Option<Op>) -> Self {
        Self {
            ports,
            state,
            queued: false,
            socket,
            handshake,
            reset: false,
            shutdown: 0,
            credit_wanted: false,
            peer_window: 0,
            peer_forwarded: 0,
            sent: 0,
            credit_requested: false,
            readable: false,
            host_done: false,
            hung_up: false,
            window,
            pending: VecDeque::new(),
            forwarded: 0,
            advertised: 0,
            writable: false,
            host_deaf: false,
            guest_shutdown: 0,
            write_closed: false,
        }
    }

    /// The owner accepts what the guest asked for.
    pub(crate) fn accept(&mut self, socket: OwnedFd) {
        self.socket = Some(socket);
        self.state = State::Open;
        self.handshake = Some(Op::Response);
    }

    /// The guest accepts what the owner asked for.
    pub(crate) fn open(&mut self) {
        self.state = State::Open;
    }

    pub(crate) fn window(&self) -> u32 {
        self.window
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty() && !self.host_deaf
    }

    /// Memory taken by data that waits for the host, in bytes.
    #[cfg(test)]
    pub(crate) fn buffered(&self) -> usize {
        self.pending.capacity()
    }

    pub(crate) fn forwarded(&self) -> u32 {
        self.forwarded
    }

    /// Tells the guest that the connection is over, whatever is under way.
    pub(crate) fn reset(&mut self) {
        self.reset = true;
        self.socket = None;
        self.pending = VecDeque::new();
    }

    /// Takes note of the guest's room, which every packet of it states.
    pub(crate) fn credit_from(&mut self, header: &Header) {
        self.peer_window = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
        if self.credit() > 0 {
            self.credit_requested = false;
        }
    }

    /// Bytes that the guest has room for. A guest that claims nonsense gets nothing.
    fn credit(&self) -> u32 {
        self.peer_window.saturating_sub(self.sent.wrapping_sub(self.peer_forwarded))
    }

    /// The guest asks how much room there is.
    pub(crate) fn credit_request(&mut self) {
        self.credit_wanted = true;
    }

    /// Data of the guest's.
    pub(crate) fn receive(&mut self, data: &[u8]) -> Result<(), Violation> {
        if self.guest_shutdown & SHUTDOWN_SEND != 0 {
            return Err(Violation);
        }
        match self.state {
            State::Open => {}
            // It may not know yet.
            State::Closing => {
                self.forward(data.len());
                return Ok(());
            }
            State::Asked | State::Offered { .. } | State::Draining => return Err(Violation),
        }
        let window = self.window as usize;
        if self.pending.len() + data.len() > window {
            return Err(Violation);
        }
        let mut rest = data;
        if self.pending.is_empty() {
            let taken = self.give(rest);
            self.forward(taken);
            rest = &rest[taken..];
        }
        if !rest.is_empty() {
            // Exactly the window, so that growing never takes more than was promised.
            self.pending.reserve_exact(window - self.pending.len());
            self.pending.extend(rest);
        }
        Ok(())
    }

    /// The guest will send no more, receive no more, or both.
    pub(crate) fn shutdown_from_guest(&mut self, flags: u32) {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0
            && let Some(socket) = &self.socket
        {
            // Fails only when the other end is gone, which an event says.
            let _ = shutdown(socket, Shutdown::Read);
            self.readable = false;
        }
        self.settle();
    }

    /// The guest is gone. Returns whether data that it sent before has yet to reach the host; if not, the connection is
    /// over.
    pub(crate) fn drain(&mut self) -> bool {
        if self.state != State::Open
            || self.guest_shutdown & SHUTDOWN_SEND == 0
            || self.pending.is_empty()
            || self.host_deaf
        {
            return false;
        }
        self.state = State::Draining;
        true
    }

    /// True when nothing is left to be done for a guest that is gone.
    pub(crate) fn is_drained(&self) -> bool {
        self.state == State::Draining && (self.pending.is_empty() || self.host_deaf)
    }

    /// Something happened to the host's socket.
    pub(crate) fn event(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable && !self.host_done && self.guest_shutdown & SHUTDOWN_RECEIVE == 0;
        self.writable |= writable;
        self.hung_up |= hung_up;
        if self.writable {
            self.flush();
        }
        let nothing_to_read = self.host_done || self.guest_shutdown & SHUTDOWN_RECEIVE != 0;
        if self.hung_up && nothing_to_read && self.state == State::Open {
            self.host_gone();
        }
    }

    /// True when the owner has closed its end before the guest agreed to the connection.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.hung_up && matches!(self.state, State::Offered { .. })
    }

    /// True when there is something for the guest.
    pub(crate) fn has_outgoing(&self) -> bool {
        if self.state == State::Draining {
            return false;
        }
        self.reset
            || self.handshake.is_some()
            || (matches!(self.state, State::Open | State::Closing)
                && (self.shutdown != 0
                    || self.owes_credit()
                    || self.may_read()
                    || self.must_request_credit()))
    }

    fn owes_credit(&self) -> bool {
        self.state == State::Open
            && (self.credit_wanted
                || self.forwarded.wrapping_sub(self.advertised) >= self.window / CREDIT_STEPS)
    }

    fn may_read(&self) -> bool {
        self.state == State::Open && self.readable && self.credit() > 0
    }

    fn must_request_credit(&self) -> bool {
        self.state == State::Open && self.readable && self.credit() == 0 && !self.credit_requested
    }

    /// The next packet; its payload, if any, is put into `buffer`. [`Op::Reset`] is the last one.
    pub(crate) fn next(&mut self, buffer: &mut [u8]) -> Option<Outgoing> {
        let outgoing = self.choose(buffer)?;
        self.advertised = self.forwarded;
        self.credit_wanted = false;
        Some(outgoing)
    }

    fn choose(&mut self, buffer: &mut [u8]) -> Option<Outgoing> {
        if self.reset {
            return Some(Outgoing::bare(Op::Reset));
        }
        if let Some(op) = self.handshake.take() {
            return Some(Outgoing::bare(op));
        }
        if !buffer.is_empty()
            && self.may_read()
            && let Some(len) = self.read(buffer)
        {
            return Some(Outgoing { op: Op::Data, flags: 0, len });
        }
        if self.shutdown != 0 {
            let flags = std::mem::take(&mut self.shutdown);
            return Some(Outgoing { op: Op::Shutdown, flags, len: 0 });
        }
        if self.owes_credit() {
            return Some(Outgoing::bare(Op::CreditUpdate));
        }
        if self.must_request_credit() {
            self.credit_requested = true;
            return Some(Outgoing::bare(Op::CreditRequest));
        }
        None
    }

    /// Reads from the host as much as the guest has room for.
    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let credit = usize::try_from(self.credit()).unwrap_or(usize::MAX);
        let most = buffer.len().min(credit).min(PAYLOAD_MAX);
        let socket = self.socket.as_ref()?;
        loop {
            match recv(socket, &mut buffer[..most], RecvFlags::DONTWAIT) {
                Ok((0, _)) => break,
                Ok((len, _)) => {
                    self.sent = self.sent.wrapping_add(u32::try_from(len).unwrap_or(u32::MAX));
                    return Some(len);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    return None;
                }
                // The other end was closed before it had read everything.
                Err(_) => {
                    self.hung_up = true;
                    break;
                }
            }
        }
        self.readable = false;
        self.host_done = true;
        if self.hung_up {
            self.host_gone();
        } else {
            self.shutdown |= SHUTDOWN_SEND;
        }
        None
    }

    /// Writes to the host's socket as much as it takes now and returns the number of bytes. Data that nobody will read
    /// counts as taken.
    fn give(&mut self, data: &[u8]) -> usize {
        let mut taken = 0;
        while taken < data.len() {
            let Some(socket) = &self.socket else { return data.len() };
            if self.host_deaf {
                return data.len();
            }
            match send(socket, &data[taken..], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(n) => taken += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    break;
                }
                Err(_) => {
                    self.host_deaf = true;
                    self.shutdown |= SHUTDOWN_RECEIVE;
                }
            }
        }
        taken
    }

    fn flush(&mut self) {
        while !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            let (first, _) = pending.as_slices();
            let (taken, whole) = (self.give(first), first.len());
            self.pending = pending;
            self.pending.drain(..taken);
            self.forward(taken);
            if taken < whole {
                return;
            }
        }
        // An idle connection costs nothing.
        self.pending = VecDeque::new();
        self.settle();
    }

    fn forward(&mut self, bytes: usize) {
        self.forwarded = self.forwarded.wrapping_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Carries out a shutdown by the guest, once everything that it sent before is on its way.
    fn settle(&mut self) {
        if !self.pending.is_empty() && !self.host_deaf {
            return;
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.write_closed {
            self.write_closed = true;
            if let Some(socket) = &self.socket {
                // Fails only when the other end is gone.
                let _ = shutdown(socket, Shutdown::Write);
            }
        }
        if self.guest_shutdown == SHUTDOWN_BOTH && matches!(self.state, State::Open | State::Closing) {
            self.reset();
        }
    }

    fn host_gone(&mut self) {
        self.state = State::Closing;
        self.socket = None;
        self.forward(self.pending.len());
        self.pending = VecDeque::new();
        self.shutdown = SHUTDOWN_BOTH;
        self.settle();
    }
}
