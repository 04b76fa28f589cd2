//! `vmette doctor`.

use std::process::Command;

use vmette::doctor::{Diagnosis, Finding, Fix, Status, examine};

use crate::args::DoctorArgs;
use crate::{exit, request, stdio};

/// Prints the diagnosis; 1 if a run would fail.
pub(crate) fn doctor(args: &DoctorArgs) -> u8 {
    let config =
        vmette::Config::default().with(|c| c.machine.accelerator = request::accelerator(args.accel, false));
    let mut diagnosis = examine(&config);
    if args.json {
        match serde_json::to_string_pretty(&diagnosis) {
            Ok(text) => stdio::print_out(&format!("{text}\n")),
            Err(e) => {
                stdio::say(&format!("error: {e}"));
                return exit::FAILURE;
            }
        }
    } else {
        stdio::print_out(&text(&diagnosis));
        if args.fix {
            stdio::print_out(&commands(&diagnosis));
        }
        if args.yes && !diagnosis.fixes.is_empty() {
            let done = diagnosis.fixes.iter().all(run);
            diagnosis = examine(&config);
            stdio::print_out(&text(&diagnosis));
            if !done {
                return exit::FAILURE;
            }
        }
    }
    if diagnosis.ok { 0 } else { exit::FAILURE }
}

fn text(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    for Finding { name, status, value, details, .. } in &diagnosis.findings {
        let mark = match status {
            Status::Ok => "ok ",
            Status::Off => "off",
            Status::Failed => "NO ",
        };
        out.push_str(&format!("{mark} {name:<12} {value}\n"));
        for detail in details {
            out.push_str(&format!("                 {detail}\n"));
        }
    }
    out.push_str(if diagnosis.ok { "A run would work here.\n" } else { "A run would fail here.\n" });
    out
}

fn commands(diagnosis: &Diagnosis) -> String {
    if diagnosis.fixes.is_empty() {
        let all_well = diagnosis.findings.iter().all(|finding| finding.status == Status::Ok);
        let text =
            if all_well { "Nothing is to be mended." } else { "No command is known that would mend more." };
        return format!("{text}\n");
    }
    let mut out = String::from("These commands would mend it (--fix --yes runs them):\n");
    for fix in &diagnosis.fixes {
        out.push_str(&format!("  {}   # {}\n", line(fix), fix.findings.join(", ")));
    }
    out
}

/// The command line as this user types it.
fn line(fix: &Fix) -> String {
    match fix.root && !rustix::process::geteuid().is_root() {
        true => format!("sudo {}", fix.command),
        false => fix.command.clone(),
    }
}

/// Runs a command at the user's terminal: it may ask, for a password among other things.
fn run(fix: &Fix) -> bool {
    let line = line(fix);
    stdio::say(&format!("running: {line}"));
    match Command::new("sh").args(["-c", &line]).status() {
        Ok(status) if status.success() => true,
        Ok(status) => {
            stdio::say(&format!("error: `{line}` failed ({status}); the rest was not run"));
            false
        }
        Err(e) => {
            stdio::say(&format!("error: `{line}` could not be started: {e}"));
            false
        }
    }
}
