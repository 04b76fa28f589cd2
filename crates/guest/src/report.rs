//! The report of a process that works for the agent: one page, which a pipe takes in one piece. Its end without a report is
//! the end of the process.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

/// Longest report, in bytes.
const REPORT_MAX: usize = 4096;

/// Line before the text of a success; anything else is an error's text.
const SUCCESS: &str = "ok\n";

/// Writes the report.
///
/// # Errors
/// Nobody waits for it.
pub(crate) fn send(mut to: &File, outcome: &Result<String, impl Display>) -> io::Result<()> {
    let mut text = match outcome {
        Ok(text) => format!("{SUCCESS}{text}"),
        Err(e) => e.to_string(),
    };
    text.truncate(text.floor_char_boundary(REPORT_MAX));
    to.write_all(text.as_bytes())
}

/// Waits for the report: the text of a success, or the error's, which is `killed` if the process has ended without one.
///
/// # Errors
/// It cannot be read.
pub(crate) fn receive(from: OwnedFd, killed: &str) -> io::Result<Result<String, String>> {
    let mut text = String::new();
    File::from(from).take(REPORT_MAX as u64).read_to_string(&mut text)?;
    Ok(match text.strip_prefix(SUCCESS) {
        Some(result) => Ok(result.to_owned()),
        None if text.is_empty() => Err(killed.to_owned()),
        None => Err(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed_on(outcome: Option<Result<String, String>>) -> Result<String, String> {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let writer = File::from(writer);
        outcome.inspect(|outcome| send(&writer, outcome).unwrap());
        drop(writer);
        receive(reader, "killed").unwrap()
    }

    #[test]
    fn reports_tell_success_error_and_silence_apart() {
        for outcome in [Ok(String::new()), Ok("A=1\nB=2\n".into()), Err("cannot mount".to_owned())] {
            assert_eq!(passed_on(Some(outcome.clone())), outcome);
        }
        assert_eq!(passed_on(None), Err("killed".into()));
    }

    #[test]
    fn a_report_is_no_longer_than_a_page() {
        let long = passed_on(Some(Err("€".repeat(REPORT_MAX)))).unwrap_err();
        assert!(long.len() <= REPORT_MAX && long.len() > REPORT_MAX - 3);
    }
}
