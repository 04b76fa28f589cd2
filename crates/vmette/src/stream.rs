//! The receiving side of a stream: its events and data until they are asked for.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmette_wire::frame::CHUNK_MAX;
use vmette_wire::streams::{Event, ExitStatus, Failure, FailureKind, WINDOW};

use crate::Error;
use crate::guest_text::safe;

/// How long the agent may take for a step that depends on nothing but itself: to start a command, to open a file, to
/// take or give the next piece of one.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Most chunks that wait. Chunks of one channel are joined, so that a guest that sends single bytes costs no more memory
/// than one that sends them at once. Turns between two channels leave nothing to join; from this number on a chunk is
/// joined with the last one of its channel all the same. Each channel keeps its bytes in order, and only the order between
/// two channels that nobody reads is lost.
const CHUNKS_MAX: usize = 4096;

/// The request that opened a stream: the guest may send no events of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Exec,
    Put,
    Get,
}

impl Kind {
    fn has(self, event: &Event) -> bool {
        match event {
            Event::Started { .. }
            | Event::Stdout
            | Event::Stderr
            | Event::Consumed { .. }
            | Event::Exited(_) => self == Self::Exec,
            Event::File { .. } | Event::Data => self == Self::Get,
            Event::Credit { .. } => self != Self::Get,
            Event::Done => self != Self::Exec,
            Event::Failed(_) => true,
        }
    }
}

/// One of the outputs of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// A command's standard output, or a file's contents.
    Main,
    /// A command's standard error.
    Stderr,
}

/// How a stream ended.
#[derive(Debug, Clone)]
pub(crate) enum StreamEnd {
    Exited(ExitStatus),
    Done,
    Failed(Failure),
    /// The connection is gone.
    Aborted(String),
}

#[derive(Default)]
struct State {
    chunks: VecDeque<(Channel, Vec<u8>)>,
    /// Bytes from the guest that were not confirmed yet: in `chunks`, or taken and not yet credited.
    unconfirmed: u64,
    /// Bytes taken by the consumer since the last credit.
    taken: u64,
    /// Bytes that the host may still send.
    send_window: u64,
    started: Option<u32>,
    file: Option<(u64, u32)>,
    /// Bytes that the command has read of its stdin, once it has ended.
    consumed: Option<u64>,
    end: Option<StreamEnd>,
    /// Waits begun so far. Whoever has read a new number under the lock knows that the thread is in its wait by then.
    #[cfg(test)]
    waits: usize,
}

/// One stream's receiving side, and the window of its sending side. Memory is bounded by the window: small chunks are
/// joined, so that a guest that sends single bytes costs no more than one that sends them at once.
pub(crate) struct StreamQueue {
    kind: Kind,
    state: Mutex<State>,
    changed: Condvar,
}

impl StreamQueue {
    pub(crate) fn new(kind: Kind) -> Self {
        let state = State { send_window: WINDOW.into(), ..State::default() };
        Self { kind, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for the next change; with a limit, no longer than that.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'a, State>, Error> {
        #[cfg(test)]
        let state = {
            let mut state = state;
            state.waits += 1;
            state
        };
        let Some(deadline) = deadline else {
            return Ok(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Timeout(u32::try_from(STEP_TIMEOUT.as_secs()).unwrap_or(u32::MAX)));
        }
        Ok(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the reader thread. An error is a breach of the protocol.
    pub(crate) fn push(&self, event: Event, payload: Vec<u8>) -> Result<(), String> {
        if !self.kind.has(&event) {
            return Err("an event of another kind of stream".into());
        }
        let mut state = self.lock();
        match event {
            Event::Started { pid } => {
                if state.started.replace(pid).is_some() {
                    return Err("a command started twice".into());
                }
            }
            Event::File { size, mode } => {
                if state.file.replace((size, mode)).is_some() {
                    return Err("a file was announced twice".into());
                }
            }
            Event::Credit { bytes } => {
                state.send_window += u64::from(bytes);
                if state.send_window > u64::from(WINDOW) {
                    return Err(format!("credit beyond the window of {WINDOW} bytes"));
                }
            }
            Event::Stdout | Event::Data => append(&mut state, Channel::Main, payload)?,
            Event::Stderr => append(&mut state, Channel::Stderr, payload)?,
            Event::Exited(status) => state.end = Some(StreamEnd::Exited(status)),
            Event::Consumed { bytes } => state.consumed = Some(bytes),
            Event::Done => state.end = Some(StreamEnd::Done),
            Event::Failed(Failure { kind, message }) => {
                state.end = Some(StreamEnd::Failed(Failure { kind, message: safe(&message) }));
            }
        }
        self.changed.notify_all();
        Ok(())
    }

    /// The connection is gone.
    pub(crate) fn abort(&self, cause: &str) {
        self.finish(StreamEnd::Aborted(cause.to_owned()));
    }

    /// The agent did not take the request.
    pub(crate) fn refuse(&self, message: &str) {
        self.finish(StreamEnd::Failed(Failure { kind: FailureKind::Invalid, message: safe(message) }));
    }

    fn finish(&self, end: StreamEnd) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Bytes that the command has read of its stdin, as the guest says; `None` before its end.
    pub(crate) fn consumed(&self) -> Option<u64> {
        self.lock().consumed
    }

    /// Waits for output. `None` when the stream has ended and all its output was taken. The last value is a credit
    /// to send to the guest, 0 when it is too small to be worth a message.
    /// With a `limit` it is an error when nothing comes for so long.
    pub(crate) fn next_chunk(
        &self,
        limit: Option<Duration>,
    ) -> Result<Option<(Channel, Vec<u8>, u32)>, Error> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        loop {
            if let Some((channel, bytes)) = state.chunks.pop_front() {
                state.taken += bytes.len() as u64;
                let mut credit = 0;
                if state.taken >= u64::from(WINDOW / 4) && state.end.is_none() {
                    // Never above the window: `taken` is part of `unconfirmed`, which is checked against it.
                    credit = u32::try_from(state.taken).unwrap_or(WINDOW);
                    state.unconfirmed -= state.taken;
                    state.taken = 0;
                }
                return Ok(Some((channel, bytes, credit)));
            }
            if state.end.is_some() {
                return Ok(None);
            }
            state = self.wait(state, deadline)?;
        }
    }

    /// Waits until something may be sent and reserves up to `wanted` bytes of the window.
    pub(crate) fn reserve(&self, wanted: usize, limit: Option<Duration>) -> Result<usize, Error> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        loop {
            if let Some(end) = &state.end {
                return Err(match end {
                    StreamEnd::Failed(failure) => Error::Request(failure.clone()),
                    StreamEnd::Aborted(cause) => Error::Agent(cause.clone()),
                    StreamEnd::Exited(_) | StreamEnd::Done => Error::Io(std::io::Error::new(
                        std::io::ErrorKind::BrokenPipe,
                        "the command has ended",
                    )),
                });
            }
            if state.send_window > 0 {
                let n = wanted.min(CHUNK_MAX).min(usize::try_from(state.send_window).unwrap_or(CHUNK_MAX));
                state.send_window -= n as u64;
                return Ok(n);
            }
            state = self.wait(state, deadline)?;
        }
    }

    /// Waits for the command to run, or to fail.
    pub(crate) fn wait_started(&self) -> Result<u32, Error> {
        let deadline = Some(Instant::now() + STEP_TIMEOUT);
        let mut state = self.lock();
        loop {
            match (&state.started, &state.end) {
                (Some(pid), _) => return Ok(*pid),
                (None, Some(StreamEnd::Failed(failure))) => return Err(Error::Request(failure.clone())),
                (None, Some(StreamEnd::Aborted(cause))) => return Err(Error::Agent(cause.clone())),
                (None, Some(StreamEnd::Exited(_) | StreamEnd::Done)) => return Ok(0),
                (None, None) => {}
            }
            state = self.wait(state, deadline)?;
        }
    }

    /// Waits for the announcement of a file, or a failure.
    pub(crate) fn wait_file(&self) -> Result<(u64, u32), Error> {
        let deadline = Some(Instant::now() + STEP_TIMEOUT);
        let mut state = self.lock();
        loop {
            match (&state.file, &state.end) {
                (Some(file), _) => return Ok(*file),
                (None, Some(StreamEnd::Failed(failure))) => return Err(Error::Request(failure.clone())),
                (None, Some(StreamEnd::Aborted(cause))) => return Err(Error::Agent(cause.clone())),
                (None, Some(_)) => return Err(Error::Agent("the guest sent no file".into())),
                (None, None) => {}
            }
            state = self.wait(state, deadline)?;
        }
    }

    /// Waits for the end. Output that nobody takes may keep it from coming.
    pub(crate) fn wait_end(&self, limit: Option<Duration>) -> Result<StreamEnd, Error> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        loop {
            if let Some(end) = &state.end {
                return Ok(end.clone());
            }
            state = self.wait(state, deadline)?;
        }
    }

    /// `true` once the end has come.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// The consumer is gone: output is dropped from now on. Returns the bytes to be confirmed so that the guest can go on.
    pub(crate) fn abandon(&self) -> u32 {
        let mut state = self.lock();
        state.chunks.clear();
        let credit = u32::try_from(state.unconfirmed).unwrap_or(WINDOW);
        state.unconfirmed = 0;
        state.taken = 0;
        credit
    }
}

fn append(state: &mut State, channel: Channel, payload: Vec<u8>) -> Result<(), String> {
    state.unconfirmed += payload.len() as u64;
    if state.unconfirmed > u64::from(WINDOW) {
        return Err(format!("output beyond the window of {WINDOW} bytes"));
    }
    if payload.is_empty() {
        return Ok(());
    }
    let joined = if state.chunks.len() >= CHUNKS_MAX {
        // Behind the last chunk of a channel there is one of the other at most: it is found at once.
        state.chunks.iter_mut().rev().find(|(known, _)| *known == channel)
    } else {
        let fits = |bytes: &[u8]| bytes.len() + payload.len() <= CHUNK_MAX;
        state.chunks.back_mut().filter(|(last, bytes)| *last == channel && fits(bytes))
    };
    match joined {
        Some((_, bytes)) => bytes.extend_from_slice(&payload),
        None => state.chunks.push_back((channel, payload)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::{Arc, mpsc};
    use std::thread;

    #[test]
    fn single_bytes_cost_no_more_than_a_chunk() {
        let queue = StreamQueue::new(Kind::Exec);
        for i in 0..1000 {
            queue.push(Event::Stdout, vec![u8::try_from(i % 256).unwrap()]).unwrap();
        }
        assert_eq!(queue.lock().chunks.len(), 1);
        let (channel, bytes, credit) = queue.next_chunk(None).unwrap().unwrap();
        assert_eq!((channel, bytes.len(), credit), (Channel::Main, 1000, 0));
    }

    #[test]
    fn single_bytes_in_turns_cost_no_more_either() {
        let queue = StreamQueue::new(Kind::Exec);
        let turns = WINDOW / 2;
        for i in 0..turns {
            let byte = u8::try_from(i % 251).unwrap();
            queue.push(Event::Stdout, vec![byte]).unwrap();
            queue.push(Event::Stderr, vec![!byte]).unwrap();
        }
        assert!(queue.lock().chunks.len() <= CHUNKS_MAX);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        queue.push(Event::Exited(ExitStatus::Code(0)), Vec::new()).unwrap();
        while let Some((channel, bytes, _)) = queue.next_chunk(None).unwrap() {
            if channel == Channel::Main { stdout.extend(bytes) } else { stderr.extend(bytes) }
        }
        let sent: Vec<u8> = (0..turns).map(|i| u8::try_from(i % 251).unwrap()).collect();
        assert!(stdout == sent && stderr.iter().map(|byte| !byte).eq(sent));
    }

    #[test]
    fn channels_keep_their_order() {
        let queue = StreamQueue::new(Kind::Exec);
        for (event, text) in [(Event::Stdout, "a"), (Event::Stderr, "b"), (Event::Stdout, "c")] {
            queue.push(event, text.into()).unwrap();
        }
        queue.push(Event::Exited(ExitStatus::Code(0)), Vec::new()).unwrap();
        let got: Vec<_> =
            std::iter::from_fn(|| queue.next_chunk(None).unwrap()).map(|(c, b, _)| (c, b)).collect();
        let expected =
            [(Channel::Main, "a"), (Channel::Stderr, "b"), (Channel::Main, "c")].map(|(c, t)| (c, t.into()));
        assert_eq!(got, expected);
    }

    #[test]
    fn a_sender_beyond_its_window_is_found_out() {
        let queue = StreamQueue::new(Kind::Exec);
        for _ in 0..WINDOW as usize / CHUNK_MAX {
            queue.push(Event::Stdout, vec![0; CHUNK_MAX]).unwrap();
        }
        assert!(queue.push(Event::Stderr, vec![0]).is_err());
        assert!(StreamQueue::new(Kind::Exec).push(Event::Credit { bytes: 1 }, Vec::new()).is_err());
    }

    #[test]
    fn only_one_start_and_one_file_are_possible() {
        for (kind, event) in
            [(Kind::Exec, Event::Started { pid: 1 }), (Kind::Get, Event::File { size: 0, mode: 0 })]
        {
            let queue = StreamQueue::new(kind);
            queue.push(event.clone(), Vec::new()).unwrap();
            assert!(queue.push(event, Vec::new()).is_err());
        }
    }

    #[test]
    fn events_of_another_kind_of_stream_are_found_out() {
        let started = Event::Started { pid: 1 };
        let exited = Event::Exited(ExitStatus::Code(0));
        let file = Event::File { size: 0, mode: 0 };
        let foreign = [
            (Kind::Exec, vec![file.clone(), Event::Data, Event::Done]),
            (Kind::Get, vec![started.clone(), Event::Stdout, Event::Stderr, exited.clone()]),
            (Kind::Put, vec![started, Event::Stdout, Event::Stderr, exited, file, Event::Data]),
        ];
        for (kind, events) in foreign {
            for event in events {
                let error = StreamQueue::new(kind).push(event.clone(), Vec::new()).unwrap_err();
                assert!(error.contains("another kind"), "{kind:?}: {event:?}");
            }
        }
    }

    /// A stream whose window is used up, and what comes of a thread that waits for ten bytes of it.
    fn out_of_credit() -> (Arc<StreamQueue>, mpsc::Receiver<Result<usize, Error>>) {
        let queue = Arc::new(StreamQueue::new(Kind::Exec));
        let mut reserved = 0;
        while reserved < WINDOW as usize {
            reserved += queue.reserve(usize::MAX, None).unwrap();
        }
        let (sender, outcome) = mpsc::channel();
        let waiter = queue.clone();
        let thread = thread::spawn(move || sender.send(waiter.reserve(10, None)));
        while queue.lock().waits == 0 {
            assert!(!thread.is_finished(), "it does not wait");
            thread::yield_now();
        }
        (queue, outcome)
    }

    #[test]
    fn credit_wakes_a_host_that_waits_for_it() {
        let (queue, outcome) = out_of_credit();
        queue.push(Event::Credit { bytes: 10 }, Vec::new()).unwrap();
        assert_eq!(outcome.recv_timeout(STEP_TIMEOUT).expect("it is woken").unwrap(), 10);
        assert!(queue.reserve(1, Some(Duration::ZERO)).is_err(), "it is used up again");
    }

    #[test]
    fn an_end_wakes_a_host_that_waits_for_credit() {
        let (queue, outcome) = out_of_credit();
        queue.abort("gone");
        let end = outcome.recv_timeout(STEP_TIMEOUT).expect("it is woken");
        assert!(matches!(end, Err(Error::Agent(cause)) if cause == "gone"));
    }

    #[test]
    fn a_guest_that_stalls_is_given_up_where_a_limit_is_set() {
        let queue = StreamQueue::new(Kind::Exec);
        let limit = Some(Duration::ZERO);
        assert!(matches!(queue.next_chunk(limit), Err(Error::Timeout(_))));
        assert!(matches!(queue.wait_end(limit), Err(Error::Timeout(_))));
        while queue.reserve(usize::MAX, limit).is_ok() {}
        assert!(matches!(queue.reserve(1, limit), Err(Error::Timeout(_))));
    }

    #[test]
    fn the_guests_words_are_made_safe() {
        let queue = StreamQueue::new(Kind::Exec);
        let failure = Failure { kind: FailureKind::Other, message: "\x1b[2Jno".into() };
        queue.push(Event::Failed(failure), Vec::new()).unwrap();
        assert!(queue.wait_started().unwrap_err().to_string().starts_with("\\u{1b}[2Jno"));
    }

    #[test]
    fn an_abandoned_stream_gives_back_what_the_guest_is_owed() {
        let queue = StreamQueue::new(Kind::Exec);
        queue.push(Event::Stdout, vec![0; 1000]).unwrap();
        assert_eq!(queue.abandon(), 1000);
        assert_eq!(queue.abandon(), 0);
    }

    proptest! {
        #[test]
        fn whatever_is_sent_within_the_window_comes_out_and_is_credited(
            sizes in prop::collection::vec(0usize..=CHUNK_MAX, 1..200),
        ) {
            let queue = StreamQueue::new(Kind::Exec);
            let (mut window, mut sent, mut got) = (u64::from(WINDOW), 0, 0);
            for size in sizes {
                if size as u64 > window {
                    // The guest waits for credit: everything that is there is taken.
                    while !queue.lock().chunks.is_empty() {
                        let (_, bytes, credit) = queue.next_chunk(None).unwrap().unwrap();
                        got += bytes.len();
                        window += u64::from(credit);
                    }
                }
                prop_assert!(size as u64 <= window, "the guest would wait for ever");
                queue.push(Event::Stdout, vec![7; size]).unwrap();
                window -= size as u64;
                sent += size;
            }
            queue.push(Event::Exited(ExitStatus::Code(0)), Vec::new()).unwrap();
            while let Some((_, bytes, _)) = queue.next_chunk(None).unwrap() {
                got += bytes.len();
            }
            prop_assert_eq!(sent, got);
        }
    }
}
