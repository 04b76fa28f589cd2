//! vmette as a job of an interactive shell: stopped, in the background, in the foreground again.

use rustix::process::Signal;

use crate::machine::{Running, VMETTE};
use crate::terminal::Terminal;

/// It restores the terminal after a job was stopped, whatever the job did.
const BASH: &[&str] = &["bash", "--norc", "--noediting", "-i"];

/// It leaves the terminal as a job has left it.
const DASH: &[&str] = &["dash", "-i"];

/// A shell at a terminal, which prints this when it waits for a command.
const PROMPT: &str = "job-shell> ";

fn shell_with_jobs(shell: &[&str]) -> (Terminal, Running) {
    let mut terminal = Terminal::open();
    let prompt = format!("PS1={PROMPT}");
    let shell = terminal.start_program("env", &[&[prompt.as_str()], shell].concat());
    terminal.shows(PROMPT);
    (terminal, shell)
}

#[test]
fn a_stopped_run_gives_the_terminal_back_and_takes_it_again() {
    // A signal that vmette sees, and one that it does not.
    stops_and_goes_on(DASH, &[Signal::TSTP]);
    stops_and_goes_on(BASH, &[Signal::TSTP, Signal::STOP]);
}

fn stops_and_goes_on(shell: &[&str], signals: &[Signal]) {
    let (mut terminal, shell) = shell_with_jobs(shell);
    let cooked = terminal.state();
    terminal.types(&format!("{VMETTE} run -q -t -- sh\n"));
    terminal.shows("# ");
    assert!(terminal.is_raw());
    let vmette = shell.process("vmette");
    for (word, signal) in signals.iter().enumerate() {
        vmette.signal(*signal);
        terminal.shows("Stopped");
        terminal.shows(PROMPT);
        assert_eq!(terminal.state(), cooked, "{signal:?}");
        terminal.types("fg\n");
        // The name of the job is shown before it goes on.
        terminal.shows("-t -- sh");
        terminal.becomes_raw();
        terminal.types(&format!("echo wo''rd {word}\r"));
        terminal.shows(&format!("word {word}"));
        terminal.shows("# ");
    }
    terminal.types("exit 5\r");
    terminal.shows(PROMPT);
    assert_eq!(terminal.state(), cooked);
    terminal.types("exit $?\n");
    assert_eq!(shell.wait().code, Some(5));
}

#[test]
fn a_run_in_the_background_leaves_the_terminal_to_others_until_it_is_in_front() {
    let (mut terminal, shell) = shell_with_jobs(BASH);
    terminal.types(&format!("{VMETTE} run -q -- sh -c 'echo read''y; read x; echo got $x' &\n"));
    terminal.shows("ready");
    terminal.types("echo sh''ell\n");
    terminal.shows("shell");
    terminal.shows(PROMPT);
    terminal.types("jobs -r | wc -l\n");
    terminal.shows("1\r\n");
    terminal.types("fg\n");
    terminal.shows("got $x'");
    terminal.types("line\n");
    terminal.shows("got line");
    terminal.shows(PROMPT);
    terminal.types("exit $?\n");
    assert_eq!(shell.wait().code, Some(0));
}
