//! However vmette ends, and in whatever phase, its processes and files end with it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cache::Cache;
use crate::machine::{Running, VMETTE, Vmette, entries, shared_cache};

const ENDING: [(Signal, i32); 3] = [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)];

/// A workload that runs, with everything a run can have.
fn at_work(temp: &Path, script: &str) -> Running {
    let share = temp.join("share");
    fs::create_dir_all(&share).unwrap();
    let own = temp.join("tmp");
    fs::create_dir_all(&own).unwrap();
    let volume = format!("{}:/data", share.display());
    let mut running =
        Vmette::run(["--scratch", "64M", "-v", &volume, "--", "sh", "-c", script]).temp(&own).start();
    running.has_printed("up\n");
    running
}

#[test]
fn a_signal_ends_a_run_with_its_number_and_leaves_nothing() {
    for (signal, code) in ENDING {
        let dir = tempfile::tempdir().unwrap();
        let mut running = at_work(dir.path(), "trap 'echo mine' INT; echo up; while :; do sleep 0.2; done");
        let machine = running.processes();
        assert!(machine.len() >= 2, "QEMU and a share server");
        if signal == Signal::INT {
            // The first one is the command's.
            running.signal(signal);
            running.has_printed("mine\n");
        }
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        machine.are_gone();
        assert!(entries(&dir.path().join("tmp")).is_empty(), "{:?}", entries(&dir.path().join("tmp")));
        has_no_scratch_disk(&shared_cache());
    }
}

/// A disk has no name at any time: there is nothing that could be left.
fn has_no_scratch_disk(cache: &Path) {
    let left = entries(&cache.join("scratch"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn after_a_kill_nothing_runs_and_the_next_run_removes_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let running = at_work(dir.path(), "echo up; sleep 600");
    let machine = running.processes();
    assert!(machine.len() >= 2);
    running.signal(Signal::KILL);
    assert_eq!(running.wait().signal, Some(9));
    machine.are_gone();
    let tmp = dir.path().join("tmp");
    let volume = format!("{}:/data", dir.path().join("share").display());
    has_no_scratch_disk(&shared_cache());
    Vmette::run(["--scratch", "64M", "-v", &volume, "--", "true"]).temp(&tmp).exits(0);
    assert!(entries(&tmp).is_empty(), "{:?}", entries(&tmp));
}

/// A run whose scratch disk is being formatted, for as long as the returned writer is kept.
fn formatting(dir: &Path) -> (Running, fs::File) {
    let (programs, begun, fifo) = (dir.join("programs"), dir.join("begun"), dir.join("fifo"));
    fs::create_dir(&programs).unwrap();
    for path in [&begun, &fifo] {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }
    let tool = programs.join("mke2fs");
    // It holds no output open: vmette waits for the end of that.
    let script = format!("#!/bin/sh\necho > {}\nread line < {}\n", begun.display(), fifo.display());
    fs::write(&tool, script).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let running = Vmette::run(["--scratch", "64M", "--", "true"]).env("PATH", path).start();
    // Each waits for the other side.
    fs::read(&begun).unwrap();
    (running, fs::OpenOptions::new().write(true).open(&fifo).unwrap())
}

#[test]
fn a_run_that_ends_while_its_scratch_disk_is_made_leaves_none() {
    for (signal, code) in [(Signal::KILL, None), (Signal::TERM, Some(143))] {
        let dir = tempfile::tempdir().unwrap();
        let (running, writer) = formatting(dir.path());
        has_no_scratch_disk(&shared_cache());
        let begun = Instant::now();
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, code, "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}: {outcome:?}", begun.elapsed());
        has_no_scratch_disk(&shared_cache());
        drop(writer);
    }
}

#[test]
fn a_signal_ends_a_run_that_is_still_booting() {
    let cache = Cache::without_template();
    for (signal, code) in ENDING {
        let running = Vmette::run(["--", "true"]).cache(cache.path()).start();
        let machine = running.process("qemu-system");
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        machine.are_gone();
        cache.has_no_leavings();
    }
}

#[test]
fn whoever_waits_for_anothers_template_can_be_ended() {
    let cache = Cache::with_template();
    let template = cache.template();
    fs::remove_dir_all(&template).unwrap();
    let lock = fs::File::create(template.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    for (signal, code) in ENDING {
        let mut running = Vmette::run(["--", "true"]).cache(cache.path()).start();
        running.has_said("waiting for another run");
        let begun = Instant::now();
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}: {outcome:?}", begun.elapsed());
        assert!(outcome.warnings().is_empty(), "{outcome:?}");
    }
    let begun = Instant::now();
    Vmette::run(["--timeout", "2", "--", "true"]).cache(cache.path()).exits(124);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn after_a_kill_while_a_template_is_made_nothing_runs_and_the_next_run_makes_it() {
    let cache = Cache::without_template();
    let running = Vmette::run(["--", "true"]).cache(cache.path()).start();
    let machine = running.process("qemu-system");
    running.signal(Signal::KILL);
    assert_eq!(running.wait().signal, Some(9));
    machine.are_gone();
    let outcome = Vmette::run(["--", "true"]).cache(cache.path()).exits(0);
    assert!(outcome.warnings().is_empty(), "{outcome:?}");
    outcome.said([", template,"]);
    cache.has_no_leavings();
}

#[test]
fn the_first_interrupt_is_the_commands_and_the_second_ends_the_machine() {
    let script = "trap 'echo caught; exit 44' INT; echo up; while :; do sleep 1; done";
    let mut running = Vmette::script(script).start();
    running.has_printed("up\n");
    running.signal(Signal::INT);
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(44), "{outcome:?}");
    outcome.printed("up\ncaught\n");

    let mut running = Vmette::script("trap 'echo caught' INT; echo up; while :; do sleep 1; done").start();
    running.has_printed("up\n");
    running.signal(Signal::INT);
    running.has_printed("caught\n");
    running.signal(Signal::INT);
    assert_eq!(running.wait().code, Some(130));
}

#[test]
fn an_interrupted_command_that_takes_no_notice_of_it_is_130() {
    let mut running = Vmette::script("echo up; exec sleep 600").start();
    running.has_printed("up\n");
    running.signal(Signal::INT);
    assert_eq!(running.wait().code, Some(130));
}

/// As `nohup` starts it, and a script what it puts into the background.
#[test]
fn what_it_was_started_to_ignore_does_not_end_it() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let ignoring = ["-c", "trap '' HUP INT QUIT; exec \"$0\" \"$@\"", VMETTE];
    let command = ["run", "--", "sh", "-c", "echo up; read line; echo $line; exit 5"];
    let mut running = Vmette::from_program("sh", [&ignoring[..], &command].concat()).stdin(reader).start();
    running.has_printed("up\n");
    for signal in [Signal::HUP, Signal::INT, Signal::INT, Signal::QUIT] {
        running.signal(signal);
    }
    writer.write_all(b"went on\n").unwrap();
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    outcome.printed("up\nwent on\n");
    // The others are what they are.
    let running =
        Vmette::from_program("sh", [&ignoring[..], &["run", "--", "sleep", "600"]].concat()).start();
    running.process("qemu-system");
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(143));
}

/// A command that runs until it is killed, with `trap` before it.
fn waiting(trap: &str, args: &[&str]) -> Running {
    let script = format!("{trap}; echo up; while :; do sleep 0.1; done");
    let mut running = Vmette::run([args, &["--", "sh", "-c", &script]].concat()).start();
    running.has_printed("up\n");
    running
}

#[test]
fn a_terminated_command_ends_in_its_own_way() {
    let running = waiting("trap 'echo asked; exit 6' TERM", &[]);
    running.signal(Signal::TERM);
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(6), "{outcome:?}");
    outcome.printed("up\nasked\n");
}

#[test]
fn a_command_that_takes_no_notice_of_the_end_has_so_many_seconds() {
    let running = waiting("trap '' TERM", &["--stop-timeout", "1"]);
    let machine = running.processes();
    let begun = Instant::now();
    running.signal(Signal::TERM);
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(143), "{outcome:?}");
    assert!((1..60).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    machine.are_gone();
}

#[test]
fn a_second_termination_does_not_wait() {
    let mut running = waiting("trap 'echo asked' TERM", &["--stop-timeout", "3000"]);
    running.signal(Signal::TERM);
    running.has_printed("asked\n");
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(143));
}

/// A run whose machine stands still, and takes no more of what vmette has to write to it.
fn deaf(args: &[&str]) -> Running {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let own = reader.try_clone().unwrap();
    let mut running = Vmette::run([args, &["--", "sh", "-c", "echo up; exec cat > /dev/null"]].concat())
        .stdin(reader)
        .start();
    running.has_printed("up\n");
    running.process("qemu-system").signal(Signal::STOP);
    // More than fits into the connection. Whoever reads it ends.
    std::thread::spawn(move || writer.write_all(&vec![0; 8 << 20]));
    let capacity = rustix::pipe::fcntl_getpipe_size(&own).unwrap() as u64;
    let mut full = 0;
    // No event tells that a writer waits. It does when nobody takes anything out of the pipe any more.
    while full < 20 {
        full = if rustix::io::ioctl_fionread(&own).unwrap() == capacity { full + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(5));
    }
    running
}

#[test]
fn a_guest_that_takes_nothing_more_does_not_hold_signals_up() {
    let gentle: &[Signal] = &[Signal::TERM];
    for (args, signals, code) in [
        (&[][..], &[Signal::INT, Signal::INT][..], 130),
        (&[], &[Signal::HUP], 129),
        (&["--stop-timeout", "1"], gentle, 143),
    ] {
        let running = deaf(args);
        let machine = running.processes();
        let begun = Instant::now();
        for signal in signals {
            running.signal(*signal);
            // Two of the same that come at once may be one.
            std::thread::sleep(Duration::from_millis(20));
        }
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}: {outcome:?}", begun.elapsed());
        machine.are_gone();
    }
}

/// An archive that takes long to convert, and no room to keep.
fn endless_archive(folder: &Path) -> String {
    let script = "truncate -s 1G zeros && tar -cf - zeros | zstd -q -1 > archive.tar.zst && rm zeros";
    let made = std::process::Command::new("sh").args(["-c", script]).current_dir(folder).status().unwrap();
    assert!(made.success());
    format!("tar+file://{}/archive.tar.zst", folder.display())
}

#[test]
fn a_signal_ends_a_conversion_promptly_and_leaves_nothing() {
    let cache = Cache::without_template();
    let images = entries(&cache.path().join("images"));
    let dir = tempfile::tempdir().unwrap();
    let spec = endless_archive(dir.path());
    for (signal, code) in ENDING {
        let mut running = Vmette::run([&spec, "--", "true"]).cache(cache.path()).start();
        running.has_said("converting");
        let begun = Instant::now();
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}: {outcome:?}", begun.elapsed());
        let left: Vec<_> = entries(&cache.path().join("images"))
            .into_iter()
            .filter(|name| !images.contains(name) && !name.to_string_lossy().ends_with(".lock"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_signal_ends_a_download_that_stalls_promptly() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = format!("tar+http://{}/root.tar", server.local_addr().unwrap());
    for (signal, code) in ENDING {
        let running = Vmette::run([&spec, "--", "true"]).start();
        let (mut client, _) = server.accept().unwrap();
        // Asked for, and begun.
        let _ = client.read(&mut [0; 4096]).unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin").unwrap();
        let begun = Instant::now();
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}: {outcome:?}", begun.elapsed());
        assert!(!outcome.stderr.contains("error:"), "{outcome:?}");
    }
}
