//! Several roots in one machine.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod client;

use std::fs;

use client::{Client, hello, root};
use vmette_wire::desktop::DesktopRequest;
use vmette_wire::devices::Share;
use vmette_wire::handshake::ENTROPY_LEN;
use vmette_wire::root::{Attach, Detach, ROOTS_MAX};
use vmette_wire::streams::{Exec, FailureKind, Get, Put};
use vmette_wire::{Action, Event, Hello, Input, MachineRequest, Open, Root, RootName, RootRequest};

fn name(name: &str) -> RootName {
    RootName::new(name).unwrap()
}

fn make(client: &mut Client, root_name: &str) -> Result<(), String> {
    client.ask(RootRequest::Make(Root { name: name(root_name), ..root() }), b"")
}

/// An agent with the roots `main`, which is the whole folder of the test, and `b`.
fn two_roots() -> Client {
    let mut client = Client::booted();
    make(&mut client, "b").unwrap();
    client
}

fn in_root(root_name: &str) -> Exec {
    Exec { root: name(root_name), ..Exec::default() }
}

#[test]
fn a_name_leads_to_its_own_root_and_no_other() {
    let mut client = two_roots();
    for (root_name, text) in [("main", "one"), ("b", "two")] {
        let put = Put { root: name(root_name), path: "/file".into(), mode: 0o644 };
        let id = client.request(Open::Put(put), b"");
        client.send(id, Input::Data, text.as_bytes());
        client.send(id, Input::Eof, b"");
        while client.event(id).0 != Event::Done {}
    }
    let folder = client.root.path().to_owned();
    assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "one");
    assert_eq!(fs::read_to_string(folder.join("b/file")).unwrap(), "two");
    let id = client.request(Open::Get(Get { root: name("b"), path: "/file".into() }), b"");
    assert!(matches!(client.event(id).0, Event::File { size: 3, .. }));
    assert_eq!(client.event(id), (Event::Data, b"two".to_vec()));

    // A command this long lies in a file of its root.
    let long = |root_name: &str| Exec { shell: true, ..in_root(root_name) };
    let line = format!("dirname $0\n# {}", "x".repeat(1 << 20));
    for (root_name, seen) in [("main", folder.clone()), ("b", folder.join("b"))] {
        let id = client.exec(long(root_name), &[line.as_bytes()], &[]);
        assert_eq!(client.finish(id).text(), format!("{}\n", seen.display()));
    }
}

#[test]
fn requests_for_a_root_that_is_not_there_are_refused() {
    let mut client = two_roots();
    let id = client.exec(in_root("c"), &[b"true"], &[]);
    let failure = client.finish(id).failure().clone();
    assert!(failure.kind == FailureKind::Invalid && failure.message.contains("no root c"), "{failure:?}");
    let id = client.request(Open::Get(Get { root: name("c"), path: "/file".into() }), b"");
    assert!(matches!(client.event(id).0, Event::Failed(f) if f.message.contains("no root c")));
    let id = client.request(DesktopRequest { root: name("c"), action: Action::Wait { ms: 0 } }, b"");
    assert!(client.desktop(id).0.error.unwrap().contains("no root c"));
    for request in [
        RootRequest::Attach(Attach { root: name("c"), ..Attach::default() }),
        RootRequest::Detach(Detach { root: name("c"), ..Detach::default() }),
    ] {
        assert!(client.ask(request, b"").unwrap_err().contains("no root c"));
        assert!(!client.record.lock().unwrap().frozen);
    }
    let awaits = Hello { awaited: vec![name("c")], ..hello() };
    assert!(client.ask(awaits, &[0; ENTROPY_LEN]).unwrap_err().contains("no root c"));
    assert_eq!(client.sh("echo on").text(), "on\n");
}

#[test]
fn there_is_a_most_number_of_roots_and_a_name_is_taken_once() {
    let mut client = Client::booted();
    assert!(make(&mut client, "main").unwrap_err().contains("a root main already"));
    for i in 1..ROOTS_MAX {
        make(&mut client, &format!("r{i}")).unwrap();
    }
    assert!(make(&mut client, "last").unwrap_err().contains(&format!("{ROOTS_MAX} roots")));
    assert_eq!(client.record.lock().unwrap().roots.len(), ROOTS_MAX);
    let id = client.shell(in_root(&format!("r{}", ROOTS_MAX - 1)), "echo here");
    assert_eq!(client.finish(id).text(), "here\n");
}

#[test]
fn each_root_has_its_own_first_process() {
    let mut client = Client::booted();
    for root_name in ["a", "b"] {
        let root = Root { name: name(root_name), switch_root: true, ..root() };
        client.ask(RootRequest::Make(root), b"").unwrap();
    }
    let init = |root_name: &str| Exec { init: true, ..in_root(root_name) };
    for root_name in ["a", "b"] {
        let id = client.exec(init(root_name), &[b"true"], &[]);
        assert_eq!(client.finish(id).code(), 0);
        let id = client.exec(init(root_name), &[b"true"], &[]);
        assert!(client.finish(id).failure().message.contains("once"));
    }
    let id = client.exec(init("main"), &[b"true"], &[]);
    assert!(client.finish(id).failure().message.contains("switch_root"));
}

#[test]
fn nothing_runs_before_all_awaited_roots_have_their_shares() {
    let mut client = two_roots();
    let attach = |root_name: &str| {
        let share = Share { tag: root_name.into(), target: "/a".into(), read_only: false };
        RootRequest::Attach(Attach { root: name(root_name), shares: vec![share], ..Attach::default() })
    };
    client.ask(MachineRequest::Hold, b"").unwrap();
    let awaited = vec![name("main"), name("b")];
    client.ask(Hello { awaited, ..hello() }, &[1; ENTROPY_LEN]).unwrap();
    for root_name in ["main", "b"] {
        assert!(client.record.lock().unwrap().frozen, "{root_name}");
        for place in ["main", "b"] {
            let id = client.exec(in_root(place), &[b"true"], &[]);
            assert!(client.finish(id).failure().message.contains("attach comes first"));
        }
        client.ask(attach(root_name), b"").unwrap();
    }
    assert!(!client.record.lock().unwrap().frozen);
    assert_eq!(client.sh("echo here").text(), "here\n");
}

#[test]
fn the_commands_of_all_roots_end_with_their_host() {
    let mut client = two_roots();
    let pids = ["main", "b"].map(|root_name| {
        let id = client.exec(in_root(root_name), &[b"sleep", b"1000"], &[]);
        client.started(id)
    });
    client.leave().unwrap();
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
