//! A test that needs another process starts its own program again, with one test of it.

use std::env;
use std::io;
use std::process::Command;

/// The arguments with which a test program runs one ignored test and no other. `test` is its whole path, such as
/// `child::tests::an_owner`. For a program that is started by way of another one.
#[must_use]
pub fn arguments(test: &str) -> [&str; 4] {
    ["--ignored", "--exact", "--nocapture", test]
}

/// This test program, to run one test that is marked `#[ignore]` because only another test starts it.
///
/// # Errors
/// The program's own path is not known.
pub fn command(test: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(arguments(test));
    Ok(command)
}

#[cfg(test)]
mod tests {
    #[test]
    #[ignore = "started by `only_the_named_test_runs_again`"]
    fn the_other_process() {
        println!("here");
    }

    #[test]
    fn only_the_named_test_runs_again() {
        let output = super::command("again::tests::the_other_process").unwrap().output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains("here") && said.contains("1 passed"), "{said}");
    }
}
