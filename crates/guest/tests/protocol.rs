//! The order of requests, and what a host that breaks the protocol gets.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod client;

use std::io::Write;

use client::{Client, boot, hello};
use vmette_guest::ServeError;
use vmette_wire::agent::{Boot, ENTROPY_LEN, Exec, FailureKind, Hello, WINDOW};
use vmette_wire::{Action, Event, Op, frame};

#[test]
fn hello_and_boot_are_checked_and_recorded() {
    let mut client = Client::raw();
    assert!(client.ask(&Op::Ping, b"").ok);
    assert!(client.ask(&Op::Boot(boot()), b"").error.unwrap().contains("hello comes before boot"));
    let foreign = client.ask(&Op::Hello(Hello { protocol: 99, ..hello() }), &[0; ENTROPY_LEN]);
    assert!(foreign.error.unwrap().contains("protocol 99"));
    assert!(!client.ask(&Op::Hello(hello()), b"short").ok);
    assert!(client.ask(&Op::Hello(hello()), &[0; ENTROPY_LEN]).ok);
    let pem = b"-----BEGIN CERTIFICATE-----\n";
    assert!(!client.ask(&Op::Boot(boot()), pem).ok);
    assert!(client.ask(&Op::Boot(Boot { ca_bundle: true, ..boot() }), pem).ok);
    assert!(!client.ask(&Op::Boot(boot()), b"").ok, "boot comes once");
    let record = client.record.lock().unwrap().clone();
    assert_eq!(record.hello.unwrap().hostname, "vm-test");
    assert_eq!(record.ca_bundle, pem);
    assert!(record.boot.unwrap().ca_bundle);
}

#[test]
fn nothing_runs_before_boot() {
    let mut client = Client::raw();
    let output = client.run(&["true"]);
    assert_eq!(output.failure().kind, FailureKind::Invalid);
    assert!(output.failure().message.contains("hello comes first"));
    assert!(!client.act(&Action::ExecCapture { command: "true".into(), timeout_ms: None }).0.ok);
    assert!(client.ask(&Op::Hello(hello()), &[0; ENTROPY_LEN]).ok);
    let id = client.request(&Op::Get { path: "/etc/passwd".into() }, b"");
    assert!(matches!(client.event(id).0, Event::Failed(f) if f.message.contains("boot comes first")));
}

#[test]
fn requests_may_be_sent_without_waiting_for_answers() {
    let mut client = Client::raw();
    let greeting = client.request(&Op::Hello(hello()), &[0; ENTROPY_LEN]);
    let booting = client.request(&Op::Boot(boot()), b"");
    let id = client.shell(Exec::default(), "echo at once");
    assert_eq!(client.finish(id).text(), "at once\n");
    assert!(client.response(booting).0.ok && client.response(greeting).0.ok);
}

#[test]
fn an_init_command_needs_switch_root_and_comes_once() {
    let mut client = Client::booted();
    let id = client.exec(Exec { init: true, ..Exec::default() }, &[b"true"], &[]);
    assert!(client.finish(id).failure().message.contains("switch_root"));
    let mut client = Client::raw();
    client.ask(&Op::Hello(hello()), &[0; ENTROPY_LEN]);
    client.ask(&Op::Boot(Boot { switch_root: true, ..boot() }), b"");
    let id = client.shell(Exec { init: true, ..Exec::default() }, "basename $0");
    assert_eq!(client.finish(id).text(), ".vmette-runner.sh\n");
    let id = client.exec(Exec { init: true, ..Exec::default() }, &[b"true"], &[]);
    assert!(client.finish(id).failure().message.contains("once"));
}

#[test]
fn unknown_requests_are_refused_and_the_stream_goes_on() {
    let mut client = Client::booted();
    for header in [&br#"{"op":"format_disk"}"#[..], br#"{"action":"fly"}"#, br"{}"] {
        let id = client.fresh_id();
        let bytes = frame::encode_raw(id, header, b"").unwrap();
        client.stream.write_all(&bytes).unwrap();
        assert!(client.response(id).0.error.unwrap().contains("does not know"));
    }
    // Frames for streams that have ended may be under way at any time.
    for op in [Op::Data, Op::Eof, Op::Credit { bytes: 5 }, Op::Signal { signal: 9 }] {
        client.request(&op, b"");
    }
    assert!(client.ask(&Op::Ping, b"").ok);
}

#[test]
fn names_of_any_length_are_refused_in_few_words_and_the_stream_goes_on() {
    let mut client = Client::booted();
    let long = "x".repeat(frame::HEADER_MAX);
    // Each of these becomes eight characters when it is quoted.
    let special = "\u{7f}".repeat(200 << 10);
    let mut failures = Vec::new();
    for args in [&[&*long][..], &["true", &long]] {
        failures.push(client.run(args).failure().clone());
    }
    for exec in [
        Exec { cwd: Some(special.clone()), ..Exec::default() },
        Exec { user: Some(special.clone()), ..Exec::default() },
    ] {
        let id = client.exec(exec, &[b"true"], &[]);
        failures.push(client.finish(id).failure().clone());
    }
    let id = client.request(&Op::Get { path: special.clone() }, b"");
    match client.event(id).0 {
        Event::Failed(failure) => failures.push(failure),
        other => panic!("not failed but {other:?}"),
    }
    assert!(failures.iter().all(|failure| failure.message.len() <= 2000), "{failures:?}");
    assert!(failures[1].message.contains("128 KiB"), "the reason is told: {}", failures[1].message);
    let share = vmette_wire::agent::Share { tag: "a".into(), target: special.clone(), read_only: false };
    let attach = vmette_wire::agent::Attach { shares: vec![share], ..Default::default() };
    let refused = client.ask(&Op::Attach(attach), b"").error.unwrap();
    assert!(refused.len() <= 2000 && refused.contains("not an absolute path"), "{refused}");
    assert!(client.ask(&Op::Ping, b"").ok);
}

#[test]
fn a_command_whose_arguments_are_not_there_is_refused() {
    let mut client = Client::booted();
    for exec in [Exec { argc: 2, ..Exec::default() }, Exec { argc: 0, envc: 1, ..Exec::default() }] {
        let id = client.request(&Op::Exec(exec), b"true\0");
        assert_eq!(client.finish(id).failure().kind, FailureKind::Invalid);
    }
}

#[test]
fn garbage_ends_the_connection() {
    for garbage in [&b"\0\0\0\0\0\0\0\0"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x01\0\0\0\x02\0\0\0{]"] {
        let mut client = Client::raw();
        client.stream.write_all(garbage).unwrap();
        assert!(matches!(client.outcome(), Err(ServeError::Frame(_))), "{garbage:?}");
    }
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_an_error_and_one_that_ends_between_is_not() {
    let mut client = Client::booted();
    client.stream.write_all(&[1, 0, 0]).unwrap();
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(matches!(client.outcome(), Err(ServeError::Frame(_))));
    Client::booted().leave().unwrap();
}

#[test]
fn more_than_the_window_ends_the_connection_and_its_commands() {
    let mut client = Client::booted();
    let id = client.shell(Exec { stdin: true, ..Exec::default() }, "sleep 600");
    let pid = client.started(id);
    let chunk = vec![0; 64 << 10];
    for _ in 0..WINDOW as usize / chunk.len() + 2 {
        // The agent may have hung up before the last one.
        let bytes = frame::encode(id, &Op::Data, &chunk).unwrap();
        if client.stream.write_all(&bytes).is_err() {
            break;
        }
    }
    assert!(matches!(client.outcome(), Err(ServeError::Window { .. })));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn credits_and_ids_that_cannot_be_end_the_connection() {
    let mut client = Client::booted();
    let id = client.shell(Exec::default(), "sleep 600");
    client.started(id);
    client.send(id, &Op::Credit { bytes: 1 }, b"");
    assert!(matches!(client.outcome(), Err(ServeError::Credit { .. })));
    let mut client = Client::booted();
    let id = client.shell(Exec::default(), "sleep 600");
    client.started(id);
    client.send(id, &Op::Get { path: "/x".into() }, b"");
    assert!(matches!(client.outcome(), Err(ServeError::DuplicateId { .. })));
}
