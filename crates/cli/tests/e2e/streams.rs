//! stdin, stdout and stderr are the command's own, byte for byte.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::machine::{Running, Vmette};

/// Most memory that vmette itself may take, whatever passes through it, in KiB.
const RESIDENT_MAX_KIB: u64 = 100 << 10;

/// Longest that a flood of output may take. With the wait for the end it is less than the five minutes after which
/// `.config/nextest.toml` has a test killed, so that a slow one says how far it came.
const FLOOD_LIMIT: Duration = Duration::from_secs(240);

#[test]
fn stdout_is_the_commands_and_nothing_else() {
    Vmette::script(r"printf 'a\r\nb\000\377\n\n'; echo mine >&2")
        .exits(0)
        .printed(b"a\r\nb\0\xff\n\n")
        .said(["mine\n"]);
    let console = Vmette::run(["--console", "--no-template", "--", "echo", "only this"]).exits(0);
    console.printed("only this\n").said(["Linux version"]);
}

#[test]
fn vmettes_own_lines_are_marked() {
    let outcome = Vmette::script("echo theirs >&2").exits(0);
    let (own, theirs): (Vec<&str>, Vec<&str>) =
        outcome.stderr.lines().partition(|line| line.starts_with("[vmette] "));
    assert_eq!(theirs, ["theirs"], "{outcome:?}");
    assert!(own.iter().any(|line| line.contains("ready in")), "{outcome:?}");
}

#[test]
fn quiet_leaves_stderr_to_the_command() {
    let outcome = Vmette::run(["--quiet", "--", "sh", "-c", "echo theirs >&2"]).exits(0);
    assert_eq!(outcome.stderr, "theirs\n");
    assert_eq!(Vmette::run(["-q", "--timeout", "1", "--", "sleep", "60"]).exits(124).stderr, "");
}

#[test]
fn stdin_reaches_the_command_unchanged() {
    let bytes: Vec<u8> = (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    Vmette::run(["--", "cat"]).input(bytes.clone()).exits(0).printed(&bytes);
    Vmette::run(["--", "wc", "-c"]).exits(0).printed("0\n");
}

#[test]
fn streams_that_do_not_block_are_waited_for() {
    let (reader, mut writer) = pipe().unwrap();
    do_not_block(&reader);
    let mut running = Vmette::script("echo up; cat").stdin(reader).start();
    // By now stdin was read, and had nothing.
    running.has_printed("up\n");
    writer.write_all(b"late\n").unwrap();
    running.has_printed("late\n");
    drop(writer);
    assert_eq!(running.wait().code, Some(0));

    let (mut reader, writer) = pipe().unwrap();
    // Full after each piece of the output.
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    do_not_block(&writer);
    let running = Vmette::script("head -c 300000 /dev/zero; exit 3").stdout(writer).start();
    let mut printed = Vec::new();
    reader.read_to_end(&mut printed).unwrap();
    let outcome = running.wait();
    assert_eq!((outcome.code, printed.len()), (Some(3), 300_000), "{outcome:?}");
}

fn do_not_block(stream: &impl AsFd) {
    rustix::fs::fcntl_setfl(stream, rustix::fs::OFlags::NONBLOCK).unwrap();
}

#[test]
fn a_stdin_that_cannot_be_read_is_an_end_that_is_told() {
    let outcome = Vmette::run(["-q", "--", "cat"]).stdin(fs::File::open("/").unwrap()).exits(0);
    outcome.printed("").said(["error: stdin: Is a directory"]);
}

#[test]
fn a_command_may_ignore_its_stdin() {
    Vmette::run(["--", "true"]).input(vec![b'x'; 8 << 20]).exits(0);
    Vmette::run(["--no-stdin", "--", "cat"]).input("not for it").exits(0).printed("");
}

/// As in `while read x; do vmette run -- …; done < list`: all of them have one open file.
#[test]
fn a_file_on_stdin_goes_on_where_the_command_has_stopped_reading() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"first\nsecond\nthird\n").unwrap();
    file.rewind().unwrap();
    let mut place_after = |command: &[&str], printed: &str| {
        let mut run = vec!["-q", "--"];
        run.extend(command);
        Vmette::run(run).stdin(file.try_clone().unwrap()).exits(0).printed(printed);
        file.stream_position().unwrap()
    };
    assert_eq!(place_after(&["true"], ""), 0);
    assert_eq!(place_after(&["sh", "-c", "read line; echo $line"], "first\n"), 6);
    assert_eq!(place_after(&["cat"], "second\nthird\n"), 19);
}

#[test]
fn variables_have_any_name_and_any_bytes() {
    let value = OsStr::from_bytes(b"a-b=\xff\xfe");
    let args = ["-q", "-e", "discovery.type=single-node", "-e"].map(OsStr::new);
    let outcome = Vmette::run(args.into_iter().chain([value]).chain(["--", "env"].map(OsStr::new))).exits(0);
    for line in [&b"discovery.type=single-node"[..], value.as_bytes()] {
        assert!(outcome.stdout.split(|b| *b == b'\n').any(|found| found == line), "{outcome:?}");
    }
}

#[test]
fn long_commands_and_environments_arrive_whole() {
    let long = "x".repeat(1 << 20);
    // One argument of Linux has at most 128 KiB, so a host's shell could not pass it in one piece either.
    let parts: Vec<String> = (0..10).map(|i| format!("{i}{}", &long[..100_000])).collect();
    let mut args =
        vec!["run".to_owned(), "--".into(), "sh".into(), "-c".into(), r#"printf %s "$@" | wc -c"#.into()];
    args.push("sh".into());
    args.extend(parts);
    Vmette::new(args).exits(0).printed("1000010\n");
    let value = &long[..120_000];
    Vmette::run(["-e", &format!("LONG={value}"), "--", "sh", "-c", "echo ${#LONG}"])
        .exits(0)
        .printed("120000\n");
}

#[test]
fn a_run_ends_when_the_reader_of_its_output_goes_away() {
    // The second ignores the signal and looks for the error, as programs in Python do.
    for (command, code) in [("yes", 141), ("trap '' PIPE; while echo y; do :; done 2>/dev/null; exit 5", 5)] {
        let (mut reader, writer) = pipe().unwrap();
        let running = Vmette::run(["--", "sh", "-c", command]).stdout(writer).start();
        let mut first = [0; 2];
        reader.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"y\n");
        let machine = running.processes();
        assert!(!machine.is_empty());
        drop(reader);
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        machine.are_gone();
    }
}

#[test]
fn a_slow_reader_gets_everything() {
    let (mut reader, writer) = pipe().unwrap();
    let running = Vmette::run(["--", "seq", "1", "200000"]).stdout(writer).start();
    let mut text = String::new();
    let mut chunk = [0; 4096];
    for _ in 0..20 {
        let n = reader.read(&mut chunk).unwrap();
        text.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(running.wait().code, Some(0));
    assert!(text.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=200_000));
}

/// A run whose output nobody reads, and which has filled the pipe.
fn unread(args: &[&str]) -> (std::io::PipeReader, Running) {
    let (mut reader, writer) = pipe().unwrap();
    let running = Vmette::run([args, &["--", "yes"]].concat()).stdout(writer).start();
    reader.read_exact(&mut [0; 2]).unwrap();
    (reader, running)
}

#[test]
fn a_reader_that_has_stopped_does_not_keep_a_run_from_ending() {
    let (_reader, running) = unread(&["--timeout", "3"]);
    let machine = running.processes();
    assert_eq!(running.wait().code, Some(124));
    machine.are_gone();

    let (_reader, running) = unread(&["--stop-timeout", "1"]);
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(143));

    let (_reader, running) = unread(&[]);
    running.signal(Signal::HUP);
    assert_eq!(running.wait().code, Some(129));
}

#[test]
fn four_gib_of_output_cost_no_memory() {
    let mib: u64 = 4096;
    let (mut reader, writer) = pipe().unwrap();
    let script = format!("dd if=/dev/zero bs=1M count={mib} 2>/dev/null");
    let running = Vmette::script(&script).stdout(writer).stderr(Stdio::null()).start();
    let (mut total, mut chunk) = (0u64, vec![0; 1 << 20]);
    let mut peak = 0;
    let started = Instant::now();
    loop {
        let n = reader.read(&mut chunk).unwrap();
        if n == 0 {
            break;
        }
        total += u64::try_from(n).unwrap();
        peak = peak_memory(&running).unwrap_or(peak);
        assert!(started.elapsed() < FLOOD_LIMIT, "{total} bytes came");
    }
    assert_eq!(total, mib << 20);
    assert_eq!(running.wait().code, Some(0));
    assert!((1..RESIDENT_MAX_KIB).contains(&peak), "{peak} KiB");
}

/// The most that it ever had resident, in KiB; `None` when it is ending.
fn peak_memory(running: &Running) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
