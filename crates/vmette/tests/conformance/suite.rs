//! The promises. Commands are what any Linux has, so that the same text runs below a host folder and in a machine.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use vmette::engine_api::Hypervisor;
use vmette::{
    Action, Config, Error, ExecOptions, ExitStatus, FailureKind, Output, Session, SessionEnd, StopHandle,
};
use vmette_testing::lane;

/// An engine with the folders that it needs.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    engine: Option<Arc<dyn Hypervisor>>,
    config: Option<Config>,
}

impl Bench {
    pub(crate) fn new(dir: tempfile::TempDir, engine: Option<Arc<dyn Hypervisor>>) -> Self {
        Self { dir, engine, config: None }
    }

    /// An engine, or the host's own, with everything that its machines need here.
    pub(crate) fn with(dir: tempfile::TempDir, engine: Option<Arc<dyn Hypervisor>>, config: Config) -> Self {
        Self { dir, engine, config: Some(config) }
    }

    pub(crate) fn config(&self) -> Config {
        if let Some(config) = &self.config {
            return config.clone();
        }
        // One cache for all tests with real machines: the template is made once.
        let cache = match self.engine {
            Some(_) => self.dir.path().join("cache"),
            None => lane::shared_cache(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")),
        };
        Config::default().with(|c| {
            c.host.cache_dir = Some(cache);
        })
    }

    pub(crate) fn start(&self, config: &Config) -> Result<Session, Error> {
        self.start_with(config, &StopHandle::new())
    }

    /// Starts a session that `stop` ends.
    pub(crate) fn start_with(&self, config: &Config, stop: &StopHandle) -> Result<Session, Error> {
        let builder = Session::builder(config).captured().stop_handle(stop);
        match &self.engine {
            Some(engine) => builder.engine(engine.clone()).start()?.running(),
            None => builder.start()?.running(),
        }
    }

    fn session(&self) -> Session {
        self.start(&self.config()).unwrap()
    }

    fn shell(&self, command: &str) -> Session {
        self.start(&self.config().with(|c| c.command.shell = Some(command.into()))).unwrap()
    }
}

macro_rules! tests {
    ($bench:ident) => {
        $crate::suite::tests!(@ $bench:
            exit_codes_arrive,
            output_is_captured_and_the_end_is_repeatable,
            captured_output_is_bounded_and_says_so,
            a_missing_command_is_127_and_one_that_is_no_program_126,
            a_killed_command_is_128_and_the_signal,
            stdout_and_stderr_are_apart,
            stdin_passes_through_unchanged,
            a_slow_reader_holds_back_only_its_own_command,
            commands_run_side_by_side,
            a_terminal_has_the_size_it_was_given,
            signals_reach_the_command,
            the_environment_and_the_folder_are_the_callers,
            commands_and_environments_may_be_large,
            files_go_in_and_come_out,
            what_is_no_file_is_not_read,
            actions_without_a_display,
            a_dropped_command_is_killed_and_the_session_goes_on,
            a_timeout_ends_the_session,
            stopping_is_idempotent_and_final,
            handles_do_everything_from_other_threads_until_the_end,
            a_handle_does_not_keep_its_session,
            the_report_says_what_the_session_had,
        );
    };
    (@ $bench:ident: $($name:ident),* $(,)?) => {
        $(#[test] fn $name() { $crate::suite::$name(&$bench()); })*
    };
}
pub(crate) use tests;

const KEEP: usize = 64 << 20;

pub(crate) fn exit_codes_arrive(bench: &Bench) {
    for code in [0, 1, 7, 42, 255] {
        assert_eq!(bench.shell(&format!("exit {code}")).wait(), SessionEnd::Exited(code));
    }
}

pub(crate) fn output_is_captured_and_the_end_is_repeatable(bench: &Bench) {
    let session = bench.shell("printf 'one\\r\\ntwo\\n'; echo err >&2; exit 3");
    let output = session.wait_captured();
    assert_eq!(output.exit_code, 3);
    assert!(output.output.contains("one\ntwo\n") && output.output.contains("err\n"), "{:?}", output.output);
    assert_eq!(session.wait(), SessionEnd::Exited(3));
    assert!(session.capture_rx().is_none());
}

pub(crate) fn captured_output_is_bounded_and_says_so(bench: &Bench) {
    let output = bench.shell("dd if=/dev/zero bs=65536 count=40 2>/dev/null | tr '\\0' x").wait_captured();
    assert_eq!(output.exit_code, 0);
    let marker = "\n[output truncated at 1048576 bytes]\n";
    assert!(output.output.ends_with(marker));
    assert_eq!(output.output.len(), vmette::CAPTURE_MAX + marker.len());
    let exact = bench.shell("dd if=/dev/zero bs=65536 count=16 2>/dev/null | tr '\\0' x").wait_captured();
    assert_eq!(exact.output.len(), vmette::CAPTURE_MAX);
}

pub(crate) fn a_missing_command_is_127_and_one_that_is_no_program_126(bench: &Bench) {
    let session = bench.session();
    let missing = session.exec(&ExecOptions::argv(["no-such-command"])).unwrap_err();
    assert!(matches!(&missing, Error::Request(f) if f.kind == FailureKind::NotFound), "{missing}");
    assert_eq!(missing.exit_code(), 127);
    assert!(missing.to_string().contains("no-such-command"));
    session.put("/tmp/plain", 0o644, &mut &b"not a program"[..]).unwrap();
    let put = session.exec(&ExecOptions::shell("test -f /tmp/plain")).unwrap().wait().unwrap();
    let target = if put == ExitStatus::Code(0) { "/tmp/plain" } else { "/etc/passwd" };
    let plain = session.exec(&ExecOptions::argv([target])).unwrap_err();
    assert_eq!(plain.exit_code(), 126, "{plain}");
    let folder = session.exec(&ExecOptions::argv(["/tmp"])).unwrap_err();
    assert_eq!(folder.exit_code(), 126, "{folder}");
    session.ping().unwrap();
}

pub(crate) fn a_killed_command_is_128_and_the_signal(bench: &Bench) {
    assert_eq!(bench.shell("kill -9 $$").wait(), SessionEnd::Exited(137));
    assert_eq!(bench.shell("kill -TERM $$").wait(), SessionEnd::Exited(143));
}

pub(crate) fn stdout_and_stderr_are_apart(bench: &Bench) {
    let session = bench.session();
    let process = session.exec(&ExecOptions::shell("echo out; echo err >&2")).unwrap();
    let all = process.collect(KEEP).unwrap();
    assert_eq!((all.stdout, all.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(all.status, ExitStatus::Code(0));
}

pub(crate) fn stdin_passes_through_unchanged(bench: &Bench) {
    let session = bench.session();
    let process = Arc::new(session.exec(&ExecOptions::argv(["cat"]).stdin(true)).unwrap());
    let sent: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let writer = {
        let (process, sent) = (process.clone(), sent.clone());
        thread::spawn(move || {
            for piece in sent.chunks(70_001) {
                process.write_stdin(piece).unwrap();
            }
            process.close_stdin().unwrap();
        })
    };
    let got = process.collect(KEEP).unwrap();
    writer.join().unwrap();
    assert!(got.stdout == sent, "{} of {} bytes", got.stdout.len(), sent.len());
    assert_eq!(got.status, ExitStatus::Code(0));
    // Without stdin a command sees its end at once.
    let empty = session.exec(&ExecOptions::argv(["cat"])).unwrap().collect(KEEP).unwrap();
    assert_eq!((empty.stdout.len(), empty.status), (0, ExitStatus::Code(0)));
}

pub(crate) fn a_slow_reader_holds_back_only_its_own_command(bench: &Bench) {
    let session = bench.session();
    // Nobody reads it: it fills its window and waits.
    let stuck = session.exec(&ExecOptions::shell("dd if=/dev/zero bs=65536 count=64 2>/dev/null")).unwrap();
    let other = session.exec(&ExecOptions::shell("dd if=/dev/zero bs=65536 count=64 2>/dev/null")).unwrap();
    assert_eq!(other.collect(KEEP).unwrap().stdout.len(), 64 * 65536);
    session.ping().unwrap();
    assert_eq!(stuck.collect(KEEP).unwrap().stdout.len(), 64 * 65536);
}

pub(crate) fn commands_run_side_by_side(bench: &Bench) {
    let session = Arc::new(bench.session());
    let threads: Vec<_> = (0..8)
        .map(|i| {
            let session = session.clone();
            thread::spawn(move || {
                let command = format!("for i in 1 2 3 4 5 6 7 8 9; do echo {i} $i; done; exit {i}");
                let all = session.exec(&ExecOptions::shell(command)).unwrap().collect(KEEP).unwrap();
                assert_eq!(all.status, ExitStatus::Code(i));
                let text = String::from_utf8(all.stdout).unwrap();
                assert_eq!(text.lines().filter(|l| l.starts_with(&format!("{i} "))).count(), 9, "{text}");
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

pub(crate) fn a_terminal_has_the_size_it_was_given(bench: &Bench) {
    let session = bench.session();
    let options = ExecOptions::shell("stty size; read line; stty size; test -t 1 && echo terminal")
        .tty(31, 97)
        .stdin(true);
    let process = session.exec(&options).unwrap();
    let mut text = String::new();
    let mut read_until = |wanted: &str| {
        while !text.contains(wanted) {
            match process.next_output().unwrap() {
                Some(Output::Stdout(bytes) | Output::Stderr(bytes)) => {
                    text.push_str(&String::from_utf8_lossy(&bytes));
                }
                None => panic!("ended before {wanted:?}: {text:?}"),
            }
        }
    };
    read_until("31 97");
    process.resize(40, 120).unwrap();
    process.write_stdin(b"go\n").unwrap();
    read_until("40 120");
    read_until("terminal");
    assert_eq!(process.collect(KEEP).unwrap().status, ExitStatus::Code(0));
}

pub(crate) fn signals_reach_the_command(bench: &Bench) {
    let session = bench.session();
    // Not `read`: a signal that comes just before it waits for input is only acted on after the next input, in busybox
    // before 1.37 as in bash. Between two commands it is always.
    let options =
        ExecOptions::shell("trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.1; done");
    let process = session.exec(&options).unwrap();
    assert_eq!(process.next_output().unwrap(), Some(Output::Stdout(b"ready\n".to_vec())));
    process.signal(10).unwrap();
    let rest = process.collect(KEEP).unwrap();
    assert_eq!((rest.stdout.as_slice(), rest.status), (&b"caught\n"[..], ExitStatus::Code(5)));
}

pub(crate) fn the_environment_and_the_folder_are_the_callers(bench: &Bench) {
    let session = bench.session();
    let options = ExecOptions::shell("printf '%s|%s|' \"$A\" \"$B\"; pwd")
        .env("A", "first")
        .env("A", "it's \"quoted\"\nand two lines")
        .env("B", "")
        .cwd("/tmp");
    let all = session.exec(&options).unwrap().collect(KEEP).unwrap();
    assert_eq!(String::from_utf8(all.stdout).unwrap(), "it's \"quoted\"\nand two lines||/tmp\n");
    let nowhere = session.exec(&ExecOptions::argv(["true"]).cwd("/no/such/folder")).unwrap_err();
    assert!(nowhere.to_string().contains("/no/such/folder"), "{nowhere}");
    let path = session.exec(&ExecOptions::shell("test -n \"$PATH\"")).unwrap();
    assert_eq!(path.collect(KEEP).unwrap().status, ExitStatus::Code(0));
}

pub(crate) fn commands_and_environments_may_be_large(bench: &Bench) {
    let session = bench.session();
    let command = format!("x={}; echo ${{#x}}", "y".repeat(3 << 20));
    let all = session.exec(&ExecOptions::shell(command)).unwrap().collect(KEEP).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&all.stdout),
        format!("{}\n", 3 << 20),
        "{}",
        String::from_utf8_lossy(&all.stderr)
    );
    let mut options = ExecOptions::shell("echo ${#V_29}");
    for i in 0..30 {
        options = options.env(format!("V_{i}"), "z".repeat(100_000));
    }
    let all = session.exec(&options).unwrap().collect(KEEP).unwrap();
    assert_eq!(String::from_utf8_lossy(&all.stdout), "100000\n");
    // One string of more than 128 KiB is beyond what Linux can pass to a program.
    let too_long = session.exec(&ExecOptions::argv(["echo".to_owned(), "x".repeat(200_000)])).unwrap_err();
    assert!(too_long.to_string().contains("128 KiB"), "{too_long}");
    session.ping().unwrap();
}

pub(crate) fn files_go_in_and_come_out(bench: &Bench) {
    let session = bench.session();
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(session.put("/new/folder/file", 0o640, &mut sent.as_slice()).unwrap(), 3_000_000);
    let mut got = Vec::new();
    let info = session.get("/new/folder/file", &mut got).unwrap();
    assert!(got == sent);
    assert_eq!((info.size, info.mode), (3_000_000, 0o640));
    session.put("/new/folder/file", 0o600, &mut &b"shorter"[..]).unwrap();
    got.clear();
    assert_eq!(session.get("/new/folder/file", &mut got).unwrap().mode, 0o600);
    assert_eq!(got, b"shorter");
    session.put("/empty", 0o644, &mut &b""[..]).unwrap();
    assert_eq!(session.get("/empty", &mut Vec::new()).unwrap().size, 0);
}

pub(crate) fn what_is_no_file_is_not_read(bench: &Bench) {
    let session = bench.session();
    let missing = session.get("/no/such/file", &mut Vec::new()).unwrap_err();
    assert!(matches!(&missing, Error::Request(f) if f.kind == FailureKind::NotFound), "{missing}");
    session.put("/folder/x", 0o644, &mut &b"x"[..]).unwrap();
    for wrong in ["/folder", "/", "relative", ""] {
        assert!(session.get(wrong, &mut Vec::new()).is_err(), "{wrong:?}");
    }
    assert!(session.put("/folder", 0o644, &mut &b"x"[..]).is_err());
    session.ping().unwrap();
}

pub(crate) fn actions_without_a_display(bench: &Bench) {
    let session = bench.session();
    let (header, _) = session.request(&Action::Wait { ms: 1 }).unwrap();
    assert!(header.ok);
    let capture = Action::ExecCapture { command: "echo out; echo err >&2; exit 4".into(), timeout_ms: None };
    let (header, payload) = session.request(&capture).unwrap();
    assert_eq!((header.ok, header.exit_code), (true, Some(4)));
    let text = String::from_utf8(payload).unwrap();
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:?}");
    let late = Action::ExecCapture { command: "sleep 100".into(), timeout_ms: Some(50) };
    let (header, _) = session.request(&late).unwrap();
    assert_eq!((header.ok, header.exit_code), (true, None));
    assert!(session.request(&Action::Exec { command: "true".into() }).unwrap().0.ok);
    for needs_display in [Action::Screenshot, Action::LeftClick, Action::Type { text: "x".into() }] {
        let (header, _) = session.request(&needs_display).unwrap();
        let error = header.error.unwrap_or_default();
        assert!(!header.ok && error.contains(needs_display.name()) && error.contains("desktop"), "{error:?}");
    }
}

pub(crate) fn a_dropped_command_is_killed_and_the_session_goes_on(bench: &Bench) {
    let session = bench.session();
    let noisy = session.exec(&ExecOptions::shell("while :; do echo noise; done")).unwrap();
    assert!(noisy.next_output().unwrap().is_some());
    drop(noisy);
    for _ in 0..3 {
        let all = session.exec(&ExecOptions::shell("echo on")).unwrap().collect(KEEP).unwrap();
        assert_eq!(all.stdout, b"on\n");
    }
}

pub(crate) fn a_timeout_ends_the_session(bench: &Bench) {
    let config = bench.config().with(|c| {
        c.command.shell = Some("sleep 1000".into());
        c.machine.timeout_seconds = Some(2);
    });
    let session = bench.start(&config).unwrap();
    assert_eq!(session.wait(), SessionEnd::TimedOut);
    assert_eq!(session.wait_captured().exit_code, 124);
}

pub(crate) fn stopping_is_idempotent_and_final(bench: &Bench) {
    let session = bench.session();
    session.ping().unwrap();
    session.stop();
    session.stop();
    assert_eq!(session.wait(), SessionEnd::Stopped);
    assert!(session.ping().is_err());
    assert!(session.exec(&ExecOptions::argv(["true"])).is_err());
}

pub(crate) fn handles_do_everything_from_other_threads_until_the_end(bench: &Bench) {
    let session = bench.session();
    let (handle, stop) = (session.handle(), session.stop_handle());
    let thread = thread::spawn(move || {
        handle.ping().unwrap();
        assert!(handle.request(&Action::Wait { ms: 1 }).unwrap().0.ok);
        assert_eq!(handle.exec(&ExecOptions::argv(["true"])).unwrap().wait().unwrap(), ExitStatus::Code(0));
        let path = "/tmp/handle";
        assert_eq!(handle.put(path, 0o600, &mut &b"by handle"[..]).unwrap(), 9);
        let mut back = Vec::new();
        handle.get(path, &mut back).unwrap();
        assert_eq!(back, b"by handle");
        stop.stop();
        // After the end every request fails at once, with the end.
        let ended = |error| matches!(error, Error::Ended(SessionEnd::Stopped));
        assert!(ended(handle.request(&Action::Wait { ms: 1 }).unwrap_err()));
        assert!(ended(handle.exec(&ExecOptions::argv(["true"])).err().unwrap()));
        assert!(ended(handle.ping().unwrap_err()));
    });
    assert_eq!(session.wait(), SessionEnd::Stopped);
    thread.join().unwrap();
}

pub(crate) fn a_handle_does_not_keep_its_session(bench: &Bench) {
    let session = bench.session();
    let handle = session.handle();
    handle.clone().ping().unwrap();
    drop(session);
    assert_eq!(handle.wait(), SessionEnd::Stopped);
    assert!(matches!(handle.ping(), Err(Error::Ended(SessionEnd::Stopped))));
    assert!(matches!(handle.vsock_connect(1), Err(Error::Ended(SessionEnd::Stopped))));
}

pub(crate) fn the_report_says_what_the_session_had(bench: &Bench) {
    let session = bench.session();
    let report = session.report();
    assert!(!report.engine.is_empty() && !report.reasons.is_empty());
    assert_eq!(report.isolation, report.accelerator.isolation());
    assert!(report.grants.shares.is_empty() && report.grants.disks.is_empty() && !report.grants.network);
    let json = serde_json::to_value(report).unwrap();
    assert!(json["timings"]["ready_ms"].as_f64().unwrap() > 0.0);
    assert!(session.cmdline().contains("console=hvc0"));
}
