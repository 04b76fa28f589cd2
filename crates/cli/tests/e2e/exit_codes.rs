//! The command's exit status is the run's; what is not the command's own has the numbers that shells use.

use crate::machine::Vmette;

fn legacy(command: &str) -> Vmette {
    Vmette::new(["--rootfs", "builtin", "--exec", command])
}

#[test]
fn a_commands_status_is_the_runs() {
    legacy("exit 0").exits(0);
    legacy("exit 42").exits(42);
    legacy("false").exits(1);
    Vmette::script("exit 255").exits(255);
}

#[test]
fn a_command_that_does_not_exist_is_127() {
    Vmette::run(["--", "no-such-command"]).exits(127).said(["no-such-command"]).printed("");
    Vmette::run(["--", "/no/such/command"]).exits(127).said(["/no/such/command"]);
}

#[test]
fn a_command_that_is_not_executable_is_126() {
    Vmette::run(["--", "/etc/passwd"]).exits(126).said(["/etc/passwd"]);
    Vmette::run(["--", "/etc"]).exits(126).said(["/etc"]);
}

#[test]
fn a_command_that_a_signal_killed_is_128_and_its_number() {
    Vmette::script("kill -9 $$").exits(137);
    Vmette::script("kill -TERM $$").exits(143);
    Vmette::script("kill -SEGV $$").exits(139);
}

#[test]
fn a_timeout_is_124() {
    let outcome = Vmette::run(["--timeout", "3", "--", "sleep", "600"]).exits(124);
    outcome.said(["timed out after 3 s"]).printed("");
    Vmette::run(["--quiet", "--timeout", "1", "--", "sleep", "600"]).exits(124).said([]);
    // As for `timeout`, and in C: nothing is no limit.
    Vmette::run(["--quiet", "--timeout", "0", "--", "true"]).exits(0);
}

#[test]
fn a_command_in_time_is_not_bothered_by_a_timeout() {
    Vmette::run(["--timeout", "120", "--", "sh", "-c", "exit 5"]).exits(5);
}

#[test]
fn the_kernel_is_the_guests_own() {
    let host = rustix::system::uname();
    let outcome = Vmette::run(["--", "uname", "-rv"]).exits(0);
    let host = format!("{} {}", host.release().to_str().unwrap(), host.version().to_str().unwrap());
    assert_ne!(outcome.text(), host);
    let cached = crate::machine::entries(&crate::machine::shared_cache().join("kernel"));
    let release = outcome.text().split(' ').next().unwrap();
    let installed = std::path::Path::new("/boot").join(format!("vmlinuz-{release}"));
    assert!(cached.iter().any(|name| name == release) || installed.exists(), "{release}: {cached:?}");
}
