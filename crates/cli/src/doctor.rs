//! `vmette doctor`.

use vmette::doctor::{Diagnosis, Finding, examine};

use crate::args::DoctorArgs;
use crate::{exit, request, stdio};

/// Prints the diagnosis; 1 if a run would fail.
pub(crate) fn doctor(args: &DoctorArgs) -> u8 {
    let config =
        vmette::Config::default().with(|c| c.machine.accelerator = request::accelerator(args.accel, false));
    let diagnosis = examine(&config);
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
    }
    if diagnosis.ok { 0 } else { exit::FAILURE }
}

fn text(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    for Finding { name, ok, value, details } in &diagnosis.findings {
        let mark = if *ok { "ok " } else { "NO " };
        out.push_str(&format!("{mark} {name:<12} {value}\n"));
        for detail in details {
            out.push_str(&format!("                 {detail}\n"));
        }
    }
    out.push_str(if diagnosis.ok { "A run would work here.\n" } else { "A run would fail here.\n" });
    out
}
