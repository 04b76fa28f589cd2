//! The demultiplexer: many callers, one byte stream to the agent.
//!
//! One thread owns all reads. A caller registers a waiter under a fresh id, writes its frame under a short lock, and
//! waits on its own channel. A late answer is dropped by its id, and the stream stays in step. Whatever ends the stream
//! poisons the connection once: every waiter and every later caller fails at once with the first cause.

mod alone;
mod root;

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{BufReader, Write};
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmette_vmm::{ControlStream, Slot};
use vmette_wire::frame::{self, Frame};
use vmette_wire::{Input, Reply, Request, ResponseHeader};

use crate::error::{ConfigError, Error};
use crate::guest_text::safe;
use crate::stream::StreamQueue;

pub(crate) use alone::Alone;
pub(crate) use root::RootHandle;

/// How long a request waits for its answer.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a frame may take to be written: a guest that stops reading must not block every caller for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a writer that found the connection closed waits for the reader's account of it.
const READER_GRACE: Duration = Duration::from_secs(5);

/// Most requests under way at once. The guest cannot raise this number; it bounds what a caller in a loop can do.
const WAITERS_MAX: usize = 1 << 14;

/// The agent's answer: done, or the reason of a refusal, made safe to show since the guest chose the words.
pub(crate) type Answer = Result<(), String>;

/// The desktop's answer with its payload.
pub(crate) type Response = (ResponseHeader, Vec<u8>);

#[derive(Clone)]
enum Waiter {
    /// One answer of the agent.
    Answer(SyncSender<Result<Answer, String>>),
    /// One answer of the desktop.
    Desktop(SyncSender<Result<Response, String>>),
    /// Events until the last one.
    Stream(Arc<StreamQueue>),
}

impl Waiter {
    /// The channels hold one message and have had none: a caller that has given up is no failure.
    fn fail(self, cause: &str) {
        match self {
            Self::Answer(sender) => drop(sender.try_send(Err(cause.to_owned()))),
            Self::Desktop(sender) => drop(sender.try_send(Err(cause.to_owned()))),
            Self::Stream(queue) => queue.abort(cause),
        }
    }
}

#[derive(Default)]
struct State {
    waiters: HashMap<u32, Waiter>,
    next_id: u32,
}

struct Inner {
    writer: Mutex<ControlStream>,
    /// A second handle on the stream: it can be shut down while a writer is blocked on the first.
    plug: ControlStream,
    state: Mutex<State>,
    /// The first cause of the end. Set under the lock of `state`.
    poison: Slot<String>,
}

/// A handle on the connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    inner: Arc<Inner>,
}

impl Connection {
    /// Takes over the stream. `cause_of_end` is asked once when the stream ends: it may know better than "the
    /// connection ended" why, for example because the machine was stopped.
    pub(crate) fn new<F>(stream: ControlStream, cause_of_end: F) -> std::io::Result<Self>
    where
        F: FnOnce() -> Option<String> + Send + 'static,
    {
        let reader = stream.try_clone()?;
        let plug = stream.try_clone()?;
        let inner = Arc::new(Inner {
            writer: Mutex::new(stream),
            plug,
            state: Mutex::default(),
            poison: Slot::new(),
        });
        let for_reader = inner.clone();
        thread::Builder::new().name("vmette-reader".into()).spawn(move || {
            let end = for_reader.read_until_end(reader);
            let cause = match end {
                ReadEnd::Closed(what) => cause_of_end().unwrap_or(what),
                ReadEnd::Protocol(what) => what,
            };
            for_reader.poison(&cause);
        })?;
        Ok(Self { inner })
    }

    /// Sends one request and waits for its one answer.
    pub(crate) fn request(
        &self,
        request: impl Into<Request>,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Answer, Error> {
        self.send_request(request, payload)?.wait(timeout)
    }

    /// Sends one request whose answer is waited for later.
    pub(crate) fn send_request(
        &self,
        request: impl Into<Request>,
        payload: &[u8],
    ) -> Result<Pending<Answer>, Error> {
        let (pending, id) = self.expect(Waiter::Answer)?;
        self.send_header(id, &request.into(), payload)?;
        Ok(pending)
    }

    /// Registers a waiter for one answer under a fresh id.
    fn expect<T>(
        &self,
        waiter: impl FnOnce(SyncSender<Result<T, String>>) -> Waiter,
    ) -> Result<(Pending<T>, u32), Error> {
        let (sender, receiver) = sync_channel(1);
        let id = self.register(waiter(sender))?;
        Ok((Pending { connection: self.clone(), id, receiver }, id))
    }

    /// Sends one more frame of a stream.
    pub(crate) fn send(&self, id: u32, input: Input, payload: &[u8]) -> Result<(), Error> {
        self.send_header(id, &input.into(), payload)
    }

    fn send_header(&self, id: u32, request: &Request, payload: &[u8]) -> Result<(), Error> {
        let bytes = self.encode(id, request, payload)?;
        self.write(&mut self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner), &bytes)
    }

    fn encode(&self, id: u32, request: &Request, payload: &[u8]) -> Result<Vec<u8>, Error> {
        frame::encode(id, request, payload).map_err(|e| {
            self.forget(id);
            Error::from(ConfigError::Command(e.to_string()))
        })
    }

    /// Writes a whole frame. What has been written is no failure, even if the connection ends because of it.
    fn write(&self, writer: &mut ControlStream, bytes: &[u8]) -> Result<(), Error> {
        // Looked at under the write lock, so that nothing is written behind a frame that was cut.
        self.inner.check()?;
        match write_all_until(writer, bytes, Instant::now() + WRITE_TIMEOUT) {
            Ok(()) => return Ok(()),
            Err(WriteError::Stuck(message)) => self.inner.poison(&message),
            Err(WriteError::Closed(message)) => {
                // The reader is about to see the end as well, and knows its cause better than "broken pipe".
                let _ = self.inner.plug.shutdown(Shutdown::Both);
                if self.inner.poison.wait_until(Instant::now() + READER_GRACE).is_none() {
                    self.inner.poison(&message);
                }
            }
        }
        self.inner.check()
    }

    /// The cause for which the connection is unusable, if it is.
    pub(crate) fn poison_cause(&self) -> Option<String> {
        self.inner.poison.get()
    }

    /// Waits until the connection is unusable and returns why.
    pub(crate) fn wait_end(&self) -> String {
        self.inner.poison.wait()
    }

    /// Ends the connection: both sides see the end of the stream.
    pub(crate) fn close(&self, cause: &str) {
        self.inner.poison(cause);
    }

    fn register(&self, waiter: Waiter) -> Result<u32, Error> {
        let mut state = self.inner.lock();
        // Poisoning drains the waiters under this same lock: a waiter is either drained or never registered.
        if let Some(cause) = self.inner.poison.get() {
            return Err(Error::Agent(cause));
        }
        if state.waiters.len() >= WAITERS_MAX {
            return Err(Error::Agent(format!("more than {WAITERS_MAX} requests are under way")));
        }
        let mut id = state.next_id;
        while state.waiters.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        state.next_id = id.wrapping_add(1);
        state.waiters.insert(id, waiter);
        Ok(id)
    }

    /// Drops whatever still comes under that id.
    pub(crate) fn forget(&self, id: u32) {
        self.inner.lock().waiters.remove(&id);
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.inner.lock().waiters.len()
    }
}

/// An answer that is under way. Dropping it gives up waiting.
pub(crate) struct Pending<T> {
    connection: Connection,
    id: u32,
    receiver: Receiver<Result<T, String>>,
}

impl<T> Pending<T> {
    /// Waits for the answer; a late one is dropped.
    pub(crate) fn wait(self, timeout: Duration) -> Result<T, Error> {
        match self.receiver.recv_timeout(timeout) {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(cause)) => Err(Error::Agent(cause)),
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::Timeout(u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Agent(self.connection.poison_cause().unwrap_or_else(|| "request dropped".into())))
            }
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        self.connection.forget(self.id);
    }
}

enum ReadEnd {
    Closed(String),
    Protocol(String),
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), Error> {
        self.poison.get().map_or(Ok(()), |cause| Err(Error::Agent(cause)))
    }

    fn poison(&self, cause: &str) {
        let waiters = {
            let mut state = self.lock();
            if !self.poison.set(cause.to_owned()) {
                return;
            }
            std::mem::take(&mut state.waiters)
        };
        waiters.into_values().for_each(|waiter| waiter.fail(cause));
        // The reader sees the end of the stream, a blocked writer an error. Fails only when the peer closed it first.
        let _ = self.plug.shutdown(Shutdown::Both);
    }

    fn read_until_end(&self, stream: ControlStream) -> ReadEnd {
        let mut reader = BufReader::with_capacity(4 * frame::CHUNK_MAX, stream);
        loop {
            match frame::read_frame(&mut reader) {
                Ok(Some(frame)) => {
                    if let Err(what) = self.dispatch(frame) {
                        return ReadEnd::Protocol(what);
                    }
                }
                Ok(None) => return ReadEnd::Closed("the connection to the guest ended".into()),
                Err(frame::FrameError::Io(e)) => {
                    return ReadEnd::Closed(format!("the connection to the guest failed: {e}"));
                }
                Err(frame::FrameError::Truncated) => {
                    return ReadEnd::Closed("the connection to the guest ended inside a message".into());
                }
                Err(e) => return ReadEnd::Protocol(breach(&e)),
            }
        }
    }

    fn dispatch(&self, frame: Frame) -> Result<(), String> {
        let reply = Reply::parse(&frame.header).map_err(|e| breach(&e))?;
        let mut state = self.lock();
        let goes_on = matches!(&reply, Reply::Event(event) if !event.is_last());
        let waiter = match goes_on {
            true => state.waiters.get(&frame.id).cloned(),
            false => state.waiters.remove(&frame.id),
        };
        drop(state);
        // Sending an answer fails only when the caller has given up.
        match (waiter, reply) {
            (Some(Waiter::Answer(sender)), Reply::Done) => drop(sender.try_send(Ok(Ok(())))),
            (Some(Waiter::Answer(sender)), Reply::Refused(reason)) => {
                drop(sender.try_send(Ok(Err(safe(&reason)))));
            }
            (Some(Waiter::Desktop(sender)), Reply::Desktop(header)) => {
                drop(sender.try_send(Ok((header, frame.payload))));
            }
            (Some(Waiter::Desktop(sender)), Reply::Refused(reason)) => {
                drop(sender.try_send(Ok((ResponseHeader::error(reason), Vec::new()))));
            }
            (Some(Waiter::Stream(queue)), Reply::Event(event)) => {
                return queue.push(event, frame.payload).map_err(|e| breach(&e));
            }
            (Some(Waiter::Stream(queue)), Reply::Refused(reason)) => queue.refuse(&reason),
            (Some(waiter), _) => {
                let cause = "the guest broke the protocol: an answer of the wrong kind";
                waiter.fail(cause);
                return Err(cause.into());
            }
            // Nobody waits any more: late, or abandoned.
            (None, _) => {}
        }
        Ok(())
    }
}

/// A breach of the protocol, for people: a parser quotes text that it did not understand, and that is the guest's.
fn breach(what: &dyn Display) -> String {
    format!("the guest broke the protocol: {}", safe(&what.to_string()))
}

enum WriteError {
    /// The guest does not read.
    Stuck(String),
    /// The other end is gone.
    Closed(String),
}

/// `write_all` with a deadline for the whole.
fn write_all_until(
    stream: &mut ControlStream,
    mut bytes: &[u8],
    deadline: Instant,
) -> Result<(), WriteError> {
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = WRITE_TIMEOUT.as_secs();
            return Err(WriteError::Stuck(format!("the guest did not take a message within {seconds} s")));
        }
        let written = stream.set_write_timeout(Some(left)).and_then(|()| stream.write(bytes));
        match written {
            Ok(0) => return Err(WriteError::Closed("the connection to the guest is closed".into())),
            Ok(n) => bytes = &bytes[n..],
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::Interrupted
                        | std::io::ErrorKind::WouldBlock
                        | std::io::ErrorKind::TimedOut
                ) => {}
            Err(e) => return Err(WriteError::Closed(format!("write to the guest: {e}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Kind;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::unix::net::UnixStream;
    use vmette_wire::streams::Get;
    use vmette_wire::{Event, MachineRequest, Open, RootName};

    pub(super) fn pair() -> (Connection, UnixStream) {
        let (host, guest) = UnixStream::pair().unwrap();
        (Connection::new(host, || None).unwrap(), guest)
    }

    pub(super) fn next(guest: &mut UnixStream) -> Frame {
        frame::read_frame(guest).unwrap().unwrap()
    }

    pub(super) fn reply(guest: &mut UnixStream, id: u32, reply: &Reply) {
        guest.write_all(&frame::encode(id, reply, &[]).unwrap()).unwrap();
    }

    fn refuse(guest: &mut UnixStream, id: u32, reason: impl Into<String>) {
        reply(guest, id, &Reply::Refused(reason.into()));
    }

    #[test]
    fn a_late_answer_fails_only_its_own_caller() {
        let (connection, mut guest) = pair();
        let timeout = connection.request(MachineRequest::Ping, &[], Duration::ZERO);
        assert!(matches!(timeout, Err(Error::Timeout(0))));
        let late = next(&mut guest);
        let pending = connection.send_request(MachineRequest::Ping, &[]).unwrap();
        let current = next(&mut guest);
        refuse(&mut guest, late.id, "late");
        refuse(&mut guest, current.id, "current");
        assert_eq!(pending.wait(REQUEST_TIMEOUT).unwrap(), Err("current".into()));
        assert!(connection.inner.lock().waiters.is_empty(), "nothing is kept for callers that gave up");
    }

    #[test]
    fn answers_may_come_in_any_order() {
        let (connection, mut guest) = pair();
        let pending: Vec<_> =
            (0..20).map(|_| connection.send_request(MachineRequest::Ping, &[]).unwrap()).collect();
        let mut ids: Vec<_> = pending.iter().map(|_| next(&mut guest).id).collect();
        ids.reverse();
        for id in ids {
            refuse(&mut guest, id, id.to_string());
        }
        for one in pending {
            let id = one.id;
            assert_eq!(one.wait(REQUEST_TIMEOUT).unwrap(), Err(id.to_string()));
        }
    }

    #[test]
    fn ids_wrap_around_without_meeting_a_request_that_is_still_open() {
        let (connection, mut guest) = pair();
        let old = connection.send_request(MachineRequest::Ping, &[]).unwrap();
        connection.inner.lock().next_id = u32::MAX;
        let last = connection.send_request(MachineRequest::Ping, &[]).unwrap();
        let new = connection.send_request(MachineRequest::Ping, &[]).unwrap();
        assert_eq!((old.id, last.id, new.id), (0, u32::MAX, 1));
        for _ in 0..3 {
            let id = next(&mut guest).id;
            reply(&mut guest, id, &Reply::Done);
        }
        for pending in [old, last, new] {
            pending.wait(REQUEST_TIMEOUT).unwrap().unwrap();
        }
    }

    #[test]
    fn the_first_cause_poisons_once_and_wakes_streams_too() {
        let (connection, guest) = pair();
        let queue = Arc::new(StreamQueue::new(Kind::Get));
        let get = Get { root: RootName::default(), path: "/x".into() };
        connection.open(Open::Get(get), &[], &queue).unwrap();
        connection.close("first");
        connection.close("second");
        assert_eq!(connection.wait_end(), "first");
        assert!(matches!(queue.wait_file(), Err(Error::Agent(cause)) if cause == "first"));
        assert!(
            matches!(connection.send_request(MachineRequest::Ping, &[]), Err(Error::Agent(c)) if c == "first")
        );
        drop(guest);
    }

    #[test]
    fn what_was_written_is_no_failure_when_the_connection_ends_because_of_it() {
        for _ in 0..2000 {
            let (connection, mut guest) = pair();
            let reader = thread::spawn(move || next(&mut guest));
            connection.send(0, Input::Signal { signal: 15 }, &[]).unwrap();
            reader.join().unwrap();
        }
    }

    #[test]
    fn a_guest_that_stops_reading_does_not_hold_up_the_end() {
        let (connection, guest) = pair();
        let writer = {
            let connection = connection.clone();
            // More than a socket takes: once it is full, the writer is stuck in the middle.
            thread::spawn(move || connection.send(7, Input::Data, &[0; 16 << 20]))
        };
        let takes_more = || {
            let mut socket = [PollFd::new(&connection.inner.plug, PollFlags::OUT)];
            poll(&mut socket, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
        };
        while takes_more() {
            thread::yield_now();
        }
        assert!(!writer.is_finished());
        connection.close("the machine was stopped");
        let error = writer.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("the machine was stopped"), "{error}");
        drop(guest);
    }

    #[test]
    fn a_message_over_the_limits_is_the_callers_error_and_nothing_is_sent() {
        let (connection, mut guest) = pair();
        let too_much = vec![0; frame::PAYLOAD_MAX + 1];
        assert!(matches!(
            connection.send_request(MachineRequest::Ping, &too_much),
            Err(Error::InvalidConfig(_))
        ));
        let pending = connection.send_request(MachineRequest::Ping, &[]).unwrap();
        let id = next(&mut guest).id;
        reply(&mut guest, id, &Reply::Done);
        pending.wait(REQUEST_TIMEOUT).unwrap().unwrap();
    }

    #[test]
    fn an_event_for_a_plain_request_is_a_breach() {
        let (connection, mut guest) = pair();
        let pending = connection.send_request(MachineRequest::Ping, &[]).unwrap();
        let id = next(&mut guest).id;
        reply(&mut guest, id, &Reply::Event(Event::Done));
        assert!(pending.wait(REQUEST_TIMEOUT).unwrap_err().to_string().contains("wrong kind"));
    }

    #[test]
    fn answers_of_agent_and_desktop_are_not_taken_for_each_other() {
        for wrong in [Reply::Desktop(ResponseHeader::ok()), Reply::Event(Event::Stdout)] {
            let (connection, mut guest) = pair();
            let pending = connection.send_request(MachineRequest::Ping, &[]).unwrap();
            let id = next(&mut guest).id;
            reply(&mut guest, id, &wrong);
            assert!(pending.wait(REQUEST_TIMEOUT).unwrap_err().to_string().contains("wrong kind"));
        }
    }
}
