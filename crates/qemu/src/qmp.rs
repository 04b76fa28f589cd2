//! QEMU's machine protocol (QMP) over a socket that QEMU inherited.
//!
//! One thread reads. Commands are numbered and answered by number, so that several may be under way; of the events
//! only the latest of each kind that matters is kept. A broken line or the end of the stream ends the connection once:
//! everyone who waits, and everyone who comes later, gets the first cause.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use vmette_vmm::Error;

/// Longest line that is read. The answers to the commands that are sent here have less than a thousand bytes.
const LINE_MAX: u64 = 1 << 20;

/// Time for one command to be written or answered.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(15);

/// Events that are kept; a guest can cause others by the thousand.
const EVENTS: [&str; 5] = ["MIGRATION", "SHUTDOWN", "RESUME", "STOP", "DEVICE_DELETED"];

/// The failure of a command.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum QmpError {
    /// QEMU says no.
    #[error("{command}: {message}")]
    Refused { command: &'static str, message: String },
    /// No answer in time.
    #[error("{command}: no answer from QEMU within {} s", .limit.as_secs())]
    Timeout { command: &'static str, limit: Duration },
    /// The connection is of no use any more.
    #[error("connection to QEMU: {0}")]
    Broken(String),
}

/// The failure of a command that affects nothing but the machine.
pub(crate) fn failed(error: QmpError) -> Error {
    match error {
        QmpError::Timeout { command, limit } => {
            Error::Timeout { operation: command, seconds: limit.as_secs() }
        }
        error => Error::Machine(error.to_string()),
    }
}

/// Arguments of `migrate-set-capabilities`, for saving and for restoring: shared memory stays out of the state, and events
/// tell when it is written or read.
pub(crate) fn capabilities() -> Value {
    json!({ "capabilities": [
        { "capability": "x-ignore-shared", "state": true },
        { "capability": "events", "state": true },
    ] })
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: Mutex<UnixStream>,
    shared: Arc<Shared>,
}

/// A command that was sent and not yet waited for.
#[derive(Debug)]
#[must_use]
pub(crate) struct Sent {
    id: u64,
    command: &'static str,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Commands whose answers are of interest; an answer to anything else is dropped.
    awaited: BTreeSet<u64>,
    answers: BTreeMap<u64, Result<Value, String>>,
    events: BTreeMap<&'static str, Value>,
    broken: Option<String>,
}

impl Qmp {
    /// Starts to read. QEMU wants `qmp_capabilities` first; its greeting needs no waiting for.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_write_timeout(Some(COMMAND_LIMIT))?;
        let reader = stream.try_clone()?;
        let shared = Arc::new(Shared::default());
        let filled = shared.clone();
        thread::Builder::new().name("qmp".into()).spawn(move || {
            let cause = read_all(reader, &filled);
            filled.lock().broken.get_or_insert(cause);
            filled.changed.notify_all();
        })?;
        Ok(Self { stream: Mutex::new(stream), shared })
    }

    /// Sends a command; its answer may be waited for later.
    pub(crate) fn send(&self, command: &'static str, arguments: Value) -> Result<Sent, QmpError> {
        self.write(command, arguments, None)
    }

    /// Sends a command along with a descriptor.
    fn write(
        &self,
        command: &'static str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Sent, QmpError> {
        let id = {
            let mut state = self.shared.lock();
            state.next += 1;
            let id = state.next;
            state.awaited.insert(id);
            id
        };
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let line = format!("{message}\n");
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        write_with(&mut stream, line.as_bytes(), fd)
            .map_err(|e| QmpError::Broken(self.shared.lock().broken.clone().unwrap_or(e.to_string())))?;
        Ok(Sent { id, command })
    }

    /// Waits for the answer to a command.
    pub(crate) fn wait(&self, sent: Sent) -> Result<Value, QmpError> {
        self.wait_for(sent, COMMAND_LIMIT)
    }

    fn wait_for(&self, sent: Sent, limit: Duration) -> Result<Value, QmpError> {
        let Sent { id, command } = sent;
        let answer = self.shared.wait_until(Instant::now() + limit, |state| state.answers.remove(&id));
        self.shared.lock().awaited.remove(&id);
        match answer? {
            Some(answer) => answer.map_err(|message| QmpError::Refused { command, message }),
            None => Err(QmpError::Timeout { command, limit }),
        }
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn execute(&self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        self.wait(self.send(command, arguments)?)
    }

    /// Gives QEMU a descriptor under a name that other commands may use.
    pub(crate) fn send_fd(&self, name: &str, fd: BorrowedFd<'_>) -> Result<Sent, QmpError> {
        self.write("getfd", json!({ "fdname": name }), Some(fd))
    }

    /// Forgets what happened, before it is caused anew.
    pub(crate) fn forget(&self, event: &'static str) {
        self.shared.lock().events.remove(event);
    }

    /// Waits until the latest event of a kind satisfies `wanted`.
    pub(crate) fn wait_event<T>(
        &self,
        event: &'static str,
        limit: Duration,
        mut wanted: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T, QmpError> {
        debug_assert!(EVENTS.contains(&event));
        self.shared
            .wait_until(Instant::now() + limit, |state| state.events.get(event).and_then(&mut wanted))?
            .ok_or(QmpError::Timeout { command: event, limit })
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // Ends the reader. Fails only when QEMU has closed its end.
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Shared {
    /// Waits for something to appear in the state. What is there already counts even if the connection has ended.
    fn wait_until<T>(
        &self,
        deadline: Instant,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<Option<T>, QmpError> {
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Ok(Some(found));
            }
            if let Some(cause) = &state.broken {
                return Err(QmpError::Broken(cause.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_with(stream: &mut UnixStream, mut bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    if let Some(fd) = fd {
        let fds = [fd];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let parts = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(stream.as_fd(), &parts, &mut control, SendFlags::empty())?;
        bytes = &bytes[sent..];
    }
    stream.write_all(bytes)
}

/// Reads to the end and says why it is the end.
fn read_all(stream: UnixStream, shared: &Shared) -> String {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return "QEMU has closed it".into(),
            Ok(_) if !line.ends_with(b"\n") && line.len() as u64 == LINE_MAX => {
                return format!("a line of more than {LINE_MAX} bytes");
            }
            Ok(_) => match serde_json::from_slice(&line) {
                Ok(message) => shared.take(message),
                Err(e) => return format!("not JSON: {e}"),
            },
            Err(e) => return e.to_string(),
        }
    }
}

impl Shared {
    fn take(&self, mut message: Value) {
        let mut state = self.lock();
        if let Some(name) = message["event"].as_str() {
            if let Some(known) = EVENTS.into_iter().find(|known| *known == name) {
                state.events.insert(known, message["data"].take());
            }
        } else if let Some(id) = message["id"].as_u64().filter(|id| state.awaited.contains(id)) {
            let answer = match message.get("error") {
                Some(error) => Err(error["desc"].as_str().unwrap_or("no reason given").to_owned()),
                None => Ok(message["return"].take()),
            };
            state.answers.insert(id, answer);
        }
        drop(state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = r#"{"QMP":{"version":{},"capabilities":["oob"]}}"#;

    /// A QEMU that answers each line by what the function returns, line by line.
    fn stub<F>(mut answer: F) -> Qmp
    where
        F: FnMut(&Value) -> Vec<String> + Send + 'static,
    {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            writeln!(writer, "{GREETING}").unwrap();
            for line in BufReader::new(theirs).lines() {
                let Ok(line) = line else { return };
                for line in answer(&serde_json::from_str(&line).unwrap()) {
                    if writeln!(writer, "{line}").is_err() {
                        return;
                    }
                }
            }
        });
        Qmp::new(ours).unwrap()
    }

    fn ok(request: &Value) -> String {
        json!({ "return": {}, "id": request["id"] }).to_string()
    }

    #[test]
    fn commands_are_answered_by_number_with_events_in_between() {
        let mut held: Vec<Value> = Vec::new();
        let qmp = stub(move |request| match request["execute"].as_str().unwrap() {
            "qmp_capabilities" => vec![ok(request)],
            "first" => {
                held.push(request.clone());
                vec![r#"{"event":"RTC_CHANGE","data":{}}"#.into()]
            }
            _ => vec![
                json!({ "return": 2, "id": request["id"] }).to_string(),
                r#"{"event":"MIGRATION","data":{"status":"active"}}"#.into(),
                json!({ "return": 1, "id": held[0]["id"] }).to_string(),
                r#"{"event":"MIGRATION","data":{"status":"completed"}}"#.into(),
            ],
        });
        qmp.execute("qmp_capabilities", Value::Null).unwrap();
        let first = qmp.send("first", json!({ "a": 1 })).unwrap();
        assert_eq!(qmp.execute("second", Value::Null).unwrap(), 2);
        assert_eq!(qmp.wait(first).unwrap(), 1);
        let status = qmp.wait_event("MIGRATION", COMMAND_LIMIT, |data| {
            (data["status"] == "completed").then(|| data["status"].clone())
        });
        assert_eq!(status.unwrap(), "completed");
        assert_eq!(qmp.shared.lock().events.len(), 1, "RTC_CHANGE is not kept");
        qmp.forget("MIGRATION");
        assert!(qmp.shared.lock().events.is_empty());
    }

    #[test]
    fn a_refusal_names_the_command_and_the_reason() {
        let qmp = stub(|request| {
            vec![
                json!({ "error": { "class": "GenericError", "desc": "no such bus" }, "id": request["id"] })
                    .to_string(),
            ]
        });
        let error = qmp.execute("device_add", json!({})).unwrap_err();
        assert_eq!(error.to_string(), "device_add: no such bus");
    }

    #[test]
    fn no_answer_is_a_timeout_and_a_late_one_is_dropped() {
        let qmp = stub(|request| match request["execute"].as_str().unwrap() {
            "now" => vec![json!({ "return": "late", "id": 1 }).to_string(), ok(request)],
            _ => Vec::new(),
        });
        let sent = qmp.send("later", Value::Null).unwrap();
        let limit = Duration::from_millis(1);
        assert!(matches!(qmp.wait_for(sent, limit), Err(QmpError::Timeout { command: "later", .. })));
        qmp.execute("now", Value::Null).unwrap();
        assert!(qmp.shared.lock().answers.is_empty());
    }

    #[test]
    fn the_end_of_qemu_wakes_everyone_and_is_remembered() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let qmp = Qmp::new(ours).unwrap();
        let hello = qmp.send("qmp_capabilities", Value::Null).unwrap();
        drop(theirs);
        assert!(matches!(qmp.wait(hello), Err(QmpError::Broken(_))));
        assert!(matches!(qmp.execute("stop", Value::Null), Err(QmpError::Broken(_))));
        assert!(matches!(qmp.wait_event("STOP", COMMAND_LIMIT, |_| Some(())), Err(QmpError::Broken(_))));
    }

    #[test]
    fn a_line_without_end_and_a_line_that_is_no_json_end_the_connection() {
        let endless = "x".repeat(usize::try_from(LINE_MAX).unwrap() + 1);
        for (text, cause) in [(endless, "more than"), ("hello".into(), "not JSON")] {
            let qmp = stub(move |_| vec![text.clone()]);
            let error = qmp.execute("qmp_capabilities", Value::Null).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[test]
    fn a_descriptor_travels_with_its_command() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let qmp = Qmp::new(ours).unwrap();
        let peer = thread::spawn(move || {
            let mut received = None;
            let mut text = Vec::new();
            while !text.ends_with(b"getfd\",\"id\":1}\n") {
                let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
                let mut bytes = [0; 512];
                let message = rustix::net::recvmsg(
                    &theirs,
                    &mut [io::IoSliceMut::new(&mut bytes)],
                    &mut control,
                    rustix::net::RecvFlags::empty(),
                )
                .unwrap();
                text.extend_from_slice(&bytes[..message.bytes]);
                for message in control.drain() {
                    if let rustix::net::RecvAncillaryMessage::ScmRights(mut fds) = message {
                        received = fds.next();
                    }
                }
            }
            (&theirs).write_all(b"{\"return\":{},\"id\":1}\n").unwrap();
            std::fs::File::from(received.unwrap())
        });
        let (mut reader, writer) = io::pipe().unwrap();
        qmp.wait(qmp.send_fd("state", writer.as_fd()).unwrap()).unwrap();
        drop(writer);
        let mut received = peer.join().unwrap();
        received.write_all(b"here").unwrap();
        drop(received);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
    }
}
