//! What the agent does while its machine is saved, and in the copy that another host starts from it.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod client;

use client::{Client, hello};
use vmette_wire::devices::Share;
use vmette_wire::handshake::ENTROPY_LEN;
use vmette_wire::root::{Attach, Detach};
use vmette_wire::streams::{Exec, Put, WINDOW};
use vmette_wire::{Action, Event, Hello, Input, MachineRequest, Open, RootName, RootRequest, frame};

/// Makes the agent believe that this is another host, of a machine that was restored. Its numbers begin anew.
fn copied(client: &mut Client) {
    greeted_again(client, Vec::new());
    assert!(!is_frozen(client));
}

fn greeted_again(client: &mut Client, awaited: Vec<RootName>) {
    client.ask(MachineRequest::Hold, b"").unwrap();
    client.pending.clear();
    client.last_id = 0;
    let greeting = client.request(Hello { hostname: "copy".into(), awaited, ..hello() }, &[1; ENTROPY_LEN]);
    let first = frame::read_frame(&mut client.stream).unwrap().unwrap();
    assert_eq!(first.id, greeting, "nothing that was meant for the other host");
    let record = client.record.lock().unwrap();
    assert!(record.hello.as_ref().unwrap().hostname == "copy");
    drop(record);
}

fn is_frozen(client: &Client) -> bool {
    client.record.lock().unwrap().frozen
}

fn one_share() -> Attach {
    let share = Share { tag: "a".into(), target: "/a".into(), read_only: false };
    Attach { shares: vec![share], ..Attach::default() }
}

fn without_it() -> Detach {
    Detach { shares: one_share().shares, ..Detach::default() }
}

/// Neither a command nor a file that would miss the shares.
fn assert_nothing_runs(client: &mut Client) {
    assert!(is_frozen(client));
    let failure = client.sh("echo too early");
    assert!(failure.failure().message.contains("attach comes first"), "{failure:?}");
    let (header, _) = client.act(&Action::Exec { command: "true".into() });
    assert!(header.error.unwrap().contains("attach comes first"));
    let put = Open::Put(Put { root: RootName::default(), path: "/a/early".into(), mode: 0o644 });
    let id = client.request(put, b"");
    assert!(matches!(client.event(id).0, Event::Failed(_)));
    assert!(is_frozen(client));
}

#[test]
fn a_workload_stands_still_as_long_as_its_shares_are_gone() {
    let mut client = Client::booted();
    let attach = || RootRequest::Attach(one_share());
    assert!(client.ask(RootRequest::Detach(without_it()), b"").is_err(), "there is none");
    assert!(!is_frozen(&client), "what has its shares goes on");
    client.ask(attach(), b"").unwrap();
    client.ask(RootRequest::Detach(without_it()), b"").unwrap();
    assert_nothing_runs(&mut client);
    client.ask(MachineRequest::Hold, b"").unwrap();
    client.ask(MachineRequest::Release { realtime_ns: 1 }, b"").unwrap();
    assert_nothing_runs(&mut client);
    assert!(client.ask(RootRequest::Detach(without_it()), b"").is_err(), "it is gone already");
    assert!(client.ask(attach(), b"-----BEGIN CERTIFICATE-----").is_err(), "not announced");
    assert_nothing_runs(&mut client);
    client.ask(attach(), b"").unwrap();
    assert!(!is_frozen(&client));
    assert_eq!(client.sh("echo here").text(), "here\n");
}

#[test]
fn a_copy_that_is_to_have_shares_goes_on_with_them() {
    let mut client = Client::booted();
    client.ask(RootRequest::Attach(one_share()), b"").unwrap();
    client.ask(RootRequest::Detach(without_it()), b"").unwrap();
    greeted_again(&mut client, vec![RootName::default()]);
    assert_nothing_runs(&mut client);
    client.ask(RootRequest::Attach(one_share()), b"").unwrap();
    assert!(!is_frozen(&client));
    assert_eq!(client.sh("echo here").text(), "here\n");
    // And one that is to have none does not wait for any.
    client.ask(RootRequest::Detach(without_it()), b"").unwrap();
    copied(&mut client);
}

#[test]
fn a_host_that_goes_on_gets_everything() {
    let mut client = Client::booted();
    let id = client.shell(Exec { stdin: true, ..Exec::default() }, "echo before; read x; echo after");
    client.started(id);
    client.ask(MachineRequest::Hold, b"").unwrap();
    assert!(client.record.lock().unwrap().frozen, "what runs stands still before the host is told");
    client.send(id, Input::Data, b"x\n");
    let ping = client.request(MachineRequest::Ping, b"");
    client.ask(MachineRequest::Release { realtime_ns: 1 }, b"").unwrap();
    client.answer(ping).unwrap();
    assert!(!client.record.lock().unwrap().frozen);
    assert_eq!(client.finish(id).text(), "before\nafter\n");
    client.ask(MachineRequest::Release { realtime_ns: 1 }, b"").expect("nothing is held");
}

#[test]
fn a_new_host_hears_nothing_of_the_old_ones_commands_and_they_go_on() {
    let mut client = Client::booted();
    let path = client.root.path().display().to_string();
    // More than a window and a pipe hold, to nobody: it must not wait, and not fail.
    let blocks = 4 * WINDOW / 65536;
    let noisy = format!("dd if=/dev/zero bs=65536 count={blocks} 2>/dev/null && echo ok > {path}/noisy");
    let noisy = client.shell(Exec::default(), &noisy);
    let reader = format!("cat > /dev/null; echo ok > {path}/reader");
    let reader = client.shell(Exec { stdin: true, ..Exec::default() }, &reader);
    client.started(noisy);
    client.started(reader);
    copied(&mut client);
    // Under the same numbers as theirs.
    for file in ["noisy", "reader"] {
        let wait = format!("until [ -s {path}/{file} ]; do sleep 0.01; done; cat {path}/{file}");
        assert_eq!(client.sh(&wait).text(), "ok\n");
    }
    assert_eq!(client.sh("echo mine").text(), "mine\n");
    client.leave().unwrap();
}

#[test]
fn the_file_of_a_long_command_outlives_that_of_the_other_hosts() {
    let mut client = Client::booted();
    let path = client.root.path().display().to_string();
    let long = |line: &str| format!("{line}\n# {}", "x".repeat(1 << 20));
    let old = client.shell(Exec::default(), &long(&format!("until [ -e {path}/go ]; do sleep 0.01; done")));
    let pid = client.started(old);
    copied(&mut client);
    while client.last_id + 1 < old {
        client.ask(MachineRequest::Ping, b"").unwrap();
    }
    let mine = client.shell(
        Exec { stdin: true, ..Exec::default() },
        &long("echo ready; read x; [ -e \"$0\" ] && echo there"),
    );
    assert_eq!(mine, old, "under the same number");
    client.started(mine);
    assert_eq!(client.event(mine).1, b"ready\n");
    std::fs::write(client.root.path().join("go"), "").unwrap();
    let gone = client.shell(Exec::default(), &format!("while [ -e /proc/{pid} ]; do sleep 0.01; done"));
    assert_eq!(client.finish(gone).code(), 0);
    // The other's file is removed before this is answered.
    client.ask(MachineRequest::Ping, b"").unwrap();
    client.send(mine, Input::Data, b"x\n");
    assert_eq!(client.finish(mine).text(), "there\n");
}

#[test]
fn unfinished_transfers_are_given_up() {
    let mut client = Client::booted();
    let id =
        client.request(Open::Put(Put { root: RootName::default(), path: "/half".into(), mode: 0o644 }), b"");
    client.send(id, Input::Data, b"half");
    copied(&mut client);
    client.send(id, Input::Data, b"of nothing");
    client.send(id, Input::Eof, b"");
    client.ask(MachineRequest::Ping, b"").unwrap();
    assert_eq!(std::fs::read_dir(client.root.path()).unwrap().count(), 0);
}

#[test]
fn shares_come_and_go_and_are_checked() {
    let share = |tag: &str, target: &str| Share { tag: tag.into(), target: target.into(), read_only: false };
    let attach = |shares: &[Share]| Attach { shares: shares.to_vec(), ..Attach::default() };
    let detach = |shares: &[Share]| Detach { shares: shares.to_vec(), ..Detach::default() };
    let mut client = Client::raw();
    let early = client.ask(RootRequest::Attach(attach(&[])), b"");
    assert!(early.unwrap_err().contains("hello comes first"));
    let mut client = Client::booted();
    let (one, two) = (share("a", "/a"), share("b", "/b"));
    client.ask(RootRequest::Attach(attach(&[one.clone(), two.clone()])), b"").unwrap();
    client.ask(RootRequest::Detach(detach(std::slice::from_ref(&one))), b"").unwrap();
    assert_eq!(client.record.lock().unwrap().attached, [two]);
    client.ask(RootRequest::Attach(attach(&[])), b"").unwrap();
    for bad in [share("a b", "/a"), share("a", "a"), share("a", "/a/../b")] {
        assert!(client.ask(RootRequest::Attach(attach(std::slice::from_ref(&bad))), b"").is_err(), "{bad:?}");
        assert!(client.ask(RootRequest::Detach(detach(&[bad])), b"").is_err());
    }
    assert!(
        client.ask(RootRequest::Attach(attach(&[])), b"-----BEGIN CERTIFICATE-----").is_err(),
        "not announced"
    );
    let trust = Attach { ca_bundle: true, ..Attach::default() };
    client.ask(RootRequest::Attach(trust), b"-----BEGIN CERTIFICATE-----").unwrap();
}
