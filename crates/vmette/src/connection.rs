//! The demultiplexer: many callers, one byte stream to the agent.
//!
//! One thread owns all reads. A caller registers a waiter under a fresh id, writes its frame under a short lock, and
//! waits on its own channel. A late answer is dropped by its id, and the stream stays in step. Whatever ends the stream
//! poisons the connection once: every waiter and every later caller fails at once with the first cause.

mod alone;

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{BufReader, Write};
use std::net::Shutdown;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use vmette_vmm::{ControlStream, Slot};
use vmette_wire::agent::{Op, Reply};
use vmette_wire::frame::{self, Frame};
use vmette_wire::{Action, ResponseHeader};

use crate::error::{ConfigError, Error};
use crate::guest_text::safe;
use crate::stream::StreamQueue;

pub(crate) use alone::Alone;

/// How long a request waits for its answer.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a frame may take to be written: a guest that stops reading must not block every caller for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a writer that found the connection closed waits for the reader's account of it.
const READER_GRACE: Duration = Duration::from_secs(5);

/// Most requests under way at once. The guest cannot raise this number; it bounds what a caller in a loop can do.
const WAITERS_MAX: usize = 1 << 14;

/// An answer with its payload.
pub(crate) type Response = (ResponseHeader, Vec<u8>);

enum Waiter {
    /// One answer.
    Once(SyncSender<Result<Response, String>>),
    /// Events until the last one.
    Stream(Arc<StreamQueue>),
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
    pub(crate) fn request<T: Serialize>(
        &self,
        header: &T,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Response, Error> {
        self.send_request(header, payload)?.wait(timeout)
    }

    /// Sends one request whose answer is waited for later.
    pub(crate) fn send_request<T: Serialize>(&self, header: &T, payload: &[u8]) -> Result<Pending, Error> {
        let (sender, receiver) = sync_channel(1);
        let id = self.register(Waiter::Once(sender))?;
        let pending = Pending { connection: self.clone(), id, receiver };
        self.send(id, header, payload)?;
        Ok(pending)
    }

    /// A request of the desktop.
    pub(crate) fn action(&self, action: &Action) -> Result<Response, Error> {
        let extra = match action {
            Action::Wait { ms } => Duration::from_millis(*ms).min(REQUEST_TIMEOUT),
            _ => Duration::ZERO,
        };
        self.request(action, &[], REQUEST_TIMEOUT + extra)
    }

    /// Opens a stream: events for the returned id go to `queue` until the last one.
    pub(crate) fn open_stream(
        &self,
        op: &Op,
        payload: &[u8],
        queue: &Arc<StreamQueue>,
    ) -> Result<u32, Error> {
        let id = self.register(Waiter::Stream(queue.clone()))?;
        self.send(id, op, payload)?;
        Ok(id)
    }

    /// Sends one more frame of a stream.
    pub(crate) fn send<T: Serialize>(&self, id: u32, header: &T, payload: &[u8]) -> Result<(), Error> {
        let bytes = frame::encode(id, header, payload).map_err(|e| {
            self.inner.lock().waiters.remove(&id);
            Error::from(ConfigError::Command(e.to_string()))
        })?;
        self.write(&mut self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner), &bytes)
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

    /// Why the connection is unusable, if it is.
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
pub(crate) struct Pending {
    connection: Connection,
    id: u32,
    receiver: std::sync::mpsc::Receiver<Result<Response, String>>,
}

impl Pending {
    /// Waits for the answer; a late one is dropped.
    pub(crate) fn wait(self, timeout: Duration) -> Result<Response, Error> {
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

impl Drop for Pending {
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
        for waiter in waiters.into_values() {
            match waiter {
                // The channel holds one message and has had none.
                Waiter::Once(sender) => drop(sender.try_send(Err(cause.to_owned()))),
                Waiter::Stream(queue) => queue.abort(cause),
            }
        }
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
        match (state.waiters.get(&frame.id), reply) {
            (Some(Waiter::Once(_)), Reply::Response(header)) => {
                if let Some(Waiter::Once(sender)) = state.waiters.remove(&frame.id) {
                    // Fails only when the caller has given up.
                    drop(sender.try_send(Ok((header, frame.payload))));
                }
                Ok(())
            }
            (Some(Waiter::Stream(queue)), Reply::Event(event)) => {
                let queue = queue.clone();
                if event.is_last() {
                    state.waiters.remove(&frame.id);
                }
                drop(state);
                queue.push(event, frame.payload).map_err(|e| breach(&e))
            }
            (Some(Waiter::Stream(queue)), Reply::Response(header)) if !header.ok => {
                let queue = queue.clone();
                state.waiters.remove(&frame.id);
                drop(state);
                queue.refuse(header.error.as_deref().unwrap_or("the agent refused the request"));
                Ok(())
            }
            (Some(_), _) => Err("the guest broke the protocol: an answer of the wrong kind".into()),
            // Nobody waits any more: late, or abandoned.
            (None, _) => Ok(()),
        }
    }
}

/// How the guest broke the protocol, for people: a parser quotes what it did not understand, and that is the guest's.
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
    use std::os::unix::net::UnixStream;
    use vmette_wire::Event;

    pub(super) fn pair() -> (Connection, UnixStream) {
        let (host, guest) = UnixStream::pair().unwrap();
        (Connection::new(host, || None).unwrap(), guest)
    }

    pub(super) fn next(guest: &mut UnixStream) -> Frame {
        frame::read_frame(guest).unwrap().unwrap()
    }

    pub(super) fn answer(guest: &mut UnixStream, id: u32, payload: &[u8]) {
        guest.write_all(&frame::encode_response(id, &ResponseHeader::ok(), payload).unwrap()).unwrap();
    }

    #[test]
    fn a_late_answer_fails_only_its_own_caller() {
        let (connection, mut guest) = pair();
        let timeout = connection.request(&Op::Ping, &[], Duration::ZERO);
        assert!(matches!(timeout, Err(Error::Timeout(0))));
        let late = next(&mut guest);
        let pending = connection.send_request(&Op::Ping, &[]).unwrap();
        let current = next(&mut guest);
        answer(&mut guest, late.id, b"late");
        answer(&mut guest, current.id, b"current");
        assert_eq!(pending.wait(REQUEST_TIMEOUT).unwrap().1, b"current");
        assert!(connection.inner.lock().waiters.is_empty(), "nothing is kept for callers that gave up");
    }

    #[test]
    fn answers_may_come_in_any_order() {
        let (connection, mut guest) = pair();
        let pending: Vec<_> = (0..20).map(|_| connection.send_request(&Op::Ping, &[]).unwrap()).collect();
        let mut ids: Vec<_> = pending.iter().map(|_| next(&mut guest).id).collect();
        ids.reverse();
        for id in ids {
            answer(&mut guest, id, &id.to_le_bytes());
        }
        for one in pending {
            let id = one.id;
            assert_eq!(one.wait(REQUEST_TIMEOUT).unwrap().1, id.to_le_bytes());
        }
    }

    #[test]
    fn ids_wrap_around_without_meeting_a_request_that_is_still_open() {
        let (connection, mut guest) = pair();
        let old = connection.send_request(&Op::Ping, &[]).unwrap();
        connection.inner.lock().next_id = u32::MAX;
        let last = connection.send_request(&Op::Ping, &[]).unwrap();
        let new = connection.send_request(&Op::Ping, &[]).unwrap();
        assert_eq!((old.id, last.id, new.id), (0, u32::MAX, 1));
        for _ in 0..3 {
            let id = next(&mut guest).id;
            answer(&mut guest, id, &[]);
        }
        for pending in [old, last, new] {
            pending.wait(REQUEST_TIMEOUT).unwrap();
        }
    }

    #[test]
    fn the_first_cause_poisons_once_and_wakes_streams_too() {
        let (connection, guest) = pair();
        let queue = Arc::new(StreamQueue::new());
        connection.open_stream(&Op::Get { path: "/x".into() }, &[], &queue).unwrap();
        connection.close("first");
        connection.close("second");
        assert_eq!(connection.wait_end(), "first");
        assert!(matches!(queue.wait_file(), Err(Error::Agent(cause)) if cause == "first"));
        assert!(matches!(connection.send_request(&Op::Ping, &[]), Err(Error::Agent(c)) if c == "first"));
        drop(guest);
    }

    #[test]
    fn what_was_written_is_no_failure_when_the_connection_ends_because_of_it() {
        for _ in 0..2000 {
            let (connection, mut guest) = pair();
            let reader = thread::spawn(move || next(&mut guest));
            connection.send(0, &Op::Signal { signal: 15 }, &[]).unwrap();
            reader.join().unwrap();
        }
    }

    #[test]
    fn a_guest_that_stops_reading_does_not_hold_up_the_end() {
        let (connection, _guest) = pair();
        let (sender, receiver) = std::sync::mpsc::channel();
        let writer = connection.clone();
        thread::spawn(move || {
            let send = || writer.send(7, &Op::Data, &[0; frame::CHUNK_MAX]);
            let error = std::iter::repeat_with(send).find_map(Result::err);
            sender.send(error.map(|e| e.to_string())).unwrap();
        });
        // Stuck: it has the writer's lock, and the socket takes nothing more.
        while connection.inner.writer.try_lock().is_ok() || takes_more(&connection.inner.plug) {
            thread::yield_now();
        }
        connection.close("the machine was stopped");
        let error =
            receiver.recv_timeout(WRITE_TIMEOUT / 2).expect("the writer is woken before its own limit");
        assert!(error.unwrap().contains("the machine was stopped"));
    }

    fn takes_more(stream: &UnixStream) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(stream, PollFlags::OUT)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
        polled[0].revents().contains(PollFlags::OUT)
    }

    #[test]
    fn a_message_over_the_limits_is_the_callers_error_and_nothing_is_sent() {
        let (connection, mut guest) = pair();
        let too_much = vec![0; frame::PAYLOAD_MAX + 1];
        assert!(matches!(connection.send_request(&Op::Ping, &too_much), Err(Error::InvalidConfig(_))));
        let pending = connection.send_request(&Op::Ping, &[]).unwrap();
        let id = next(&mut guest).id;
        answer(&mut guest, id, &[]);
        pending.wait(REQUEST_TIMEOUT).unwrap();
    }

    #[test]
    fn an_event_for_a_plain_request_is_a_breach() {
        let (connection, mut guest) = pair();
        let pending = connection.send_request(&Op::Ping, &[]).unwrap();
        let id = next(&mut guest).id;
        guest.write_all(&frame::encode(id, &Event::Done, &[]).unwrap()).unwrap();
        assert!(pending.wait(REQUEST_TIMEOUT).unwrap_err().to_string().contains("wrong kind"));
    }
}
