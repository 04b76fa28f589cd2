//! However vmette ends, and in whatever phase, its processes and files end with it.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::cache::Cache;
use crate::machine::{Running, Vmette, entries};

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
    }
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
    Vmette::run(["--scratch", "64M", "-v", &volume, "--", "true"]).temp(&tmp).exits(0);
    assert!(entries(&tmp).is_empty(), "{:?}", entries(&tmp));
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
