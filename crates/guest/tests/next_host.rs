//! An agent that is found by another host than the one it had, as that of a restored machine is.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod client;

use std::io::Read;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use client::world::{Altered, Door};
use client::{desktop, hello, root};
use vmette_guest::{Hosted, serve};
use vmette_wire::handshake::ENTROPY_LEN;
use vmette_wire::streams::{Command, Exec};
use vmette_wire::{Action, Boot, Event, MachineRequest, Open, Reply, Request, RootRequest, frame};

const PATIENCE: Duration = Duration::from_secs(30);

fn ask(stream: &mut UnixStream, request: impl Into<Request>, payload: &[u8]) -> bool {
    frame::write_frame(stream, 1, &request.into(), payload).unwrap();
    let answer = frame::read_frame(stream).unwrap().unwrap();
    match Reply::parse(&answer.header).unwrap() {
        Reply::Done => true,
        Reply::Desktop(header) => header.ok,
        _ => false,
    }
}

/// Runs a shell command up to its first line of output.
fn first_line(stream: &mut UnixStream, line: &str) -> Vec<u8> {
    let command = Command { args: vec![line.as_bytes().to_vec()], env: Vec::new() };
    let exec = Exec { argc: 1, envc: 0, shell: true, ..Exec::default() };
    let exec = Request::from(Open::Exec(exec));
    frame::write_frame(stream, 2, &exec, &command.encode().unwrap()).unwrap();
    loop {
        let answer = frame::read_frame(stream).unwrap().unwrap();
        match Reply::parse(&answer.header).unwrap() {
            Reply::Event(Event::Stdout) => return answer.payload,
            Reply::Event(Event::Started { .. }) => {}
            other => panic!("no output but {other:?}"),
        }
    }
}

/// An agent with `stream` to its host. Returns where the next one may come, and what hears of one that has gone.
fn agent(dir: &Path, stream: impl Into<OwnedFd>) -> (PathBuf, Receiver<()>) {
    let place = dir.join("agent");
    let listener = UnixListener::bind(&place).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (gone, heard) = channel();
    let world =
        Altered { hosted: Hosted::new(dir).unwrap(), crowd: None, door: Some(Door { listener, gone }) };
    let stream = stream.into();
    std::thread::spawn(move || serve(stream, world));
    (place, heard)
}

fn boot(host: &mut UnixStream) {
    assert!(ask(host, MachineRequest::Boot(Boot::default()), b""));
    assert!(ask(host, RootRequest::Make(root()), b""));
}

/// An agent with a root in `dir`, its host, and what [`agent`] returns.
fn booted(dir: &Path) -> (UnixStream, PathBuf, Receiver<()>) {
    let (mut first, guest) = UnixStream::pair().unwrap();
    let (place, gone) = agent(dir, guest);
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(&mut first, hello(), &[7; ENTROPY_LEN]));
    boot(&mut first);
    (first, place, gone)
}

fn next_host(place: &Path, number: u8) -> UnixStream {
    let mut host = UnixStream::connect(place).unwrap();
    host.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(&mut host, hello(), &[number; ENTROPY_LEN]), "it greets anew");
    host
}

#[test]
fn the_next_host_takes_the_place_of_one_that_seems_to_be_there_still() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, place, _) = booted(dir.path());
    assert_eq!(first_line(&mut first, "echo first; exec sleep 1000"), b"first\n");

    let mut second = next_host(&place, 8);
    assert_eq!(first_line(&mut second, "echo second"), b"second\n", "the root is there");
    assert_eq!(first.read_to_end(&mut Vec::new()).unwrap(), 0, "the first host is let go");

    // And so on, also after a host that has gone.
    drop(second);
    assert_eq!(first_line(&mut next_host(&place, 9), "echo third"), b"third\n");
}

/// What waits for a file, and then says so in another.
fn waits_in(path: &Path, name: &str) -> String {
    let path = path.display();
    format!("until [ -e {path}/go ]; do sleep 0.01; done; echo went > {path}/{name}")
}

#[test]
fn what_runs_in_a_machine_that_was_saved_runs_on_with_the_next_host() {
    // Whether the agent hears that it has lost its host before it has the next one, or not.
    for heard in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, place, gone) = booted(dir.path());
        let waits = format!("echo first; {}", waits_in(dir.path(), "stream"));
        assert_eq!(first_line(&mut first, &waits), b"first\n");
        let background = Action::Exec { command: waits_in(dir.path(), "background") };
        assert!(ask(&mut first, desktop(background), b""));
        assert!(ask(&mut first, MachineRequest::Hold, b""));
        if heard {
            first.shutdown(Shutdown::Both).unwrap();
            gone.recv_timeout(PATIENCE).unwrap();
        }
        // They are not that host's either, and not ended with it.
        drop(next_host(&place, 8));
        gone.recv_timeout(PATIENCE).unwrap();

        let mut third = next_host(&place, 9);
        let path = dir.path().display();
        let sees =
            |name: &str| format!("> {path}/go; until [ -s {path}/{name} ]; do sleep 0.01; done; echo went");
        for name in ["stream", "background"] {
            assert_eq!(first_line(&mut third, &sees(name)), b"went\n", "{name}, {heard}");
            third = next_host(&place, 10);
        }
    }
}

#[test]
fn what_runs_in_a_machine_that_was_not_saved_ends_with_its_host() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, place, gone) = booted(dir.path());
    let fifo = dir.path().join("alive");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let command = format!("exec sleep 1000 > {}", fifo.display());
    assert!(ask(&mut first, desktop(Action::Exec { command }), b""));
    let alive = std::fs::File::open(&fifo).unwrap();
    drop(first);
    gone.recv_timeout(PATIENCE).unwrap();
    let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    let mut closed = [rustix::event::PollFd::new(&alive, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut closed, Some(&patience)), Ok(1), "it lives on");
    next_host(&place, 8);
}

#[test]
fn a_connection_that_a_restored_machine_never_had_is_none() {
    let dir = tempfile::tempdir().unwrap();
    // As vsock after its reset, it says so when it is read from.
    let never =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    assert_eq!(rustix::io::read(&never, &mut [0; 1]), Err(rustix::io::Errno::NOTCONN));
    let (place, gone) = agent(dir.path(), never);
    gone.recv_timeout(PATIENCE).unwrap();
    let mut host = next_host(&place, 8);
    boot(&mut host);
    assert_eq!(first_line(&mut host, "echo here"), b"here\n");
}
