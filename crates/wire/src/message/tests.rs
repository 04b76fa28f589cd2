use proptest::prelude::*;

use super::*;
use crate::desktop::Action;
use crate::devices::Share;
use crate::frame;
use crate::handshake::PROTOCOL_VERSION;
use crate::machine::Boot;
use crate::root::{Attach, Base, Detach, Overlay, Root, RootName};
use crate::streams::{Exec, ExitStatus, Failure, FailureKind, Get, OutputName, Put, TtySize};

fn name(name: &str) -> RootName {
    RootName::new(name).unwrap()
}

fn share() -> Share {
    Share { tag: "src".into(), target: "/mnt/src".into(), read_only: true }
}

/// One header of each kind, and its text. A text that changes is another version of the protocol.
fn requests() -> Vec<(Request, &'static str)> {
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        realtime_ns: 7,
        hostname: "vm".into(),
        machine_id: "0".repeat(32),
        awaited: vec![name("a")],
    };
    let boot = Boot { disks: vec!["disk0".into()], vsock: true, network: false, savable: true };
    let root = Root {
        name: name("a"),
        overlay: Overlay::Scratch,
        shares: vec![share()],
        volumes: vec!["/data".into()],
        working_dir: Some("/srv".into()),
        ..Root::new(Base::rootfs_disk("squashfs"))
    };
    let exec =
        Exec { root: name("a"), argc: 1, tty: Some(TtySize { rows: 24, cols: 80 }), ..Exec::default() };
    vec![
        (
            hello.into(),
            r#"{"hello":{"protocol":6,"realtime_ns":7,"hostname":"vm","machine_id":"00000000000000000000000000000000","awaited":["a"]}}"#,
        ),
        (
            MachineRequest::Boot(boot).into(),
            r#"{"machine":{"boot":{"disks":["disk0"],"vsock":true,"network":false,"savable":true}}}"#,
        ),
        (MachineRequest::Ping.into(), r#"{"machine":"ping"}"#),
        (MachineRequest::Sync.into(), r#"{"machine":"sync"}"#),
        (MachineRequest::Hold.into(), r#"{"machine":"hold"}"#),
        (MachineRequest::Release { realtime_ns: 9 }.into(), r#"{"machine":{"release":{"realtime_ns":9}}}"#),
        (
            RootRequest::Make(root).into(),
            r#"{"root":{"make":{"name":"a","base":{"block":{"serial":"rootfs","fstype":"squashfs"}},"overlay":"scratch","shares":[{"tag":"src","target":"/mnt/src","read_only":true}],"volumes":["/data"],"working_dir":"/srv","ca_bundle":false,"switch_root":false}}}"#,
        ),
        (
            RootRequest::Attach(Attach { shares: vec![share()], ..Attach::default() }).into(),
            r#"{"root":{"attach":{"root":"main","shares":[{"tag":"src","target":"/mnt/src","read_only":true}],"ca_bundle":false,"vsock":false}}}"#,
        ),
        (
            RootRequest::Detach(Detach { root: name("a"), shares: Vec::new() }).into(),
            r#"{"root":{"detach":{"root":"a","shares":[]}}}"#,
        ),
        (
            Open::Exec(exec).into(),
            r#"{"open":{"exec":{"root":"a","argc":1,"envc":0,"shell":false,"tty":{"rows":24,"cols":80},"stdin":false,"init":false}}}"#,
        ),
        (
            Open::Put(Put { root: name("a"), path: "/x".into(), mode: 0o644 }).into(),
            r#"{"open":{"put":{"root":"a","path":"/x","mode":420}}}"#,
        ),
        (
            Open::Get(Get { root: name("a"), path: "/x".into() }).into(),
            r#"{"open":{"get":{"root":"a","path":"/x"}}}"#,
        ),
        (Input::Data.into(), r#"{"input":"data"}"#),
        (Input::Eof.into(), r#"{"input":"eof"}"#),
        (Input::Credit { bytes: 5 }.into(), r#"{"input":{"credit":{"bytes":5}}}"#),
        (Input::Resize(TtySize { rows: 1, cols: 2 }).into(), r#"{"input":{"resize":{"rows":1,"cols":2}}}"#),
        (Input::Unread { output: OutputName::Stderr }.into(), r#"{"input":{"unread":{"output":"stderr"}}}"#),
        (Input::Signal { signal: 9 }.into(), r#"{"input":{"signal":{"signal":9}}}"#),
        (
            DesktopRequest { root: name("a"), action: Action::Wait { ms: 3 } }.into(),
            r#"{"desktop":{"root":"a","action":{"action":"wait","ms":3}}}"#,
        ),
    ]
}

fn replies() -> Vec<(Reply, &'static str)> {
    let failure = Failure { kind: FailureKind::NotFound, message: "x".into() };
    vec![
        (Reply::Done, r#""done""#),
        (Reply::Refused("no".into()), r#"{"refused":"no"}"#),
        (Reply::Desktop(ResponseHeader::ok()), r#"{"desktop":{"ok":true,"payload_len":0}}"#),
        (Reply::Event(Event::Started { pid: 2 }), r#"{"event":{"started":{"pid":2}}}"#),
        (Reply::Event(Event::Stdout), r#"{"event":"stdout"}"#),
        (Reply::Event(Event::Stderr), r#"{"event":"stderr"}"#),
        (Reply::Event(Event::Data), r#"{"event":"data"}"#),
        (Reply::Event(Event::File { size: 1, mode: 0o600 }), r#"{"event":{"file":{"size":1,"mode":384}}}"#),
        (Reply::Event(Event::Credit { bytes: 4 }), r#"{"event":{"credit":{"bytes":4}}}"#),
        (Reply::Event(Event::Consumed { bytes: 5 }), r#"{"event":{"consumed":{"bytes":5}}}"#),
        (Reply::Event(Event::Exited(ExitStatus::Signal(9))), r#"{"event":{"exited":{"signal":9}}}"#),
        (Reply::Event(Event::Done), r#"{"event":"done"}"#),
        (Reply::Event(Event::Failed(failure)), r#"{"event":{"failed":{"kind":"not_found","message":"x"}}}"#),
    ]
}

#[test]
fn the_text_of_every_header_is_part_of_the_protocol() {
    for (request, text) in requests() {
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(Request::parse(text.as_bytes()).unwrap(), request);
    }
    for (reply, text) in replies() {
        assert_eq!(serde_json::to_string(&reply).unwrap(), text);
        assert_eq!(Reply::parse(text.as_bytes()).unwrap(), reply);
    }
}

#[test]
fn what_is_not_known_is_refused() {
    for header in [
        "{}",
        "[]",
        "{",
        "",
        r#""ping""#,
        r#"{"machine":"format_disk"}"#,
        r#"{"machine":"ping","input":"eof"}"#,
        r#"{"machine":{"release":{"realtime_ns":1,"quietly":true}}}"#,
        r#"{"open":{"exec":{"root":"main","argc":1,"envc":0,"sudo":true}}}"#,
        r#"{"open":{"exec":{"argc":1,"envc":0}}}"#,
        r#"{"open":{"get":{"root":"../main","path":"/x"}}}"#,
        r#"{"root":{"make":{"name":"","base":{"share":{"tag":"rootfs"}},"overlay":"tmpfs"}}}"#,
        r#"{"input":{"credit":{"bytes":-1}}}"#,
        r#"{"desktop":{"root":"main","action":{"action":"fly"}}}"#,
        r#"{"desktop":{"action":{"action":"screenshot"}}}"#,
    ] {
        assert!(Request::parse(header.as_bytes()).is_err(), "{header}");
    }
    for header in ["{}", r#""refused""#, r#"{"event":"exploded"}"#, r#"{"done":{"twice":true}}"#] {
        assert!(Reply::parse(header.as_bytes()).is_err(), "{header}");
    }
}

#[test]
fn an_answer_of_the_desktop_knows_its_payload() {
    let bytes = encode_response(1, &ResponseHeader::ok(), b"png").unwrap();
    let frame = frame::read_frame(&mut &bytes[..]).unwrap().unwrap();
    let header = ResponseHeader { payload_len: 3, ..ResponseHeader::ok() };
    assert_eq!(Reply::parse(&frame.header).unwrap(), Reply::Desktop(header));
    assert_eq!(frame.payload, b"png");
}

/// A header that is known, with some bytes of it replaced.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let texts = requests().into_iter().map(|(_, text)| text).chain(replies().into_iter().map(|(_, t)| t));
    let texts: Vec<&'static str> = texts.collect();
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (prop::sample::select(texts), damage).prop_map(|(text, damage)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    /// Nothing of a hostile header gets lost or is made up: what is parsed says the same when it is written again.
    #[test]
    fn whatever_is_parsed_survives_being_written(header in damaged()) {
        if let Ok(request) = Request::parse(&header) {
            let text = serde_json::to_vec(&request).unwrap();
            prop_assert_eq!(Request::parse(&text).unwrap(), request);
        }
        if let Ok(reply) = Reply::parse(&header) {
            let text = serde_json::to_vec(&reply).unwrap();
            prop_assert_eq!(Reply::parse(&text).unwrap(), reply);
        }
    }

    #[test]
    fn garbage_is_no_header(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Request::parse(&bytes).is_err() && Reply::parse(&bytes).is_err());
    }
}
