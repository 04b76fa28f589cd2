//! Commands, through the agent's whole protocol, on the host instead of in a machine.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod client;

use std::time::{Duration, Instant};

use client::{Client, Output, feed, pattern};
use vmette_wire::streams::{Exec, ExitStatus, FailureKind, OutputName, TtySize, WINDOW};
use vmette_wire::{Event, Input, MachineRequest};

fn exec() -> Exec {
    Exec::default()
}

#[test]
fn output_and_status_come_back_apart() {
    let mut client = Client::booted();
    let output = client.sh("echo out; echo err >&2; exit 7");
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.code(), 7);
    assert_eq!(client.run(&["true"]).code(), 0);
    client.leave().unwrap();
}

#[test]
fn a_command_that_does_not_exist_is_told_from_one_that_cannot_run() {
    let mut client = Client::booted();
    let missing = client.run(&["no-such-command-here"]);
    assert_eq!(missing.failure().kind, FailureKind::NotFound);
    assert!(missing.failure().message.contains("no-such-command-here"));
    assert_eq!(client.run(&["/nowhere/at/all"]).failure().kind, FailureKind::NotFound);
    assert_eq!(client.run(&[""]).failure().kind, FailureKind::NotFound);
    assert_eq!(client.run(&["/etc/passwd"]).failure().kind, FailureKind::NotPermitted);
    assert_eq!(client.run(&["/etc"]).failure().kind, FailureKind::NotPermitted);
}

#[test]
fn signals_reach_the_group_and_show_in_the_status() {
    let mut client = Client::booted();
    assert_eq!(client.sh("kill -9 $$").end, Some(Ok(ExitStatus::Signal(9))));
    let id = client.shell(exec(), "sleep 600 & wait");
    client.started(id);
    client.send(id, Input::Signal { signal: 0x7fff }, b"");
    client.send(id, Input::Signal { signal: 15 }, b"");
    assert_eq!(client.finish(id).end, Some(Ok(ExitStatus::Signal(15))));
    // Nobody is left behind to hear it.
    client.send(id, Input::Signal { signal: 15 }, b"");
    client.ask(MachineRequest::Ping, b"").unwrap();
}

#[test]
fn without_input_stdin_is_empty() {
    assert_eq!(Client::booted().run(&["cat"]).code(), 0);
}

#[test]
fn megabytes_go_through_a_command_within_the_window() {
    let mut client = Client::booted();
    let data = pattern(5 << 20);
    let id = client.exec(Exec { stdin: true, ..exec() }, &[b"cat"], &[]);
    let mut output = Output::default();
    feed(&mut client, id, &data, &mut output);
    let rest = client.finish(id);
    output.stdout.extend_from_slice(&rest.stdout);
    assert_eq!(rest.code(), 0);
    assert!(output.stdout == data, "{} of {} bytes", output.stdout.len(), data.len());
}

#[test]
fn input_that_nobody_reads_is_confirmed_when_the_command_closes_it() {
    let mut client = Client::booted();
    let id = client.shell(Exec { stdin: true, ..exec() }, "exec <&-; read -r x < /dev/null; sleep 600");
    client.started(id);
    let mut confirmed = 0;
    client.send(id, Input::Data, &[0; 64 << 10]);
    client.send(id, Input::Data, &[0; 64 << 10]);
    while confirmed < 128 << 10 {
        match client.event(id).0 {
            Event::Credit { bytes } => confirmed += bytes,
            other => panic!("unexpected {other:?}"),
        }
    }
    client.send(id, Input::Signal { signal: 9 }, b"");
    client.finish(id);
}

#[test]
fn the_end_of_a_command_tells_how_much_of_its_input_was_read() {
    let mut client = Client::booted();
    // `dd` reads a block at a time, and nothing ahead.
    let cases: [(&str, bool, u64); 5] = [
        ("true", true, 0),
        ("true", false, 0),
        ("dd bs=5 count=1 of=/dev/null 2>&1", true, 5),
        ("dd bs=5 count=1 of=/dev/null 2>&1; exec <&-", false, 5),
        ("cat", true, 100_000),
    ];
    for (line, to_the_end, read) in cases {
        let id = client.shell(Exec { stdin: true, ..exec() }, line);
        client.started(id);
        client.send(id, Input::Data, &[b'x'; 50_000]);
        client.send(id, Input::Data, &[b'x'; 50_000]);
        if to_the_end {
            client.send(id, Input::Eof, b"");
        }
        assert_eq!(client.finish(id).consumed, Some(read), "{line} {to_the_end}");
    }
    assert_eq!(client.sh("true").consumed, None, "without a stdin there is nothing to tell");
}

#[test]
fn output_stops_at_the_window_until_it_is_confirmed() {
    let mut client = Client::booted();
    let id = client.shell(exec(), "yes x | head -c 3000000; yes y | head -c 3000000 >&2");
    let mut received = 0;
    while received < WINDOW {
        let (event, payload) = client.event(id);
        match event {
            Event::Started { .. } => {}
            Event::Stdout | Event::Stderr => received += u32::try_from(payload.len()).unwrap(),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(received, WINDOW, "not a byte more than the window");
    // The agent is not stuck, and still has not sent more when it answers this.
    for _ in 0..20 {
        client.ask(MachineRequest::Ping, b"").unwrap();
    }
    client.send(id, Input::Credit { bytes: WINDOW }, b"");
    let rest = client.finish(id);
    assert_eq!(received as usize + rest.stdout.len() + rest.stderr.len(), 6_000_000);
    assert_eq!(rest.code(), 0);
}

#[test]
fn pings_are_answered_between_two_noisy_commands() {
    let mut client = Client::booted();
    let first = client.shell(exec(), "exec yes first");
    let second = client.shell(exec(), "exec yes second >&2");
    let mut seen = [0usize; 2];
    let mut ping = client.request(MachineRequest::Ping, b"");
    let mut answered = 0;
    while answered < 50 {
        for (i, id) in [first, second].into_iter().enumerate() {
            let (event, payload) = client.event(id);
            if matches!(event, Event::Stdout | Event::Stderr) {
                seen[i] += payload.len();
                client.send(id, Input::Credit { bytes: u32::try_from(payload.len()).unwrap() }, b"");
            }
        }
        client.answer(ping).unwrap();
        answered += 1;
        ping = client.request(MachineRequest::Ping, b"");
    }
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
    for id in [first, second] {
        client.send(id, Input::Signal { signal: 9 }, b"");
        assert_eq!(client.finish(id).end, Some(Ok(ExitStatus::Signal(9))));
    }
}

#[test]
fn a_child_that_is_left_behind_does_not_hold_the_end_back() {
    let mut client = Client::booted();
    let begun = Instant::now();
    let output = client.sh("setsid sleep 30 & echo $!; echo done");
    assert!(begun.elapsed() < Duration::from_secs(20), "it waited for the child");
    assert_eq!(output.code(), 0);
    let pid = output.text().lines().next().unwrap().to_owned();
    assert!(output.text().ends_with("done\n"));
    client.sh(&format!("kill -9 {pid}"));
}

#[test]
fn a_terminal_has_its_size_and_hears_of_a_new_one() {
    let mut client = Client::booted();
    let tty = Some(TtySize { rows: 31, cols: 97 });
    let line = "stty size; tty >/dev/null && echo tty; trap 'stty size; exit 3' WINCH; echo ready; \
                while :; do sleep 0.1; done";
    let id = client.shell(Exec { tty, stdin: true, ..exec() }, line);
    let mut text = String::new();
    let mut resized = false;
    let status = loop {
        let (event, payload) = client.event(id);
        text.push_str(&String::from_utf8_lossy(&payload));
        match event {
            Event::Exited(status) => break status,
            Event::Stderr => panic!("a terminal has no stderr"),
            _ => {}
        }
        if !resized && text.contains("ready") {
            resized = true;
            client.send(id, Input::Resize(TtySize { rows: 5, cols: 6 }), b"");
        }
    };
    assert_eq!(text, "31 97\r\ntty\r\nready\r\n5 6\r\n");
    assert_eq!(status, ExitStatus::Code(3));
}

#[test]
fn whoever_writes_to_what_nobody_reads_is_told() {
    let mut client = Client::booted();
    // The shell ignores the signal, as Python does, and so sees the error; the other output stays.
    let line = "trap '' PIPE; echo first; read line; until ! echo more 2>/dev/null; do :; done; echo told >&2; exit 9";
    let id = client.shell(Exec { stdin: true, ..exec() }, line);
    client.started(id);
    assert_eq!(client.event(id), (Event::Stdout, b"first\n".to_vec()));
    client.send(id, Input::Unread { output: OutputName::Stdout }, b"");
    client.send(id, Input::Data, b"\n");
    let output = client.finish(id);
    assert_eq!((output.code(), output.stderr.as_slice()), (9, b"told\n".as_slice()));

    let id = client.shell(exec(), "exec yes");
    client.started(id);
    client.send(id, Input::Unread { output: OutputName::Stdout }, b"");
    assert_eq!(client.finish(id).end, Some(Ok(ExitStatus::Signal(libc::SIGPIPE))));
}

#[test]
fn the_end_of_input_on_a_terminal_is_typed() {
    let mut client = Client::booted();
    let tty = Some(TtySize { rows: 24, cols: 80 });
    for (typed, shown) in [("hello\n", "hello\r\nhello\r\n"), ("he", "hehe")] {
        let id = client.exec(Exec { tty, stdin: true, ..exec() }, &[b"cat"], &[]);
        client.started(id);
        client.send(id, Input::Data, typed.as_bytes());
        client.send(id, Input::Eof, b"");
        let output = client.finish(id);
        assert_eq!(output.code(), 0);
        assert_eq!(output.text().replace("^D\u{8}\u{8}", ""), shown);
    }
}

#[test]
fn environments_of_megabytes_arrive() {
    let mut client = Client::booted();
    let variables: Vec<Vec<u8>> =
        (0..60).map(|i| format!("V{i}={}", "x".repeat(50_000)).into_bytes()).collect();
    let variables: Vec<&[u8]> = variables.iter().map(Vec::as_slice).collect();
    let id = client.exec(exec(), &[b"sh", b"-c", b"echo ${#V0} ${#V59}; env | wc -c"], &variables);
    let text = client.finish(id).text();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("50000 50000"));
    assert!(lines.next().unwrap().trim().parse::<usize>().unwrap() > 3_000_000);
}

#[test]
fn an_argument_that_is_too_long_is_explained() {
    let mut client = Client::booted();
    let long = "x".repeat(200 << 10);
    let output = client.run(&["true", &long]);
    assert_eq!(output.failure().kind, FailureKind::Invalid);
    assert!(output.failure().message.contains("128 KiB"), "{}", output.failure().message);
}

#[test]
fn a_shell_command_of_a_megabyte_runs_and_leaves_no_file() {
    let mut client = Client::booted();
    let mut line = "true ".to_owned() + &"x".repeat(1 << 20);
    line.push_str("\nls -A \"$(dirname \"$0\")\"; echo ran; exit 4");
    let output = client.sh(&line);
    assert!(output.text().contains(".vmette-cmd-"), "{}", output.text());
    assert!(output.text().ends_with("ran\n"));
    assert_eq!(output.code(), 4);
    assert_eq!(std::fs::read_dir(client.root.path()).unwrap().count(), 0, "its file is still there");
}

#[test]
fn the_environment_has_defaults_and_later_entries_win() {
    let mut client = Client::booted();
    let id = client.exec(exec(), &[b"env"], &[b"A=1", b"A=2", b"HOME=/here", b"RAW=\xff"]);
    let output = client.finish(id);
    let mut lines: Vec<&[u8]> = output.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    lines.sort_unstable();
    let path = &b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"[..];
    assert_eq!(lines, [&b"A=2"[..], b"HOME=/here", path, b"RAW=\xff"]);
    let id = client.exec(exec(), &[b"env"], &[b"no equals sign"]);
    assert_eq!(client.finish(id).failure().kind, FailureKind::Invalid);
}

#[test]
fn the_working_directory_is_the_given_one_or_an_error() {
    let mut client = Client::booted();
    let run = |client: &mut Client, cwd: &str| {
        let id = client.exec(Exec { cwd: Some(cwd.into()), ..exec() }, &[b"pwd"], &[]);
        client.finish(id)
    };
    assert_eq!(run(&mut client, "/usr").text(), "/usr\n");
    assert_eq!(run(&mut client, "/no/such/place").failure().kind, FailureKind::Invalid);
    assert_eq!(run(&mut client, "/etc/passwd").failure().kind, FailureKind::Invalid);
    assert_eq!(run(&mut client, "usr").failure().kind, FailureKind::Invalid);
    assert_eq!(client.run(&["pwd"]).text(), "/\n");
}

#[test]
fn an_unknown_user_is_named() {
    let mut client = Client::booted();
    let id = client.exec(Exec { user: Some("ghost".into()), ..exec() }, &[b"true"], &[]);
    let output = client.finish(id);
    assert_eq!(output.failure().kind, FailureKind::Invalid);
    assert!(output.failure().message.contains("ghost"));
}

#[test]
fn a_user_has_its_ids_its_home_and_its_own_standard_streams() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: changing the user needs root");
        return;
    }
    let mut client = Client::booted();
    std::fs::create_dir(client.root.path().join("etc")).unwrap();
    std::fs::write(client.root.path().join("etc/passwd"), "web:x:4033:4034::/var:/bin/sh\n").unwrap();
    std::fs::write(client.root.path().join("etc/group"), "www:x:4034:\naudio:x:4029:web\n").unwrap();
    let line = "id -u; id -g; id -G; echo $HOME $USER; pwd; echo e > /dev/stderr";
    let id = client.shell(Exec { user: Some("web".into()), ..exec() }, line);
    let output = client.finish(id);
    assert_eq!(output.text(), "4033\n4034\n4034 4029\n/var web\n/var\n");
    assert_eq!(output.stderr, b"e\n", "a user may reopen what it was given");
}

#[test]
fn commands_end_with_the_connection() {
    let mut client = Client::booted();
    let mut pids = Vec::new();
    for _ in 0..3 {
        let id = client.shell(exec(), "trap '' TERM HUP; while :; do sleep 1; done");
        pids.push(client.started(id));
    }
    client.leave().unwrap();
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} lives on");
    }
}
