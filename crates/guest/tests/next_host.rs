//! An agent that is found by another host than the one it had, as that of a restored machine is.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
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

#[test]
fn the_next_host_takes_the_place_of_one_that_seems_to_be_there_still() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("agent");
    let listener = UnixListener::bind(&place).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (mut first, guest) = UnixStream::pair().unwrap();
    let world = Found { hosted: Hosted::new(dir.path()).unwrap(), listener };
    std::thread::spawn(move || serve(guest.into(), world));
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(&mut first, &hello(), &[7; ENTROPY_LEN]));
    let boot = Boot::new(Root::Block { fstype: "squashfs".into() });
    assert!(ask(&mut first, &Op::Boot(boot), b""));
    assert_eq!(first_line(&mut first, "echo first; exec sleep 1000"), b"first\n");

    let mut second = UnixStream::connect(&place).unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(&mut second, &hello(), &[8; ENTROPY_LEN]), "it greets anew");
    assert_eq!(first_line(&mut second, "echo second"), b"second\n", "the root is there");
    assert_eq!(first.read_to_end(&mut Vec::new()).unwrap(), 0, "the first host is let go");

    // And so on, also after a host that has gone.
    drop(second);
    let mut third = UnixStream::connect(&place).unwrap();
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(&mut third, &hello(), &[9; ENTROPY_LEN]));
    assert_eq!(first_line(&mut third, "echo third"), b"third\n");
}
