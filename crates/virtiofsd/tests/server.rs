//! The share server as a process: it serves, it is restricted when it does, and it ends with its connection.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SERVER: &str = env!("CARGO_BIN_EXE_vmette-virtiofsd");

/// `VHOST_USER_GET_FEATURES` of version 1, without a payload.
const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

fn start(dir: &Path, args: &[&str]) -> (Child, UnixStream) {
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let connection = UnixStream::connect(&path).unwrap();
    let server = Command::new(SERVER)
        .arg("--shared-dir")
        .arg(dir)
        .args(args)
        .stdin(OwnedFd::from(listener))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (server, connection)
}

fn shake_hands(connection: &mut UnixStream) {
    connection.write_all(&GET_FEATURES).unwrap();
    let mut answer = [0; 20];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 1);
    assert_ne!(answer[12..], [0; 8], "a device without any feature");
}

/// The fields of `/proc/<pid>/status` of the process that serves, which is a child of the one that was started.
fn status_of_child(pid: u32) -> String {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child = children.split_whitespace().next().unwrap();
    fs::read_to_string(format!("/proc/{child}/status")).unwrap()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
}

#[test]
fn it_serves_restricted_and_ends_with_its_connection() {
    for args in [&["--tag", "work"][..], &["--tag", "work", "--readonly"]] {
        let dir = tempfile::tempdir().unwrap();
        let (mut server, mut connection) = start(dir.path(), args);
        shake_hands(&mut connection);
        let status = status_of_child(server.id());
        assert_eq!(field(&status, "Seccomp"), "2");
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        const CAP_MKNOD: u64 = 1 << 27;
        const CAP_SYS_ADMIN: u64 = 1 << 21;
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let set = u64::from_str_radix(field(&status, set), 16).unwrap();
            assert_eq!(set & (CAP_MKNOD | CAP_SYS_ADMIN), 0, "{status}");
        }
        drop(connection);
        assert!(server.wait().unwrap().success());
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let (mut server, _connection) = start(Path::new("/nonexistent/folder"), &["--tag", "work"]);
    let mut said = String::new();
    server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!server.wait().unwrap().success());
    assert!(said.contains("share work"), "{said}");
}

#[test]
fn an_unknown_argument_is_refused() {
    let (mut server, _connection) = start(Path::new("/"), &["--tag", "work", "--sandbox=none"]);
    let mut said = String::new();
    server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!server.wait().unwrap().success());
    assert!(said.contains("--sandbox=none") && said.contains("usage"), "{said}");
}

/// The server's answer when it is asked whether it could serve, in a process that was prepared by a shell.
fn probe(prepare: &str) -> (bool, String) {
    let script = format!("{prepare} exec \"$0\" --probe");
    let output = Command::new("sh").args(["-c", &script, SERVER]).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_host_is_asked_whether_folders_can_be_shared() {
    assert_eq!(probe(""), (true, String::new()));
    let (ok, said) = probe("ulimit -n 500;");
    assert!(!ok && said.contains("500") && said.contains("ulimit -Hn"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
