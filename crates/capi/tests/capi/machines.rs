//! Programs that run machines.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::program::{Program, succeeds};

#[test]
fn a_run_has_its_exit_code_its_output_and_its_report() {
    let output = succeeds(Program::new("run").command());
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("passed through to stdout\n"), "{stdout}");
    assert!(stderr.contains("passed through to stderr\n"), "{stderr}");
}

#[test]
fn output_is_not_lost_when_its_reader_is_late() {
    let program = Program::new("late");
    let mut running = program.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(running.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert_eq!(said, "read now\n");
    let mut expected = String::new();
    (1..=100_000).for_each(|n| writeln!(expected, "{n}").unwrap());
    let mut got = vec![0; expected.len()];
    let mut stdout = running.stdout.take().unwrap();
    stdout.read_exact(&mut got).unwrap();
    assert!(got == expected.as_bytes());
    said.clear();
    stderr.read_to_string(&mut said).unwrap();
    assert!(running.wait().unwrap().success(), "{said}");
    drop(stdout);
}

#[test]
fn a_session_takes_commands_and_files_from_any_thread() {
    succeeds(Program::new("session").command());
}

#[test]
fn another_thread_ends_a_session_and_the_program_goes_on() {
    succeeds(Program::new("stop").command());
}

#[test]
fn signals_and_their_handlers_stay_the_programs_own() {
    succeeds(Program::new("signals").command());
}

#[test]
fn roots_are_resolved_and_folders_shared() {
    let program = Program::new("roots");
    let share = program.dir.path().join("share");
    fs::create_dir(&share).unwrap();
    fs::write(share.join("question"), "shared\n").unwrap();
    let mut command = program.command();
    command.arg(&share);
    succeeds(command);
    assert!(share.join("root.tar").exists(), "the guest wrote it");
    assert!(!share.join("forbidden").exists());
}

#[test]
fn a_session_is_saved_and_others_start_from_it() {
    let program = Program::new("snapshot");
    let mut command = program.command();
    command.arg(program.dir.path());
    succeeds(command);
}

#[test]
fn guest_and_program_talk_over_vsock() {
    let program = Program::new("vsock");
    let mut command = program.command();
    command.arg(program.dir.path());
    succeeds(command);
}
