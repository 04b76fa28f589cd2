//! The KVM path, end to end, on hosts that have no KVM of use: a machine under software emulation has a processor with
//! AMD's virtualisation, and in it the real `vmette` runs its own machines on hardware KVM, with a stock kernel.
//!
//! One outer machine serves all promises: booting it is what costs most.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod outer;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use outer::{Outer, text};
use serde_json::Value;

/// Where an inner run writes its report, in the outer machine.
const REPORT: &str = "/run/report.json";

#[test]
fn kvm_lane_runs_the_stock_kernel_cold_and_from_a_template() {
    let outer = Outer::boot();
    doctor_finds_hardware(&outer);

    let cold = run(&outer, &["--no-template"], "cold");
    let made = run(&outer, &[], "template");
    assert_eq!(made["notes"], serde_json::json!([]), "the template was made without trouble");
    let restored = run(&outer, &["--require-hardware"], "template");
    let (cold, restored) = (ready_ms(&cold), ready_ms(&restored));
    eprintln!(
        "kvm lane: cold {cold:.0} ms, from a template {restored:.0} ms, {:.1} times faster",
        cold / restored
    );

    a_share_reaches_a_restored_machine(&outer);
    nothing_is_left_behind(&outer);
}

fn doctor_finds_hardware(outer: &Outer) {
    let done = outer.vmette(&["doctor", "--accel", "kvm", "--json"]);
    let diagnosis: Value = serde_json::from_slice(&done.stdout).unwrap();
    let findings = diagnosis["findings"].as_array().unwrap();
    let accelerator = findings.iter().find(|finding| finding["name"] == "accelerator").unwrap();
    assert_eq!(accelerator["value"], "kvm: hardware virtualisation", "{diagnosis:#}");
    assert!(accelerator["details"].to_string().contains("kvm_amd"), "{diagnosis:#}");
    assert_eq!((done.status.code(), &diagnosis["ok"]), (0, &Value::Bool(true)), "{diagnosis:#}");
}

/// Runs a command on KVM that says which kernel it sees and exits with 7; returns the report.
fn run(outer: &Outer, options: &[&str], started_from: &str) -> Value {
    let head = ["run", "--accel", "kvm", "--report", REPORT];
    let command = ["--", "sh", "-c", "uname -r; exit 7"];
    let done = outer.vmette(&[&head, options, &command[..]].concat());
    assert_eq!(done.status.code(), 7, "{}", text(&done.stderr));
    assert_eq!(text(&done.stdout), format!("{}\n", outer.kernel));
    let report: Value = serde_json::from_str(&outer.shell(&format!("cat {REPORT}"))).unwrap();
    let had = ["accelerator", "isolation", "started_from"].map(|name| report[name].as_str().unwrap());
    assert_eq!(had, ["kvm", "hardware", started_from], "{report:#}");
    report
}

fn ready_ms(report: &Value) -> f64 {
    report["timings"]["ready_ms"].as_f64().unwrap()
}

fn a_share_reaches_a_restored_machine(outer: &Outer) {
    outer.shell("mkdir /run/granted; echo granted > /run/granted/in");
    let script = "cat /data/in; echo written > /data/out";
    let done = outer.vmette(&["run", "--accel", "kvm", "-v", "/run/granted:/data", "--", "sh", "-c", script]);
    assert_eq!((done.status.code(), text(&done.stdout).as_str()), (0, "granted\n"), "{}", text(&done.stderr));
    assert_eq!(outer.shell("cat /run/granted/out"), "written\n");
}

fn nothing_is_left_behind(outer: &Outer) {
    let left = outer.shell(
        "ps -eo args= | grep -E '^[^ ]*(qemu-system|vmette)' || true; ls -d /tmp/vmette-* 2>&- || true",
    );
    assert_eq!(left, "", "processes and files that outlive their run");
}

/// Whatever this host has: hardware KVM is used when it is asked for, and anything else is refused with its name.
#[test]
fn kvm_lane_is_refused_where_there_is_no_hardware_behind_it() {
    let module = |name: &str| Path::new("/sys/module").join(name).exists();
    let opens = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if opens && (module("kvm_intel") || module("kvm_amd") || !module("kvm_pvm")) {
        return;
    }
    for choice in [["--accel", "kvm"].as_slice(), &["--require-hardware"]] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmette"));
        command
            .arg("run")
            .args(choice)
            .args(["--", "true"])
            .env("VMETTE_CACHE_DIR", folder.path().join("cache"));
        let done = command.output().unwrap();
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{said}");
        let reason = if opens { "kvm_pvm" } else { "/dev/kvm" };
        assert!(said.starts_with("[vmette] error: ") && said.contains(reason), "{said}");
        assert_eq!(text(&done.stdout), "");
        // Refused before anything was fetched or made for it.
        let kernel = fs::exists(folder.path().join("cache/kernel")).unwrap();
        assert!(!kernel, "a kernel was fetched for a run that cannot be");
    }
}
