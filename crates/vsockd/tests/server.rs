//! The server as a process: it serves, it is restricted when it does, and it ends with its machine.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

const SERVER: &str = env!("CARGO_BIN_EXE_vmette-vsockd");

/// `VHOST_USER_GET_FEATURES` of version 1, without a payload.
const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// A server, QEMU's end of the connection to it, and its owner's.
fn start() -> (Child, UnixStream, UnixStream) {
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let connection = UnixStream::connect(&path).unwrap();
    let (owner, control) = UnixStream::pair().unwrap();
    let server = Command::new(SERVER)
        .stdin(OwnedFd::from(listener))
        .stdout(OwnedFd::from(control))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (server, connection, owner)
}

fn shake_hands(connection: &mut UnixStream) {
    connection.write_all(&GET_FEATURES).unwrap();
    let mut answer = [0; 20];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 1);
    assert_ne!(answer[12..], [0; 8], "a device without any feature");
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
}

#[test]
fn every_thread_of_it_is_restricted_and_it_ends_with_its_connection() {
    let (mut server, mut connection, _owner) = start();
    shake_hands(&mut connection);
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", server.id())).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert_eq!(field(&status, "Seccomp"), "2");
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        for set in ["CapPrm", "CapEff", "CapInh"] {
            assert_eq!(u64::from_str_radix(field(&status, set), 16).unwrap(), 0, "{status}");
        }
        threads += 1;
    }
    assert!(threads > 1, "the one that reads the guest's packets is there");
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max file size")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("0"), "{files}");
    drop(connection);
    assert!(server.wait().unwrap().success());
}

#[test]
fn an_owner_that_says_nonsense_is_not_listened_to_any_more() {
    let (mut server, mut connection, mut owner) = start();
    shake_hands(&mut connection);
    owner.write_all(&[0xff; 24]).unwrap();
    assert_eq!(owner.read(&mut [0]).unwrap(), 0);
    shake_hands(&mut connection);
    drop(connection);
    assert!(server.wait().unwrap().success());
}

#[test]
fn what_was_inherited_must_be_what_it_has_to_be() {
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut server =
        Command::new(SERVER).stdin(null()).stdout(null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!server.wait().unwrap().success());
    assert!(said.contains("standard output"), "{said}");
}
