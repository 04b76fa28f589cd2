//! Signals that whoever started this process wants it to take no notice of: `nohup` the end of the terminal, and a shell
//! without job control the terminal's Ctrl-C, which is not meant for what runs in the background.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// True if `signal` was ignored when this process was started, as long as nothing has changed that since.
pub(crate) fn is_ignored(signal: i32) -> bool {
    // To ask the system itself takes unsafe code; Linux also writes it down.
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| ignored_in(&status, signal))
        .unwrap_or_else(
            // Without an answer the signal is one like any other.
            || does_child_survive(signal).unwrap_or(false),
        )
}

/// Reads it from the kernel's account of a process.
fn ignored_in(status: &str, signal: i32) -> Option<bool> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask >> u32::try_from(signal - 1).ok()? & 1 == 1)
}

/// A child inherits what is ignored, so one that `signal` does not kill tells. It cannot end before it has got the
/// signal: its input is open until then.
fn does_child_survive(signal: i32) -> Option<bool> {
    let signal = Signal::from_named_raw(signal)?;
    let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().ok()?;
    let sent = kill_process(Pid::from_child(&child), signal);
    // Closes its input first.
    let status = child.wait().ok()?;
    sent.ok().map(|()| status.signal() != Some(signal.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT};
    use vmette_testing::again;

    /// Not a test: the process in the test below, when that starts this program anew.
    #[test]
    #[ignore = "started by `what_was_ignored_at_the_start_is_known_in_both_ways`"]
    fn a_process_that_was_started_to_ignore_some() {
        let found = [SIGHUP, SIGINT, SIGQUIT].map(|signal| (is_ignored(signal), does_child_survive(signal)));
        assert_eq!(found, [(true, Some(true)), (false, Some(false)), (true, Some(true))]);
    }

    #[test]
    fn what_was_ignored_at_the_start_is_known_in_both_ways() {
        let started = Command::new("/bin/sh")
            .args(["-c", "trap '' HUP QUIT; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(again::arguments("ignored::tests::a_process_that_was_started_to_ignore_some"))
            .output()
            .unwrap();
        assert!(started.status.success(), "{started:?}");
        assert!(String::from_utf8_lossy(&started.stdout).contains("1 passed"), "{started:?}");
    }
}
