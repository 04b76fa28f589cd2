//! An agent that is found by another host than the one it had, as that of a restored machine is.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmette_guest::world::{Booting, Place, Purpose, World, WorldError};
use vmette_guest::{Hosted, serve};
use vmette_wire::agent::{Attach, Boot, Command, ENTROPY_LEN, Exec, Hello, PROTOCOL_VERSION, Root, Share};
use vmette_wire::{Event, Op, Reply, frame};

const PATIENCE: Duration = Duration::from_secs(30);

/// A world that another host may come into.
struct Found {
    hosted: Hosted,
    listener: UnixListener,
}

impl World for Found {
    fn hello(&mut self, hello: &Hello, entropy: &[u8; ENTROPY_LEN]) -> Result<(), WorldError> {
        self.hosted.hello(hello, entropy)
    }

    fn set_clock(&mut self, realtime_ns: u64) -> Result<(), WorldError> {
        self.hosted.set_clock(realtime_ns)
    }

    fn freeze(&mut self) -> Result<(), WorldError> {
        self.hosted.freeze()
    }

    fn thaw(&mut self) -> Result<(), WorldError> {
        self.hosted.thaw()
    }

    fn attach(&mut self, attach: &Attach, ca_bundle: &[u8]) -> Result<Booting, WorldError> {
        self.hosted.attach(attach, ca_bundle)
    }

    fn detach(&mut self, shares: &[Share]) -> Result<Booting, WorldError> {
        self.hosted.detach(shares)
    }

    fn boot(&mut self, boot: &Boot, ca_bundle: &[u8]) -> Result<Booting, WorldError> {
        self.hosted.boot(boot, ca_bundle)
    }

    fn boot_finished(&mut self, report: OwnedFd) -> Result<(), WorldError> {
        self.hosted.boot_finished(report)
    }

    fn place(&self, purpose: Purpose) -> Result<Place<'_>, WorldError> {
        self.hosted.place(purpose)
    }

    fn init_started(&mut self, pid: u32) {
        self.hosted.init_started(pid);
    }

    fn init_ended(&mut self) {
        self.hosted.init_ended();
    }

    fn sync(&mut self) -> io::Result<Option<OwnedFd>> {
        self.hosted.sync()
    }

    fn reconnects(&self) -> bool {
        true
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        Some(self.listener.as_fd())
    }

    fn accept(&mut self) -> io::Result<Option<OwnedFd>> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream.into())),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn ask(stream: &mut UnixStream, op: &Op, payload: &[u8]) -> bool {
    frame::write_frame(stream, 1, op, payload).unwrap();
    let answer = frame::read_frame(stream).unwrap().unwrap();
    matches!(Reply::parse(&answer.header).unwrap(), Reply::Response(header) if header.ok)
}

fn hello() -> Op {
    Op::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        realtime_ns: 1,
        hostname: "vm-test".into(),
        machine_id: "0123456789abcdef".repeat(2),
        attach_follows: false,
        payload_len: 0,
    })
}

/// Runs a shell command up to its first line of output.
fn first_line(stream: &mut UnixStream, line: &str) -> Vec<u8> {
    let command = Command { args: vec![line.as_bytes().to_vec()], env: Vec::new() };
    let exec = Exec { argc: 1, envc: 0, shell: true, ..Exec::default() };
    frame::write_frame(stream, 2, &Op::Exec(exec), &command.encode().unwrap()).unwrap();
    loop {
        let answer = frame::read_frame(stream).unwrap().unwrap();
        match Reply::parse(&answer.header).unwrap() {
            Reply::Event(Event::Stdout) => return answer.payload,
            Reply::Event(Event::Started { .. }) => {}
            other => panic!("no output but {other:?}"),
        }
    }
}

/// An agent with a root in `dir`, its host, and where the next one may come.
fn booted(dir: &Path) -> (UnixStream, PathBuf) {
    let place = dir.join("agent");
    let listener = UnixListener::bind(&place).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (mut first, guest) = UnixStream::pair().unwrap();
    let world = Found { hosted: Hosted::new(dir).unwrap(), listener };
    std::thread::spawn(move || serve(guest.into(), world));
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(&mut first, &hello(), &[7; ENTROPY_LEN]));
    let boot = Boot::new(Root::Block { fstype: "squashfs".into() });
    assert!(ask(&mut first, &Op::Boot(boot), b""));
    (first, place)
}

fn next_host(place: &Path, number: u8) -> UnixStream {
    let mut host = UnixStream::connect(place).unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(&mut host, &hello(), &[number; ENTROPY_LEN]), "it greets anew");
    host
}

#[test]
fn the_next_host_takes_the_place_of_one_that_seems_to_be_there_still() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, place) = booted(dir.path());
    assert_eq!(first_line(&mut first, "echo first; exec sleep 1000"), b"first\n");

    let mut second = next_host(&place, 8);
    assert_eq!(first_line(&mut second, "echo second"), b"second\n", "the root is there");
    assert_eq!(first.read_to_end(&mut Vec::new()).unwrap(), 0, "the first host is let go");

    // And so on, also after a host that has gone.
    drop(second);
    assert_eq!(first_line(&mut next_host(&place, 9), "echo third"), b"third\n");
}

#[test]
fn what_runs_in_a_machine_that_was_saved_runs_on_with_the_next_host() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, place) = booted(dir.path());
    let path = dir.path().display();
    let waits = format!("echo first; until [ -e {path}/go ]; do sleep 0.01; done; echo went > {path}/went");
    assert_eq!(first_line(&mut first, &waits), b"first\n");
    assert!(ask(&mut first, &Op::Hold, b""));
    let mut second = next_host(&place, 8);
    let sees = format!("> {path}/go; until [ -s {path}/went ]; do sleep 0.01; done; cat {path}/went");
    assert_eq!(first_line(&mut second, &sees), b"went\n");
}
