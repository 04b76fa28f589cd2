//! A host in small: speaks to a real agent in a thread of the test.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "all of it is test code")]

pub(crate) mod world;

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use vmette_guest::{Hosted, Record, ServeError, World, serve};
use vmette_wire::desktop::DesktopRequest;
use vmette_wire::handshake::{ENTROPY_LEN, PROTOCOL_VERSION};
use vmette_wire::root::Base;
use vmette_wire::streams::{Command, Exec, ExitStatus, Failure, Get, WINDOW};
use vmette_wire::{
    Action, Boot, Event, Hello, Input, MachineRequest, Open, Reply, Request, ResponseHeader, Root, RootName,
    RootRequest, frame,
};

/// No single answer takes that long, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) root: tempfile::TempDir,
    pub(crate) record: Arc<Mutex<Record>>,
    server: Option<JoinHandle<Result<(), ServeError>>>,
    pub(crate) pending: HashMap<u32, VecDeque<(Reply, Vec<u8>)>>,
    pub(crate) last_id: u32,
}

/// Everything a command has said.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) end: Option<Result<ExitStatus, Failure>>,
    /// Bytes of its stdin that were read.
    pub(crate) consumed: Option<u64>,
}

impl Output {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn code(&self) -> i32 {
        match &self.end {
            Some(Ok(status)) => status.code(),
            other => panic!("no exit status but {other:?}"),
        }
    }

    pub(crate) fn failure(&self) -> &Failure {
        match &self.end {
            Some(Err(failure)) => failure,
            other => panic!("no failure but {other:?}"),
        }
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        realtime_ns: 1_700_000_000_000_000_000,
        hostname: "vm-test".into(),
        machine_id: "0123456789abcdef".repeat(2),
        awaited: Vec::new(),
    }
}

pub(crate) fn root() -> Root {
    Root::new(Base::rootfs_disk("squashfs"))
}

pub(crate) fn get(path: impl Into<String>) -> Get {
    Get { root: RootName::default(), path: path.into() }
}

pub(crate) fn desktop(action: Action) -> DesktopRequest {
    DesktopRequest { root: RootName::default(), action }
}

impl Client {
    /// An agent that has heard nothing yet.
    pub(crate) fn raw() -> Self {
        Self::of(|hosted| hosted)
    }

    /// One in a world that differs from the usual one.
    pub(crate) fn of<W: World + Send + 'static>(world: impl FnOnce(Hosted) -> W) -> Self {
        let (host, guest) = UnixStream::pair().unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        host.set_write_timeout(Some(PATIENCE)).unwrap();
        let root = tempfile::tempdir().unwrap();
        let hosted = Hosted::new(root.path()).unwrap();
        let record = hosted.record();
        let world = world(hosted);
        let server = std::thread::spawn(move || serve(guest.into(), world));
        Self { stream: host, root, record, server: Some(server), pending: HashMap::new(), last_id: 0 }
    }

    /// An agent that is ready for commands.
    pub(crate) fn booted() -> Self {
        Self::raw().boot()
    }

    pub(crate) fn boot(self) -> Self {
        let mut client = self;
        client.ask(hello(), &[7; ENTROPY_LEN]).unwrap();
        client.ask(MachineRequest::Boot(Boot::default()), b"").unwrap();
        client.ask(RootRequest::Make(root()), b"").unwrap();
        client
    }

    pub(crate) fn send(&mut self, id: u32, request: impl Into<Request>, payload: &[u8]) {
        frame::write_frame(&mut self.stream, id, &request.into(), payload).unwrap();
    }

    pub(crate) fn fresh_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends a request under a new id.
    pub(crate) fn request(&mut self, request: impl Into<Request>, payload: &[u8]) -> u32 {
        let id = self.fresh_id();
        self.send(id, request, payload);
        id
    }

    /// The next answer under that id; others are kept.
    pub(crate) fn next(&mut self, id: u32) -> (Reply, Vec<u8>) {
        loop {
            if let Some(found) = self.pending.get_mut(&id).and_then(VecDeque::pop_front) {
                return found;
            }
            let frame =
                frame::read_frame(&mut self.stream).unwrap().expect("the agent has closed the stream");
            let reply = Reply::parse(&frame.header).unwrap();
            self.pending.entry(frame.id).or_default().push_back((reply, frame.payload));
        }
    }

    pub(crate) fn answer(&mut self, id: u32) -> Result<(), String> {
        match self.next(id).0 {
            Reply::Done => Ok(()),
            Reply::Refused(reason) => Err(reason),
            other => panic!("no answer but {other:?}"),
        }
    }

    pub(crate) fn desktop(&mut self, id: u32) -> (ResponseHeader, Vec<u8>) {
        match self.next(id) {
            (Reply::Desktop(header), payload) => (header, payload),
            other => panic!("no answer of the desktop but {other:?}"),
        }
    }

    pub(crate) fn event(&mut self, id: u32) -> (Event, Vec<u8>) {
        match self.next(id) {
            (Reply::Event(event), payload) => (event, payload),
            other => panic!("no event but {other:?}"),
        }
    }

    pub(crate) fn ask(&mut self, request: impl Into<Request>, payload: &[u8]) -> Result<(), String> {
        let id = self.request(request, payload);
        self.answer(id)
    }

    pub(crate) fn act(&mut self, action: &Action) -> (ResponseHeader, Vec<u8>) {
        let id = self.request(desktop(action.clone()), b"");
        self.desktop(id)
    }

    /// Starts a command.
    pub(crate) fn exec(&mut self, exec: Exec, args: &[&[u8]], env: &[&[u8]]) -> u32 {
        let owned = |list: &[&[u8]]| list.iter().map(|s| s.to_vec()).collect();
        let command = Command { args: owned(args), env: owned(env) };
        let exec = Exec {
            argc: u32::try_from(args.len()).unwrap(),
            envc: u32::try_from(env.len()).unwrap(),
            ..exec
        };
        self.request(Open::Exec(exec), &command.encode().unwrap())
    }

    pub(crate) fn shell(&mut self, exec: Exec, line: &str) -> u32 {
        self.exec(Exec { shell: true, ..exec }, &[line.as_bytes()], &[])
    }

    /// Reads a command's output to its end, and confirms it.
    pub(crate) fn finish(&mut self, id: u32) -> Output {
        let mut output = Output::default();
        while output.end.is_none() {
            let (event, payload) = self.event(id);
            match event {
                Event::Stdout => output.stdout.extend_from_slice(&payload),
                Event::Stderr => output.stderr.extend_from_slice(&payload),
                Event::Exited(status) => output.end = Some(Ok(status)),
                Event::Failed(failure) => output.end = Some(Err(failure)),
                Event::Started { pid } => assert!(pid > 0),
                Event::Credit { .. } => {}
                Event::Consumed { bytes } => output.consumed = Some(bytes),
                other => panic!("unexpected {other:?}"),
            }
            if !payload.is_empty() {
                let bytes = u32::try_from(payload.len()).unwrap();
                self.send(id, Input::Credit { bytes }, b"");
            }
        }
        output
    }

    pub(crate) fn run(&mut self, args: &[&str]) -> Output {
        let args: Vec<&[u8]> = args.iter().map(|s| s.as_bytes()).collect();
        let id = self.exec(Exec::default(), &args, &[]);
        self.finish(id)
    }

    pub(crate) fn sh(&mut self, line: &str) -> Output {
        let id = self.shell(Exec::default(), line);
        self.finish(id)
    }

    /// Waits until the command runs.
    pub(crate) fn started(&mut self, id: u32) -> u32 {
        match self.event(id).0 {
            Event::Started { pid } => pid,
            other => panic!("not started but {other:?}"),
        }
    }

    /// Goes away, and returns what the agent made of it.
    pub(crate) fn leave(mut self) -> Result<(), ServeError> {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
        self.server.take().unwrap().join().unwrap()
    }

    /// What the agent has ended with, by itself.
    pub(crate) fn outcome(mut self) -> Result<(), ServeError> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("the agent goes on"),
            _ => self.server.take().unwrap().join().unwrap(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Bytes that differ everywhere, so that a lost or repeated chunk shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0u32..).flat_map(u32::to_le_bytes).take(len).collect()
}

/// Feeds `data` to a stream of the agent, within the window, while reading what comes back.
pub(crate) fn feed(client: &mut Client, id: u32, data: &[u8], output: &mut Output) {
    let mut room = WINDOW as usize;
    let mut rest = data;
    while !rest.is_empty() {
        while room > 0 && !rest.is_empty() {
            let n = room.min(rest.len()).min(frame::CHUNK_MAX);
            client.send(id, Input::Data, &rest[..n]);
            rest = &rest[n..];
            room -= n;
        }
        if rest.is_empty() {
            break;
        }
        let (event, payload) = client.event(id);
        match event {
            Event::Credit { bytes } => room += bytes as usize,
            Event::Stdout => {
                output.stdout.extend_from_slice(&payload);
                client.send(id, Input::Credit { bytes: u32::try_from(payload.len()).unwrap() }, b"");
            }
            Event::Started { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    client.send(id, Input::Eof, b"");
}
