//! The order of requests, and what a host that breaks the protocol gets.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod client;

use std::io::Write;

use client::{Client, get, hello, root};
use vmette_guest::{ServeError, StreamError};
use vmette_wire::devices::Share;
use vmette_wire::handshake::ENTROPY_LEN;
use vmette_wire::root::Attach;
use vmette_wire::streams::{Exec, FailureKind, WINDOW};
use vmette_wire::{
    Action, Boot, Event, Hello, Input, MachineRequest, Open, Request, Root, RootRequest, frame,
};

fn boot() -> MachineRequest {
    MachineRequest::Boot(Boot::default())
}

#[test]
fn hello_boot_and_root_are_checked_and_recorded() {
    let mut client = Client::raw();
    client.ask(MachineRequest::Ping, b"").unwrap();
    for early in
        [boot(), MachineRequest::Sync, MachineRequest::Hold, MachineRequest::Release { realtime_ns: 1 }]
    {
        assert!(client.ask(early, b"").unwrap_err().contains("hello comes first"));
    }
    assert!(client.ask(RootRequest::Make(root()), b"").unwrap_err().contains("hello comes first"));
    let foreign = client.ask(Hello { protocol: 99, ..hello() }, &[0; ENTROPY_LEN]);
    assert!(foreign.unwrap_err().contains("protocol 99"));
    client.ask(hello(), b"short").unwrap_err();
    client.ask(hello(), &[0; ENTROPY_LEN]).unwrap();
    assert!(client.ask(RootRequest::Make(root()), b"").unwrap_err().contains("boot comes before a root"));
    let bad = Boot { disks: vec!["a/b".into()], ..Boot::default() };
    assert!(client.ask(MachineRequest::Boot(bad), b"").unwrap_err().contains("serial number"));
    client.ask(boot(), b"").unwrap();
    assert!(client.ask(boot(), b"").unwrap_err().contains("once"));
    let pem = b"-----BEGIN CERTIFICATE-----\n";
    client.ask(RootRequest::Make(root()), pem).unwrap_err();
    client.ask(RootRequest::Make(Root { ca_bundle: true, ..root() }), pem).unwrap();
    let record = client.record.lock().unwrap().clone();
    assert_eq!(record.hello.unwrap().hostname, "vm-test");
    assert_eq!(record.ca_bundle, pem);
    assert!(record.boot.is_some() && record.roots[0].ca_bundle);
}

#[test]
fn nothing_runs_before_there_is_a_root() {
    let mut client = Client::raw();
    let output = client.run(&["true"]);
    assert_eq!(output.failure().kind, FailureKind::Invalid);
    assert!(output.failure().message.contains("hello comes first"));
    assert!(!client.act(&Action::ExecCapture { command: "true".into(), timeout_ms: None }).0.ok);
    client.ask(hello(), &[0; ENTROPY_LEN]).unwrap();
    for _ in 0..2 {
        let id = client.request(Open::Get(get("/etc/passwd")), b"");
        assert!(matches!(client.event(id).0, Event::Failed(f) if f.message.contains("no root main yet")));
        let attached = client.ask(RootRequest::Attach(Attach::default()), b"");
        assert!(attached.unwrap_err().contains("no root main yet"));
        // A machine that is set up has none either.
        let _ = client.ask(boot(), b"");
    }
}

#[test]
fn requests_may_be_sent_without_waiting_for_answers() {
    let mut client = Client::raw();
    let greeting = client.request(hello(), &[0; ENTROPY_LEN]);
    let booting = client.request(boot(), b"");
    let making = client.request(RootRequest::Make(root()), b"");
    let id = client.shell(Exec::default(), "echo at once");
    assert_eq!(client.finish(id).text(), "at once\n");
    for id in [making, booting, greeting] {
        client.answer(id).unwrap();
    }
}

#[test]
fn an_init_command_needs_switch_root_and_comes_once() {
    let mut client = Client::booted();
    let id = client.exec(Exec { init: true, ..Exec::default() }, &[b"true"], &[]);
    assert!(client.finish(id).failure().message.contains("switch_root"));
    let mut client = Client::raw();
    client.ask(hello(), &[0; ENTROPY_LEN]).unwrap();
    client.ask(boot(), b"").unwrap();
    client.ask(RootRequest::Make(Root { switch_root: true, ..root() }), b"").unwrap();
    let id = client.shell(Exec { init: true, ..Exec::default() }, "basename $0");
    assert_eq!(client.finish(id).text(), ".vmette-runner.sh\n");
    let id = client.exec(Exec { init: true, ..Exec::default() }, &[b"true"], &[]);
    assert!(client.finish(id).failure().message.contains("once"));
}

#[test]
fn unknown_requests_are_refused_and_the_stream_goes_on() {
    let mut client = Client::booted();
    for header in [&br#"{"machine":"format_disk"}"#[..], br#"{"action":"fly"}"#, br"{}", b"{]", b"\xff"] {
        let id = client.fresh_id();
        let bytes = frame::encode_raw(id, header, b"").unwrap();
        client.stream.write_all(&bytes).unwrap();
        assert!(client.answer(id).unwrap_err().contains("does not know"));
    }
    // Frames for streams that have ended may be under way at any time.
    for input in [Input::Data, Input::Eof, Input::Credit { bytes: 5 }, Input::Signal { signal: 9 }] {
        client.request(input, b"");
    }
    client.ask(MachineRequest::Ping, b"").unwrap();
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
    let id = client.request(Open::Get(get(special.as_str())), b"");
    match client.event(id).0 {
        Event::Failed(failure) => failures.push(failure),
        other => panic!("not failed but {other:?}"),
    }
    assert!(failures.iter().all(|failure| failure.message.len() <= 2000), "{failures:?}");
    assert!(failures[1].message.contains("128 KiB"), "the reason is told: {}", failures[1].message);
    let share = Share { tag: "a".into(), target: special.clone(), read_only: false };
    let attach = Attach { shares: vec![share], ..Default::default() };
    let refused = client.ask(RootRequest::Attach(attach), b"").unwrap_err();
    assert!(refused.len() <= 2000 && refused.contains("without . and .."), "{refused}");
    client.ask(MachineRequest::Ping, b"").unwrap();
}

#[test]
fn a_command_whose_arguments_are_not_there_is_refused() {
    let mut client = Client::booted();
    for exec in [Exec { argc: 2, ..Exec::default() }, Exec { argc: 0, envc: 1, ..Exec::default() }] {
        let id = client.request(Open::Exec(exec), b"true\0");
        assert_eq!(client.finish(id).failure().kind, FailureKind::Invalid);
    }
}

#[test]
fn garbage_ends_the_connection() {
    for garbage in [&[0; 12][..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 12]] {
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
        let bytes = frame::encode(id, &Request::from(Input::Data), &chunk).unwrap();
        if client.stream.write_all(&bytes).is_err() {
            break;
        }
    }
    assert!(matches!(client.outcome(), Err(ServeError::Stream(StreamError::Window { .. }))));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn credits_and_ids_that_cannot_be_end_the_connection() {
    let mut client = Client::booted();
    let id = client.shell(Exec::default(), "sleep 600");
    client.started(id);
    client.send(id, Input::Credit { bytes: 1 }, b"");
    assert!(matches!(client.outcome(), Err(ServeError::Stream(StreamError::Credit { .. }))));
    let mut client = Client::booted();
    let id = client.shell(Exec::default(), "sleep 600");
    client.started(id);
    client.send(id, Open::Get(get("/x")), b"");
    assert!(matches!(client.outcome(), Err(ServeError::DuplicateId { .. })));
}
