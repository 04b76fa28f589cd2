//! The KVM path, end to end, on hosts that have no KVM of use: a machine under software emulation has a processor with
//! AMD's virtualisation, and in it the real `vmette` runs its own machines on hardware KVM, with a stock kernel.
//!
//! One outer machine serves all promises: booting it is what costs most.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod outer;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use outer::{Outer, text};
use serde_json::{Value, json};
use vmette::ExecOptions;

/// Where an inner run writes its report, in the outer machine.
const REPORT: &str = "/run/report.json";

/// The times of the last lane, for the benchmark: nothing else here has KVM to compare a template with.
const TIMES: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/kvm-lane.json");

#[test]
fn kvm_lane_runs_the_stock_kernel_cold_and_from_a_template() {
    let outer = Outer::boot();
    doctor_finds_hardware(&outer);

    let made = run(&outer, &["--accel", "kvm"], "template");
    assert_eq!(made["notes"], json!([]), "the template was made without trouble");
    let templates = outer.templates();
    // Not the first run: the emulator has translated by now what cold and restored ones have in common.
    let cold = ready_ms(&run(&outer, &["--accel", "kvm", "--no-template"], "cold"));
    // KVM is also what a run gets that does not ask for it.
    let mut restored = [&["--accel", "kvm"][..], &["--require-hardware"], &[]]
        .map(|options| ready_ms(&run(&outer, options, "template")));
    assert_eq!(outer.templates(), templates, "a run did not find the template and made another one");
    restored.sort_by(f64::total_cmp);
    let median = restored[1];
    eprintln!(
        "kvm lane: ready after {cold:.0} ms cold, {median:.0} ms from a template: {:.1} times",
        cold / median
    );
    fs::write(TIMES, json!({ "cold_ms": cold, "template_ms": restored }).to_string()).unwrap();
    assert!(median < cold, "{restored:?} ms from a template, {cold} ms cold");

    a_share_reaches_a_restored_machine(&outer);
    a_guest_reaches_its_host_over_vsock(&outer);
    a_snapshot_starts_again(&outer);
    nothing_is_left_behind(&outer);
    what_hangs_says_where(&outer);
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
    let head = ["run", "--report", REPORT];
    let command = ["--", "sh", "-c", "uname -r; exit 7"];
    let done = outer.vmette(&[&head, options, &command].concat());
    assert_eq!(done.status.code(), 7, "{}", text(&done.stderr));
    assert_eq!(text(&done.stdout), format!("{}\n", outer.kernel()));
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
    let done = outer.vmette(&["run", "-v", "/run/granted:/data", "--", "sh", "-c", script]);
    assert_eq!((done.status.code(), text(&done.stdout).as_str()), (0, "granted\n"), "{}", text(&done.stderr));
    assert_eq!(outer.shell("cat /run/granted/out"), "written\n");
}

fn a_guest_reaches_its_host_over_vsock(outer: &Outer) {
    let script = "head -c 1000000 /dev/zero | vsock-send $VMETTE_VSOCK_PORT | wc -c";
    let done = outer.vmette(&["run", "--vsock-port", "0", "--", "sh", "-c", script]);
    assert_eq!((done.status.code(), text(&done.stdout).as_str()), (0, "1000000\n"), "{}", text(&done.stderr));
}

/// Made of a machine with a share, which leaves it first, and started with one.
fn a_snapshot_starts_again(outer: &Outer) {
    let saved = "/run/snapshot";
    let script = "(while :; do sleep 1; done) > /dev/null 2>&1 & echo $! > /pid; cp /data/in /kept";
    let build = ["run", "--build-snapshot", saved, "-v", "/run/granted:/data", "--", "sh", "-c", script];
    let done = outer.vmette(&build);
    assert_eq!(done.status.code(), 0, "{}", text(&done.stderr));
    let script = "cat /kept /data/out; kill -0 $(cat /pid) && echo runs";
    let resume = ["run", "--resume-snapshot", saved, "-v", "/run/granted:/data", "--", "sh", "-c", script];
    for _ in 0..2 {
        let done = outer.vmette(&resume);
        let printed = "granted\nwritten\nruns\n";
        assert_eq!((done.status.code(), text(&done.stdout).as_str()), (0, printed), "{}", text(&done.stderr));
    }
    outer.shell("rm -r /run/snapshot");
}

fn nothing_is_left_behind(outer: &Outer) {
    let processes = outer.shell("ps -eo args=");
    let ours =
        |line: &&str| line.split(' ').next().is_some_and(|p| p.contains("qemu") || p.contains("vmette"));
    assert_eq!(processes.lines().find(ours), None, "a process outlives its run");
    let files = outer.shell("ls -A /tmp");
    assert_eq!(files.lines().find(|name| name.starts_with("vmette-")), None, "a file outlives its run");
}

/// The lane's own promise: when it fails because something does not end, that is not all there is to know.
fn what_hangs_says_where(outer: &Outer) {
    let hangs = ExecOptions::argv(["sleep", "86421"]);
    let said = outer.ended_within(Duration::from_secs(1), hangs).unwrap_err();
    let listed =
        said.lines().skip(1).find(|line| line.ends_with("sleep 86421")).unwrap_or_else(|| panic!("{said}"));
    assert!(listed.contains("nanosleep") && said.contains("MemFree"), "{said}");
    assert!(said.contains("qemu-system"), "its processes on the host: {said}");
}

/// Whatever this host has: what is no hardware KVM is refused, with its name.
#[test]
fn kvm_lane_is_refused_where_no_hardware_is_behind_it() {
    let module = |name: &str| Path::new("/sys/module").join(name).exists();
    let opens = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if opens && (module("kvm_intel") || module("kvm_amd") || !module("kvm_pvm")) {
        return; // It is not refused here, and whether it works the rest of the suite shows.
    }
    for choice in [["--accel", "kvm"].as_slice(), &["--require-hardware"]] {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmette"));
        command.arg("run").args(choice).args(["--", "true"]).env("VMETTE_CACHE_DIR", &cache);
        let done = command.output().unwrap();
        let said = text(&done.stderr);
        assert_eq!((done.status.code(), text(&done.stdout).as_str()), (Some(1), ""), "{said}");
        let reason = if opens { "kvm_pvm" } else { "/dev/kvm" };
        assert!(said.starts_with("[vmette] error: ") && said.contains(reason), "{said}");
        assert!(!cache.join("kernel").exists(), "a kernel was fetched for a run that cannot be");
    }
}
