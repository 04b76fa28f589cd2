//! A guest talks to the host over vsock when it was allowed to, to whom it was allowed to.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use crate::machine::{Vmette, text_of};

/// A server of the host that answers one connection with what it was sent, in capitals.
fn shouter(listener: UnixListener) -> JoinHandle<()> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        stream.write_all(text.to_uppercase().as_bytes()).unwrap();
    })
}

#[test]
fn a_port_that_was_asked_for_answers_and_shows_what_it_is_sent_without_obeying_it() {
    let script = "printf 'ping \\033]0;title\\007\\n' | vsock-send $VMETTE_VSOCK_PORT | tr -d '\\033\\007'";
    let outcome = Vmette::run(["-q", "--vsock-port", "1234", "--", "sh", "-c", script]).exits(0);
    outcome.printed("ping ]0;title\n");
    outcome.said(["[vsock] guest connected on port 1234\r\n", "[vsock 1234] ping \\u{1b}]0;title\\u{7}\r\n"]);
    assert!(!outcome.stderr.contains('\x1b'), "{outcome:?}");
}

#[test]
fn any_port_will_do_for_who_says_so() {
    let script = "echo $VMETTE_VSOCK_PORT; echo ping | vsock-send $VMETTE_VSOCK_PORT";
    let outcome = Vmette::new(["--rootfs", "builtin", "--vsock-port", "0", "--exec", script]).exits(0);
    let (port, rest) = outcome.text().split_once('\n').unwrap();
    assert!((50_000..60_000).contains(&port.parse::<u32>().unwrap()) && rest == "ping", "{outcome:?}");
    outcome.said([&format!("; echo at vsock port {port}")]);
}

#[test]
fn a_guest_that_floods_the_terminal_is_shown_to_an_end() {
    let script = "head -c 1000000 /dev/zero | tr '\\0' x | vsock-send $VMETTE_VSOCK_PORT | wc -c";
    let outcome = Vmette::run(["--vsock-port", "1234", "--", "sh", "-c", script]).exits(0);
    outcome.printed("1000000\n").said(["[vsock 1234] further data is echoed and not shown"]);
    assert!(outcome.stderr.len() < 100_000, "{}", outcome.stderr.len());
}

#[test]
fn a_socket_that_was_granted_is_reached_and_the_grant_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (path, report) = (dir.path().join("server"), dir.path().join("report.json"));
    let server = shouter(UnixListener::bind(&path).unwrap());
    let grant = format!("5000={}", path.display());
    let script = "echo $VMETTE_VSOCK_PORT; echo hello | vsock-send 5000; echo x | vsock-send 5001; echo $?";
    let args = ["--vsock", &grant, "--report", report.to_str().unwrap(), "--", "sh", "-c", script];
    let outcome = Vmette::run(args).exits(0);
    outcome.printed("5000\nHELLO\n1\n").said([&format!("; {} at vsock port 5000", path.display())]);
    server.join().unwrap();
    let report: Value = serde_json::from_slice(text_of(&report).as_bytes()).unwrap();
    let granted = &report["grants"]["vsock"];
    assert_eq!((&granted["port"], &granted["echo"]), (&5000.into(), &false.into()), "{report}");
    assert_eq!(granted["forwards"][0]["host"], path.to_str().unwrap());
}

#[test]
fn a_server_that_is_gone_ends_the_guests_connection_and_not_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server");
    drop(UnixListener::bind(&path).unwrap());
    let grant = format!("5000={}", path.display());
    let script = "echo hello | vsock-send 5000 2>/dev/null; echo after";
    let outcome = Vmette::run(["--vsock", &grant, "--", "sh", "-c", script]).exits(0);
    outcome.printed("after\n").said([
        "[vmette] warning: vsock port 5000: ",
        path.to_str().unwrap(),
        "refused",
    ]);
}

#[test]
fn a_socket_that_was_asked_for_leads_into_the_guest_and_is_gone_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, report) = (dir.path().join("entrance"), dir.path().join("report.json"));
    // What a killed run has left.
    drop(UnixListener::bind(&path).unwrap());
    let entrance = format!("80={}", path.display());
    let script = "echo \"[$VMETTE_VSOCK_PORT]\"; echo served | vsock-listen 80";
    let args = ["--vsock-connect", &entrance, "--report", report.to_str().unwrap(), "--", "sh", "-c", script];
    let mut running = Vmette::run(args).start();
    running.has_printed("[]\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Nothing says when the guest listens: until then it refuses, and the connection ends.
    let answer = loop {
        let mut stream = UnixStream::connect(&path).unwrap();
        let _ = stream.write_all(b"asked\n").and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = String::new();
        let ended = stream.read_to_string(&mut answer);
        if ended.is_ok() && !answer.is_empty() {
            break answer;
        }
    };
    assert_eq!(answer, "served\n");
    let outcome = running.wait();
    assert_eq!((outcome.code, outcome.text()), (Some(0), "[]\nasked"), "{outcome:?}");
    outcome.said([&format!("; the guest's vsock port 80 at {}", path.display())]);
    assert!(!path.exists());
    let report: Value = serde_json::from_slice(text_of(&report).as_bytes()).unwrap();
    assert_eq!(report["grants"]["vsock"]["connects"][0]["port"], 80, "{report}");
    // Whatever else is there stays.
    fs::write(&path, "dear").unwrap();
    let outcome = Vmette::run(["--vsock-connect", &entrance, "--", "true"]).exits(1);
    outcome.said(["vsock unavailable: socket ", path.to_str().unwrap(), "in use"]);
    assert_eq!(fs::read(&path).unwrap(), b"dear");
}

#[test]
fn read_only_roots_and_init_commands_have_the_programs_too() {
    let script = "echo ping | vsock-send $VMETTE_VSOCK_PORT";
    let options = ["--vsock-port", "0", "--rootfs-ro", "--switch-root"];
    Vmette::run([&options[..], &["--", "sh", "-c", script]].concat()).exits(0).printed("ping\n");
}

#[test]
fn what_cannot_be_granted_is_refused_before_anything_runs() {
    let refused = |grant: &str, words: [&str; 2]| {
        Vmette::run(["--vsock", grant, "--", "true"]).exits(1).said(words);
    };
    refused("5000=/no/such/socket", ["vsock socket /no/such/socket", "No such file"]);
    refused("5000=/etc/passwd", ["/etc/passwd", "not a UNIX socket"]);
    refused("0=/etc/passwd", ["vsock port 0", "choose 1 to"]);
    Vmette::run(["--vsock", "5000", "--", "true"]).exits(2).said(["PORT=SOCKET"]);
    Vmette::run(["--vsock-port", "-1", "--vsock", "1=/s", "--", "true"]).exits(2).said(["--vsock-port"]);
    let helpers = tempfile::tempdir().unwrap();
    let program = helpers.path().join("vmette");
    std::fs::copy(crate::machine::VMETTE, &program).unwrap();
    Vmette::from_program(&program, ["run", "--vsock-port", "1", "--", "true"])
        .exits(1)
        .said(["vsock unavailable", "vmette-vsockd"]);
}

#[test]
fn a_server_that_is_killed_ends_the_run_with_an_error_that_names_it() {
    let (stdin, _keyboard) = std::io::pipe().unwrap();
    let args = ["--timeout", "60", "--vsock-port", "1234", "--", "sh", "-c", "echo up; read line"];
    let mut running = Vmette::run(args).stdin(stdin).start();
    running.has_printed("up\n");
    let (server, machine) = (running.process("vmette-vsockd"), running.processes());
    server.kill();
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    outcome.said(["[vmette] error: ", "vsock device"]);
    machine.are_gone();
}
