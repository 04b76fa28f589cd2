//! Files in and out, and the requests that are not streams.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod client;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use client::{Client, Output, feed, pattern};
use vmette_wire::streams::{Exec, Failure, FailureKind, Put, WINDOW};
use vmette_wire::{Action, Event, Input, MachineRequest, Open, RootName};

fn put(client: &mut Client, path: &str, mode: u32, data: &[u8]) -> Event {
    let id = client.request(Open::Put(Put { root: RootName::default(), path: path.into(), mode }), b"");
    feed(client, id, data, &mut Output::default());
    loop {
        match client.event(id).0 {
            Event::Credit { .. } => {}
            last => return last,
        }
    }
}

fn get(client: &mut Client, path: &str) -> Result<(u64, u32, Vec<u8>), Failure> {
    let id = client.request(Open::Get(client::get(path)), b"");
    let (mut file, mut data) = (None, Vec::new());
    loop {
        let (event, payload) = client.event(id);
        match event {
            Event::File { size, mode } => file = Some((size, mode)),
            Event::Data => {
                client.send(id, Input::Credit { bytes: u32::try_from(payload.len()).unwrap() }, b"");
                data.extend_from_slice(&payload);
            }
            Event::Done => {
                let (size, mode) = file.unwrap();
                return Ok((size, mode, data));
            }
            Event::Failed(failure) => return Err(failure),
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn a_file_goes_in_and_comes_out_as_it_was() {
    let mut client = Client::booted();
    let data = pattern(3 << 20);
    assert_eq!(put(&mut client, "/new/folder/file", 0o750, &data), Event::Done);
    let path = client.root.path().join("new/folder/file");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o750);
    let (size, mode, read) = get(&mut client, "/new/folder/file").unwrap();
    assert_eq!((size, mode), (3 << 20, 0o750));
    assert!(read == data);
    assert_eq!(put(&mut client, "/new/folder/file", 0o600, b""), Event::Done);
    assert_eq!(get(&mut client, "/new/folder/file").unwrap(), (0, 0o600, Vec::new()));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a temporary file is left");
}

#[test]
fn links_lead_nowhere_outside_of_the_root() {
    let mut client = Client::booted();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    symlink(outside.path(), client.root.path().join("out")).unwrap();
    assert_eq!(get(&mut client, "/out/secret").unwrap_err().kind, FailureKind::NotFound);
    assert!(matches!(put(&mut client, "/out/planted", 0o644, b"x"), Event::Failed(_)));
    assert!(!outside.path().join("planted").exists());
    for path in ["/../etc/passwd", "etc/passwd", "/", "/a/", ""] {
        assert!(
            matches!(put(&mut client, path, 0o644, b""), Event::Failed(f) if f.kind == FailureKind::Invalid)
        );
    }
    assert_eq!(get(&mut client, "/a/../b").unwrap_err().kind, FailureKind::Invalid);
}

#[test]
fn only_regular_files_are_read_and_replaced() {
    let mut client = Client::booted();
    let fifo = client.root.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    fs::create_dir(client.root.path().join("dir")).unwrap();
    for path in ["/fifo", "/dir"] {
        assert_eq!(get(&mut client, path).unwrap_err().kind, FailureKind::Invalid, "{path}");
    }
    assert!(
        matches!(put(&mut client, "/dir", 0o644, b""), Event::Failed(f) if f.kind == FailureKind::Invalid)
    );
    assert!(
        matches!(put(&mut client, "/x", 0o10000, b""), Event::Failed(f) if f.kind == FailureKind::Invalid)
    );
    assert_eq!(get(&mut client, "/missing").unwrap_err().kind, FailureKind::NotFound);
}

#[test]
fn a_transfer_that_is_cut_off_leaves_nothing() {
    let mut client = Client::booted();
    fs::write(client.root.path().join("kept"), "old").unwrap();
    let id =
        client.request(Open::Put(Put { root: RootName::default(), path: "/kept".into(), mode: 0o644 }), b"");
    client.send(id, Input::Data, b"new");
    assert!(matches!(client.event(id).0, Event::Credit { bytes: 3 }));
    let root = client.root.path().to_owned();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    // The end of the stream is the end of the agent's state.
    assert!(vmette_wire::frame::read_frame(&mut client.stream).unwrap().is_none());
    assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "old");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
}

/// One more than there is room for at once.
const OFTEN: usize = 257;

#[test]
fn transfers_that_the_host_gives_up_leave_nothing_and_make_room() {
    let mut client = Client::booted();
    fs::write(client.root.path().join("big"), pattern(2 * WINDOW as usize)).unwrap();
    for i in 0..OFTEN {
        let open = match i % 32 {
            // Its window is full by the time that it is given up.
            0 => Open::Get(client::get("/big")),
            _ => Open::Put(Put { root: RootName::default(), path: "/half".into(), mode: 0o644 }),
        };
        let puts = matches!(open, Open::Put(_));
        let id = client.request(open, b"");
        if puts {
            client.send(id, Input::Data, b"half");
        }
        client.send(id, Input::Signal { signal: 9 }, b"");
        // May have been on its way.
        client.send(id, Input::Data, b"half");
        client.send(id, Input::Eof, b"");
        let last = loop {
            let event = client.event(id).0;
            if event.is_last() {
                break event;
            }
        };
        assert!(matches!(&last, Event::Failed(failure) if failure.message.contains("given")), "{last:?}");
        client.pending.clear();
    }
    let left: Vec<_> = fs::read_dir(client.root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["big"]);
    assert_eq!(client.sh("echo still here").text(), "still here\n");
}

#[test]
fn a_download_stops_at_the_window_until_it_is_confirmed() {
    let mut client = Client::booted();
    fs::write(client.root.path().join("big"), pattern(3 << 20)).unwrap();
    let id = client.request(Open::Get(client::get("/big")), b"");
    let mut received = 0;
    while received < WINDOW {
        received += u32::try_from(client.event(id).1.len()).unwrap();
    }
    assert_eq!(received, WINDOW);
    client.ask(MachineRequest::Ping, b"").unwrap();
    client.send(id, Input::Credit { bytes: WINDOW }, b"");
    while received < 2 * WINDOW {
        received += u32::try_from(client.event(id).1.len()).unwrap();
    }
}

#[test]
fn waits_are_deferred_and_bounded() {
    let mut client = Client::booted();
    let begun = Instant::now();
    let slow = client.fresh_id();
    client.send(slow, client::desktop(Action::Wait { ms: 300 }), b"");
    let fast = client.fresh_id();
    client.send(fast, client::desktop(Action::Wait { ms: 0 }), b"");
    assert!(client.desktop(fast).0.ok);
    assert!(client.desktop(slow).0.ok);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(!client.act(&Action::Wait { ms: u64::MAX }).0.ok);
    let ids: Vec<u32> = (0..17).map(|_| client.fresh_id()).collect();
    for id in &ids {
        client.send(*id, client::desktop(Action::Wait { ms: 50_000 }), b"");
    }
    let refused = client.desktop(ids[16]).0;
    assert!(refused.error.unwrap().contains("16"));
}

#[test]
fn captured_commands_bring_output_and_status() {
    let mut client = Client::booted();
    let capture = |command: &str, timeout_ms| Action::ExecCapture { command: command.into(), timeout_ms };
    let (header, output) = client.act(&capture("echo a; echo b >&2; exit 3", None));
    assert_eq!((header.ok, header.exit_code, output.as_slice()), (true, Some(3), &b"a\nb\n"[..]));
    let (header, output) = client.act(&capture("yes | head -c 300000", None));
    assert_eq!(header.exit_code, Some(0));
    assert!(output.ends_with(b"\n[output truncated at 262144 bytes]\n"));
    assert_eq!(output.len(), 262_144 + "\n[output truncated at 262144 bytes]\n".len());
    let (header, output) = client.act(&capture("yes | head -c 262144", None));
    assert_eq!((header.exit_code, output.len()), (Some(0), 262_144), "nothing is cut, nothing says so");
    assert_eq!(client.act(&capture("kill -9 $$", None)).0.exit_code, None);
}

#[test]
fn a_captured_command_that_takes_too_long_is_killed_with_its_group() {
    let mut client = Client::booted();
    let begun = Instant::now();
    let command = "sleep 600 & echo $!; wait".to_owned();
    let (header, output) = client.act(&Action::ExecCapture { command, timeout_ms: Some(3000) });
    assert!(header.ok && header.exit_code.is_none());
    assert!(begun.elapsed() < Duration::from_secs(20));
    let pid = String::from_utf8(output).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        assert_eq!(
            rustix::event::poll(&mut ended, Some(&patience)),
            Ok(1),
            "the group's other process lives on"
        );
    }
}

#[test]
fn background_commands_run_and_desktop_actions_are_refused() {
    let mut client = Client::booted();
    let flag = client.root.path().join("flag");
    rustix::fs::mknodat(rustix::fs::CWD, &flag, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let command = format!("echo done > {}", flag.display());
    assert!(client.act(&Action::Exec { command }).0.ok);
    assert_eq!(fs::read_to_string(&flag).unwrap(), "done\n");
    let (header, _) = client.act(&Action::Screenshot);
    assert_eq!(header.error.unwrap(), "action `screenshot` needs a desktop, and this machine has none");
    client.ask(MachineRequest::Sync, b"").unwrap();
    let id = client.shell(Exec::default(), "echo still here");
    assert_eq!(client.finish(id).text(), "still here\n");
}
