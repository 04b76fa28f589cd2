//! The connections of one machine: packets of its guest, sockets and wishes of its owner, events of the sockets.
//!
//! Nothing here knows of virtqueues. Whatever a guest sends, at most [`CONNECTIONS_MAX`] connections, [`RESETS_MAX`]
//! answers to nobody and [`BUFFERED_MAX`] bytes of its data are kept.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;
use rustix::net::sockopt;
use vmette_backend::vsock::{ToDevice, ToOwner};

use crate::connection::{Connection, Outgoing, Ports, State};
use crate::packet::{GUEST_CID, HOST_CID, Header, Op, TYPE_STREAM};

/// Most connections at once, those included that are being opened or closed.
pub(crate) const CONNECTIONS_MAX: usize = 512;

/// Bytes that each of the first connections may have under way to the host: as much as Linux itself allows.
const WINDOW: u32 = 256 << 10;

/// The same for each later connection, so that the sum stays small.
const WINDOW_MIN: u32 = 32 << 10;

/// Most bytes of the guest's that are promised room: half of it in large windows, and then small ones.
pub(crate) const BUFFERED_MAX: usize = 32 << 20;

/// Most refusals that wait for room in the guest's queue. A guest that sends nonsense and takes no answers gets no more.
pub(crate) const RESETS_MAX: usize = 256;

/// Most connections of the guest's that the owner has not decided on; it takes microseconds to.
const ASKED_MAX: usize = 256;

/// First port of the host for connections to the guest: far from ports that people choose.
const EPHEMERAL: u32 = 1 << 30;

/// In an event: the connection has the id above this number.
const FIRST_ID: u64 = 16;

/// The state of the device.
#[derive(Debug)]
pub(crate) struct Device {
    epoll: OwnedFd,
    listening: HashSet<u32>,
    connections: HashMap<u64, Connection>,
    by_ports: HashMap<Ports, u64>,
    next_id: u64,
    next_port: u32,
    /// Bytes of all windows.
    promised: usize,
    /// Those that have something for the guest, in turns.
    queue: VecDeque<u64>,
    resets: VecDeque<Ports>,
    /// Connections that the owner has yet to decide on, even those that the guest has given up meanwhile.
    undecided: HashSet<u64>,
    /// For the owner.
    answers: VecDeque<ToOwner>,
}

impl Device {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listening: HashSet::new(),
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            next_id: FIRST_ID,
            next_port: EPHEMERAL,
            promised: 0,
            queue: VecDeque::new(),
            resets: VecDeque::new(),
            undecided: HashSet::new(),
            answers: VecDeque::new(),
        })
    }

    /// The source of the connections' events. Other descriptors may be added under numbers below 16.
    pub(crate) fn epoll(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The oldest message for the owner.
    pub(crate) fn next_answer(&mut self) -> Option<ToOwner> {
        self.answers.pop_front()
    }

    /// A message that could not be sent yet.
    pub(crate) fn put_answer_back(&mut self, answer: ToOwner) {
        self.answers.push_front(answer);
    }

    /// Carries out a message of the owner, with the socket that came with it.
    pub(crate) fn hear_owner(&mut self, message: ToDevice, socket: Option<OwnedFd>) -> io::Result<()> {
        match (message, socket) {
            (ToDevice::Listen { port }, None) => drop(self.listening.insert(port)),
            (ToDevice::Unlisten { port }, None) => drop(self.listening.remove(&port)),
            (ToDevice::Connect { id, port }, Some(socket)) => self.connect(id, port, socket),
            (ToDevice::Accept { id }, Some(socket)) => self.accept(id, socket),
            (ToDevice::Refuse { id }, None) => {
                self.undecided.remove(&id);
                self.reset(id);
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(())
    }

    fn connect(&mut self, owner: u64, port: u32, socket: OwnedFd) {
        let window = self.promise();
        if !self.has_room() || self.prepare(&socket, window, self.next_id).is_err() {
            self.answers.push_back(ToOwner::Refused { id: owner });
            return;
        }
        let ports = loop {
            let ports = Ports { host: self.next_port, guest: port };
            self.next_port = self.next_port.checked_add(1).filter(|p| *p < u32::MAX).unwrap_or(EPHEMERAL);
            if !self.by_ports.contains_key(&ports) {
                break ports;
            }
        };
        let id = self.insert(Connection::offered(ports, window, socket, owner));
        self.schedule(id);
    }

    fn accept(&mut self, id: u64, socket: OwnedFd) {
        self.undecided.remove(&id);
        // The guest may have given it up meanwhile: the socket's other end then sees it closed.
        let asked = self.connections.get(&id).filter(|c| c.state == State::Asked);
        let Some(window) = asked.map(Connection::window) else { return };
        if self.prepare(&socket, window, id).is_err() {
            return self.reset(id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.accept(socket);
        }
        self.schedule(id);
    }

    /// Bounds the data that the host's kernel keeps for a reader that does not read by the window, too. epoll reports each
    /// change of the socket once; the connection remembers what has not been read or written to its end.
    fn prepare(&self, socket: &OwnedFd, window: u32, id: u64) -> io::Result<()> {
        use epoll::EventFlags as F;
        sockopt::set_socket_send_buffer_size(socket, usize::try_from(window).unwrap_or(usize::MAX))?;
        let events = F::IN | F::OUT | F::RDHUP | F::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(id), events)?)
    }

    /// Something happened to a connection's socket.
    pub(crate) fn event(&mut self, id: u64, flags: epoll::EventFlags) {
        use epoll::EventFlags as F;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.event(
            flags.intersects(F::IN | F::RDHUP | F::HUP | F::ERR),
            flags.intersects(F::OUT | F::HUP | F::ERR),
            flags.intersects(F::HUP | F::ERR),
        );
        if connection.is_drained() {
            self.remove(id);
        } else if connection.is_cancelled() {
            self.reset(id);
        } else {
            self.schedule(id);
        }
    }

    /// A packet of the guest's; `data` has as many bytes as the header says.
    pub(crate) fn take_packet(&mut self, header: &Header, data: &[u8]) {
        // Not this guest, or not this host: nobody to answer to.
        if header.src_cid != GUEST_CID {
            return;
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let op = Op::from_number(header.op);
        let (Some(op), HOST_CID, TYPE_STREAM) = (op, header.dst_cid, header.kind) else {
            return self.refuse(ports, op);
        };
        let Some(&id) = self.by_ports.get(&ports) else {
            match op {
                Op::Request => self.ask(ports, header),
                _ => self.refuse(ports, Some(op)),
            }
            return;
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.credit_from(header);
        match op {
            Op::Response if matches!(connection.state, State::Offered { .. }) => {
                if let State::Offered { owner } = connection.state {
                    self.answers.push_back(ToOwner::Connected { id: owner });
                }
                connection.open();
            }
            Op::Reset => return self.reset_by_guest(id),
            Op::Shutdown if matches!(connection.state, State::Open | State::Closing) => {
                connection.shutdown_from_guest(header.flags);
            }
            Op::Data => {
                if connection.receive(data).is_err() {
                    return self.reset(id);
                }
            }
            Op::CreditUpdate => {}
            Op::CreditRequest => connection.credit_request(),
            // Out of turn.
            Op::Request | Op::Response | Op::Shutdown => return self.reset(id),
        }
        self.schedule(id);
    }

    /// A packet of the guest's that cannot be understood ends the connection it claims to belong to.
    pub(crate) fn malformed(&mut self, header: &Header) {
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        match self.by_ports.get(&ports) {
            Some(&id) if header.src_cid == GUEST_CID => self.reset(id),
            _ => {}
        }
    }

    /// True when there may be something for the guest.
    pub(crate) fn has_outgoing(&self) -> bool {
        !self.resets.is_empty() || !self.queue.is_empty()
    }

    /// The next packet for the guest, with up to `buffer.len()` bytes of payload in the buffer, at least one.
    pub(crate) fn next_packet(&mut self, buffer: &mut [u8]) -> Option<Header> {
        if let Some(ports) = self.resets.pop_front() {
            return Some(header(ports, Outgoing { op: Op::Reset, flags: 0, len: 0 }, 0, 0));
        }
        // Each has one turn at most, whatever it turns out to have.
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.queued = false;
            let Some(outgoing) = connection.next(buffer) else {
                self.schedule(id);
                continue;
            };
            let packet = header(connection.ports, outgoing, connection.window(), connection.forwarded());
            if outgoing.op == Op::Reset {
                self.remove(id);
            } else {
                self.schedule(id);
            }
            return Some(packet);
        }
        None
    }

    /// True when the host has yet to take something that the guest has sent.
    pub(crate) fn has_pending(&self) -> bool {
        self.connections.values().any(Connection::has_pending)
    }

    /// Ends all connections: the owner is gone.
    pub(crate) fn abandon(&mut self) {
        self.listening.clear();
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            self.reset(id);
        }
    }

    fn ask(&mut self, ports: Ports, header: &Header) {
        if !self.listening.contains(&ports.host) || self.undecided.len() >= ASKED_MAX || !self.has_room() {
            return self.refuse(ports, Some(Op::Request));
        }
        let window = self.promise();
        let mut connection = Connection::asked(ports, window);
        connection.credit_from(header);
        let id = self.insert(connection);
        self.undecided.insert(id);
        self.answers.push_back(ToOwner::Asked { id, port: ports.host });
    }

    fn refuse(&mut self, ports: Ports, op: Option<Op>) {
        // A reset is not answered by a reset, or two who disagree would go on for ever.
        if op != Some(Op::Reset) && self.resets.len() < RESETS_MAX {
            self.resets.push_back(ports);
        }
    }

    /// True when there is room for one more connection. One that only waits for the guest's last word makes room.
    fn has_room(&mut self) -> bool {
        if self.connections.len() < CONNECTIONS_MAX {
            return true;
        }
        let closing = self.connections.iter().filter(|(_, c)| c.state == State::Closing).map(|(id, _)| *id);
        let Some(oldest) = closing.min() else { return false };
        if let Some(connection) = self.remove(oldest) {
            self.refuse(connection.ports, None);
        }
        true
    }

    fn promise(&self) -> u32 {
        if self.promised + WINDOW as usize <= BUFFERED_MAX / 2 { WINDOW } else { WINDOW_MIN }
    }

    fn insert(&mut self, connection: Connection) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.promised += connection.window() as usize;
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        id
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        self.promised -= connection.window() as usize;
        if connection.queued {
            self.queue.retain(|queued| *queued != id);
        }
        // The ports may be another connection's by now.
        if self.by_ports.get(&connection.ports) == Some(&id) {
            self.by_ports.remove(&connection.ports);
        }
        Some(connection)
    }

    /// Ends a connection and tells the guest, and an owner that waits.
    fn reset(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let State::Offered { owner } = connection.state {
            self.answers.push_back(ToOwner::Refused { id: owner });
        }
        connection.state = State::Closing;
        connection.reset();
        self.schedule(id);
    }

    /// The guest has ended a connection.
    fn reset_by_guest(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let State::Offered { owner } = connection.state {
            self.answers.push_back(ToOwner::Refused { id: owner });
        }
        if connection.drain() {
            let ports = connection.ports;
            self.by_ports.remove(&ports);
        } else {
            self.remove(id);
        }
    }

    fn schedule(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.queued
            && connection.has_outgoing()
        {
            connection.queued = true;
            self.queue.push_back(id);
        }
    }

    /// For measuring and tests.
    #[cfg(test)]
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }
}

fn header(ports: Ports, outgoing: Outgoing, window: u32, forwarded: u32) -> Header {
    Header {
        src_cid: HOST_CID,
        dst_cid: GUEST_CID,
        src_port: ports.host,
        dst_port: ports.guest,
        len: u32::try_from(outgoing.len).unwrap_or(u32::MAX),
        kind: TYPE_STREAM,
        op: outgoing.op.number(),
        flags: outgoing.flags,
        buf_alloc: window,
        fwd_cnt: forwarded,
    }
}

#[cfg(test)]
mod tests;
