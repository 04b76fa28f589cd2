//! What a run had, or would have, is said as it is.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::machine::{Outcome, Vmette, text_of};

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// What doctor found under that name.
fn finding<'a>(diagnosis: &'a Value, name: &str) -> &'a Value {
    let findings = diagnosis["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|finding| finding["name"] == name)
        .unwrap_or_else(|| panic!("no {name}: {diagnosis}"))
}

#[test]
fn doctor_names_everything_that_a_run_needs() {
    Vmette::run(["--quiet", "--", "true"]).exits(0);
    let diagnosis = json(&Vmette::new(["doctor", "--json"]).exits(0).stdout);
    assert_eq!(diagnosis["ok"], true);
    for name in ["engine", "accelerator", "kernel", "templates", "disk", "memory"] {
        assert_eq!(finding(&diagnosis, name)["ok"], true, "{diagnosis}");
    }
    assert!(finding(&diagnosis, "engine")["value"].as_str().unwrap().starts_with("QEMU "));
    let accelerator = finding(&diagnosis, "accelerator");
    let which = accelerator["value"].as_str().unwrap();
    assert!(which.starts_with("tcg") || which.starts_with("kvm"), "{diagnosis}");
    assert!(!accelerator["details"].as_array().unwrap().is_empty(), "why not a better one: {diagnosis}");
    let text = Vmette::new(["doctor"]).exits(0);
    assert!(text.text().ends_with("A run would work here."), "{text:?}");
}

#[test]
fn doctor_fails_where_a_run_would() {
    let outcome = Vmette::new(["doctor"]).env("VMETTE_QEMU", "/no/such/qemu").exits(1);
    assert!(
        outcome.text().contains("/no/such/qemu") && outcome.text().ends_with("A run would fail here."),
        "{outcome:?}"
    );
    let outcome = Vmette::new(["doctor", "--json"]).env("VMETTE_QEMU", "/no/such/qemu").exits(1);
    assert_eq!(json(&outcome.stdout)["ok"], false);
    Vmette::new(["doctor"]).cache(Path::new("/proc/no/such")).exits(1);
}

/// A program in a folder that is all of `PATH`.
fn put_program(bin: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    // Written under another name: a program that is open for writing elsewhere cannot be started.
    let new = bin.join("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, bin.join(name)).unwrap();
}

#[test]
fn doctor_prints_the_commands_that_mend_and_runs_them_when_told_to() {
    let bin = tempfile::tempdir().unwrap();
    let asked = bin.path().join("asked");
    put_program(bin.path(), "apt-get", &format!("echo \"$*\" >>'{}'", asked.display()));
    put_program(bin.path(), "sudo", "exec \"$@\"");
    put_program(bin.path(), "sh", "exec /bin/sh \"$@\"");
    let doctor = |args: &[&str]| Vmette::new([&["doctor"], args].concat()).env("PATH", bin.path()).exits(1);

    let printed = doctor(&["--fix"]);
    let install = "apt-get install --no-remove --no-install-recommends qemu-system-";
    assert!(printed.text().contains(install) && printed.text().contains("# engine"), "{printed:?}");
    let diagnosis = json(&doctor(&["--json"]).stdout);
    assert_eq!(diagnosis["fixes"][0]["findings"][0], "engine", "{diagnosis}");
    assert!(!asked.exists(), "nothing runs unasked");

    let run = doctor(&["--fix", "--yes"]);
    assert!(text_of(&asked).starts_with("install --no-remove"), "{run:?}");
    // That apt-get installs nothing, and the last word is about what is there now.
    assert!(run.text().ends_with("A run would fail here."), "{run:?}");
    put_program(bin.path(), "apt-get", "exit 100");
    doctor(&["--fix", "--yes"]).said(["running:", "failed", "100"]);
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    Vmette::new(["man", pages.to_str().unwrap()]).exits(0);
    for page in ["vmette.1", "vmette-run.1", "vmette-image-build.1", "vmette-doctor.1"] {
        assert!(text_of(&pages.join(page)).starts_with(".ie"), "{page}");
    }
    assert!(text_of(&pages.join("vmette-run.1")).contains("timeout"));
    fs::write(folder.path().join("file"), "").unwrap();
    Vmette::new(["man", folder.path().join("file").to_str().unwrap()])
        .exits(1)
        .said(["manual pages", "file"]);
}

#[test]
fn doctor_changes_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let outcome = Vmette::new(["doctor"]).cache(cache.path()).outcome();
    assert!(outcome.code.is_some(), "{outcome:?}");
    let kept = crate::machine::entries(cache.path());
    assert!(
        !kept.iter().any(|name| ["kernel", "templates", "images"].iter().any(|made| name == made)),
        "{kept:?}"
    );
}

/// A run's report.
fn report(options: &[&str], command: &[&str]) -> (Outcome, Value) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    let args = [options, &["--report", file.to_str().unwrap(), "--"], command].concat();
    let outcome = Vmette::run(args).outcome();
    let report = json(text_of(&file).as_bytes());
    (outcome, report)
}

#[test]
fn a_report_says_what_the_run_had_and_how_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let share = format!("{}:/data:ro", dir.path().display());
    let (outcome, report) = report(&["-v", &share, "--accel", "tcg"], &["sh", "-c", "exit 7"]);
    assert_eq!(outcome.code, Some(7), "{outcome:?}");
    assert!(report["engine"].as_str().unwrap().starts_with("QEMU "), "{report}");
    assert_eq!(report["accelerator"], "tcg");
    assert!(report["isolation"].as_str().unwrap().contains("emulation"), "{report}");
    assert_eq!(report["grants"]["network"], false);
    let granted = &report["grants"]["shares"][0];
    assert_eq!(granted["guest"], "/data");
    assert_eq!(granted["host"].as_str(), dir.path().to_str());
    assert_eq!(granted["read_only"], true);
    assert_eq!(report["end"]["kind"], "exited");
    assert_eq!(report["end"]["exit_code"], 7);
    assert!(report["timings"]["ready_ms"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_report_tells_a_template_from_a_cold_boot_and_a_timeout_from_an_end() {
    Vmette::run(["--quiet", "--", "true"]).exits(0);
    assert_eq!(report(&[], &["true"]).1["started_from"], "template");
    let (_, cold) = report(&["--no-template", "--timeout", "8"], &["sleep", "600"]);
    assert_eq!(cold["end"]["kind"], "timed_out", "{cold}");
    assert_eq!(cold["end"]["exit_code"], 124);
}

#[test]
fn a_report_of_what_never_ran_has_its_end_only() {
    let (outcome, failed) = report(&["tar+file:///no/such/archive.tar"], &["true"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!((&failed["end"]["kind"], failed.as_object().unwrap().len()), (&"error".into(), 1), "{failed}");
    assert!(failed["end"]["message"].as_str().unwrap().contains("/no/such/archive.tar"), "{failed}");

    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = format!("tar+http://{}/root.tar", server.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    let running = Vmette::run(["--report", file.to_str().unwrap(), &spec, "--", "true"]).start();
    // It is being fetched.
    let _client = server.accept().unwrap();
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait().code, Some(143));
    let ended = json(text_of(&file).as_bytes());
    assert_eq!((&ended["end"]["kind"], ended.as_object().unwrap().len()), (&"stopped".into(), 1), "{ended}");
}

#[test]
fn a_report_that_cannot_be_written_fails_the_run() {
    Vmette::run(["--report", "/no/such/folder/report", "--", "true"])
        .exits(1)
        .said(["/no/such/folder/report"]);
}

#[test]
fn a_grant_is_visible_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let (ro, rw) = (format!("{path}:/a:ro"), format!("{path}:/b"));
    let outcome = Vmette::run(["-v", &ro, "-v", &rw, "--", "true"]).exits(0);
    outcome.said([&format!("{path} at /a read-only"), &format!("{path} at /b read-write")]);
}

#[test]
fn emulation_is_refused_when_hardware_is_required() {
    let diagnosis = json(&Vmette::new(["doctor", "--json"]).outcome().stdout);
    let outcome = Vmette::run(["--require-hardware", "--", "true"]).outcome();
    if finding(&diagnosis, "accelerator")["value"].as_str().unwrap().starts_with("tcg") {
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        outcome.said(["[vmette] error: ", "kvm"]);
    } else {
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
}

#[test]
fn quickstart_greets_from_a_machine_and_says_what_to_try_next() {
    let outcome = Vmette::new(["quickstart"]).exits(0);
    assert!(outcome.text().starts_with("hello from Linux "), "{outcome:?}");
    assert!(outcome.text().contains("vmette shell"), "{outcome:?}");
    let failed = Vmette::new(["quickstart"]).env("VMETTE_QEMU", "/no/such/qemu").exits(1);
    failed.said(["vmette doctor"]).printed("");
}

#[test]
fn the_first_run_says_what_takes_its_time() {
    let cache = crate::cache::Cache::without_template();
    let outcome = Vmette::run(["--", "true"]).cache(cache.path()).exits(0);
    outcome.said(["[vmette] booting a template"]);
    fs::remove_dir_all(cache.path().join("initramfs")).unwrap();
    let outcome = Vmette::run(["--no-template", "--", "true"]).cache(cache.path()).exits(0);
    outcome.said(["[vmette] assembling the initramfs"]);
}
