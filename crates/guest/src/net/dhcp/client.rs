//! The questions that a client asks, how often, and how long it waits.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::rand::{GetRandomFlags, getrandom};

use super::lease::{Lease, Refusal};
use super::message::{ANSWER_MAX, Answer, CLIENT_PORT, Client, Kind, Question, SERVER_PORT, broadcast};
use crate::sys::{self, LinkAddr};

/// How long the first question waits for an answer. Each further one waits twice as long, up to the last.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_LAST: Duration = Duration::from_secs(64);

/// How long a server may take to confirm its own offer.
const CONFIRM: Duration = Duration::from_secs(2);

/// Least time between two requests for the same renewal (RFC 2131, 4.4.5).
const RENEWAL_WAIT: Duration = Duration::from_secs(60);

/// Everybody.
const BROADCAST: LinkAddr = [0xff; 6];

/// A lease that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DhcpError {
    #[error("no DHCP server answered within {seconds} s")]
    NoAnswer { seconds: u64 },
    #[error("no usable offer of a DHCP server within {seconds} s; the last one was refused: {refusal}")]
    NoUsable { seconds: u64, refusal: Refusal },
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

impl DhcpError {
    fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, source: source.into() }
    }
}

/// The client of one interface.
#[derive(Debug)]
pub(crate) struct Dhcp {
    pub(crate) interface: u32,
    pub(crate) client: Client,
}

/// A lease, and when it was asked for: from then on its time runs.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) lease: Lease,
    pub(crate) since: Instant,
}

/// Outcome of a renewal.
#[derive(Debug)]
pub(crate) enum Renewal {
    Renewed(Granted),
    /// It has ended, or the server says that it has.
    Lost,
}

/// A question under way: one transaction, on a socket of its own.
struct Exchange<'a> {
    dhcp: &'a Dhcp,
    socket: OwnedFd,
    transaction: u32,
    buffer: Vec<u8>,
}

impl Dhcp {
    /// Asks for an address until there is one, or the limit is reached. Without a limit it asks for ever.
    ///
    /// # Errors
    /// [`DhcpError`]: no server, none with an offer that can be used, or the interface fails.
    pub(crate) fn acquire(&self, limit: Option<Duration>) -> Result<Granted, DhcpError> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut wait = WAIT_FIRST;
        let mut refused = None;
        loop {
            let end = earlier(Instant::now() + jittered(wait)?, deadline);
            let mut exchange = self.exchange()?;
            match exchange.attempt(end, deadline, &mut refused)? {
                Some(granted) => return Ok(granted),
                // Until then the next attempt waits: a server that refuses at once is not asked in a loop.
                None => exchange.pass_time(end)?,
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let seconds = limit.unwrap_or_default().as_secs();
                return Err(match refused {
                    Some(refusal) => DhcpError::NoUsable { seconds, refusal },
                    None => DhcpError::NoAnswer { seconds },
                });
            }
            wait = (wait * 2).min(WAIT_LAST);
        }
    }

    /// Asks for more time, when it is time for that: its server first, then any; until there is an answer, or the lease
    /// has ended. Returns after hours, or never if the lease is one for ever.
    ///
    /// # Errors
    /// [`DhcpError::Io`]: the interface fails.
    pub(crate) fn renew(&self, granted: &Granted) -> Result<Renewal, DhcpError> {
        let Granted { lease, since } = granted;
        let Some(term) = lease.term else { sys::reap_for_ever() };
        let at = |seconds: u32| *since + Duration::from_secs(seconds.into());
        sleep_until(at(term.renew));
        for (until, to_server) in [(at(term.rebind), true), (at(term.end), false)] {
            while Instant::now() < until {
                let asked = Instant::now();
                let left = until.saturating_duration_since(asked);
                let end = asked + (left / 2).max(RENEWAL_WAIT).min(left);
                let mut exchange = self.exchange()?;
                // Held until the answer is there: a port that nobody listens at is reported to the server as an error.
                let _port = exchange.ask_renewal(lease, to_server)?;
                while let Some(answer) = exchange.next(end)? {
                    match (answer.kind, Lease::of(&answer)) {
                        (Kind::Nak, _) => return Ok(Renewal::Lost),
                        (Kind::Ack, Ok(renewed)) if renewed.address == lease.address => {
                            return Ok(Renewal::Renewed(Granted { lease: renewed, since: asked }));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(Renewal::Lost)
    }

    fn exchange(&self) -> Result<Exchange<'_>, DhcpError> {
        let socket = sys::packet_socket(self.interface, CLIENT_PORT)
            .map_err(DhcpError::io("open a packet socket on the interface"))?;
        Ok(Exchange {
            dhcp: self,
            socket,
            transaction: u32::from_ne_bytes(random()?),
            // One byte more than may come: what fills it is too long.
            buffer: vec![0; ANSWER_MAX + 1],
        })
    }
}

impl Exchange<'_> {
    /// One round: discover, offer, request, acknowledgement.
    fn attempt(
        &mut self,
        end: Instant,
        deadline: Option<Instant>,
        refused: &mut Option<Refusal>,
    ) -> Result<Option<Granted>, DhcpError> {
        self.ask(Question::Discover)?;
        let offer = loop {
            let Some(answer) = self.next(end)? else { return Ok(None) };
            if answer.kind != Kind::Offer {
                continue;
            }
            match Lease::of(&answer) {
                Ok(offer) => break offer,
                Err(refusal) => *refused = Some(refusal),
            }
        };
        let since = Instant::now();
        self.ask(Question::Request { address: offer.address, server: offer.server })?;
        let end = earlier(since + CONFIRM, deadline);
        while let Some(answer) = self.next(end)? {
            match (answer.kind, Lease::of(&answer)) {
                (Kind::Offer, _) => {}
                (Kind::Nak, _) => {
                    *refused = Some(Refusal::TakenBack(offer.address));
                    return Ok(None);
                }
                (Kind::Ack, Ok(lease)) if lease.server == offer.server => {
                    return Ok(Some(Granted { lease, since }));
                }
                // Another server's, which was not asked.
                (Kind::Ack, Ok(_)) => {}
                (Kind::Ack, Err(refusal)) => {
                    *refused = Some(refusal);
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn ask(&self, question: Question) -> Result<(), DhcpError> {
        self.message(question).and_then(|message| self.shout(&message))
    }

    fn message(&self, question: Question) -> Result<Vec<u8>, DhcpError> {
        question
            .message(&self.dhcp.client, self.transaction)
            .ok_or_else(|| DhcpError::io("write a DHCP message")(io::ErrorKind::InvalidInput))
    }

    fn shout(&self, message: &[u8]) -> Result<(), DhcpError> {
        let packet = broadcast(message)
            .ok_or_else(|| DhcpError::io("write a DHCP packet")(io::ErrorKind::InvalidInput))?;
        match sys::packet_send(&self.socket, self.dhcp.interface, BROADCAST, &packet) {
            // The workload may have taken the interface down, or filled its queue: the next question finds out.
            Err(e) if is_passing(&e) => Ok(()),
            sent => sent.map_err(DhcpError::io("send a DHCP message")),
        }
    }

    /// Asks for more time; the port that the answer comes to, if it could be had.
    fn ask_renewal(&self, lease: &Lease, to_server: bool) -> Result<Option<UdpSocket>, DhcpError> {
        let message = self.message(Question::Renew { address: lease.address })?;
        if !to_server {
            return self.shout(&message).map(|()| None);
        }
        // A program of the workload may have the port, or the server may be out of reach: then any server is asked later.
        let sent = UdpSocket::bind((lease.address, CLIENT_PORT)).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to(&message, (lease.server, SERVER_PORT)).map(|_| socket)
        });
        Ok(sent.ok())
    }

    /// The next answer to the question, before `end`.
    fn next(&mut self, end: Instant) -> Result<Option<Answer<'_>>, DhcpError> {
        loop {
            let Some(length) = self.receive(end)? else { return Ok(None) };
            let is_answer =
                |buffer: &[u8]| Answer::parse(buffer, &self.dhcp.client, self.transaction).is_some();
            if length <= ANSWER_MAX && is_answer(&self.buffer[..length]) {
                return Ok(Answer::parse(&self.buffer[..length], &self.dhcp.client, self.transaction));
            }
        }
    }

    fn receive(&mut self, end: Instant) -> Result<Option<usize>, DhcpError> {
        loop {
            // Before each packet: whoever sends without end does not get more time by it.
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, length)) => return Ok(Some(length)),
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR | Errno::NETDOWN) => continue,
                Err(e) => return Err(DhcpError::io("receive from the interface")(e)),
            }
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timespec(left))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(DhcpError::io("wait for an answer")(e)),
            }
        }
    }

    /// Waits, whoever sends what.
    fn pass_time(&mut self, end: Instant) -> Result<(), DhcpError> {
        while self.receive(end)?.is_some() {}
        Ok(())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::ENOBUFS | libc::EAGAIN))
}

fn earlier(one: Instant, other: Option<Instant>) -> Instant {
    other.map_or(one, |other| one.min(other))
}

fn sleep_until(end: Instant) {
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
}

pub(crate) fn timespec(limit: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    }
}

/// Between three quarters and five quarters of it: machines that start together do not ask together for ever.
fn jittered(wait: Duration) -> Result<Duration, DhcpError> {
    let [byte] = random()?;
    Ok(wait * 3 / 4 + wait * u32::from(byte) / 510)
}

fn random<const N: usize>() -> Result<[u8; N], DhcpError> {
    let mut bytes = [0; N];
    // So few bytes come in one piece.
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(DhcpError::io("get random numbers"))?;
    Ok(bytes)
}
