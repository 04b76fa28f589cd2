//! The state that a parent leaves behind in a process makes no difference.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::Signal;

use crate::cache::Cache;
use crate::machine::{VMETTE, Vmette};

/// Starts vmette from a shell that has done `before`.
fn after(before: &str, args: &[&str]) -> Vmette {
    let script = format!("{before}; exec \"$0\" \"$@\"");
    Vmette::from_program("/bin/bash", [&["-c", &script, VMETTE, "run"], args].concat())
}

#[test]
fn signals_that_are_blocked_or_ignored_at_the_start_do_their_work() {
    let args = ["--block-signal=TERM,USR1", "--ignore-signal=CHLD,USR1,XFSZ"];
    let script = "trap 'echo told' USR1; echo up; while :; do sleep 0.1; done";
    let run = [VMETTE, "run", "-q", "--", "sh", "-c", script];
    let mut running = Vmette::from_program("/usr/bin/env", [&args[..], &run].concat()).start();
    running.has_printed("up\n");
    let machine = running.processes();
    running.signal(Signal::USR1);
    running.has_printed("told\n");
    running.signal(Signal::TERM);
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(143), "{outcome:?}");
    machine.are_gone();
}

/// All that a first start makes, and in one folder also that of places that cannot be used.
#[test]
fn an_open_mask_low_limits_and_unusable_places_keep_no_run_from_its_work() {
    let cache = Cache::without_template();
    let before =
        "umask 0; ulimit -S -f 64 -n 64 -v 100000; export XDG_RUNTIME_DIR=/nonexistent TMPDIR=/nonexistent";
    let share = tempfile::tempdir().unwrap();
    let volume = format!("{}:/data", share.path().display());
    after(before, &["-v", &volume, "--", "sh", "-c", "umask; ulimit -n; echo x > /data/new"])
        .cache(cache.path())
        .exits(0)
        .printed("0022\n1024\n");
    assert_eq!(fs::metadata(share.path().join("new")).unwrap().mode() & 0o777, 0o644);
    nobody_else_writes_below(cache.path());
}

fn nobody_else_writes_below(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert!(meta.is_symlink() || meta.mode() & 0o022 == 0, "{}: {:o}", path.display(), meta.mode());
        if meta.is_dir() {
            nobody_else_writes_below(&path);
        }
    }
}

#[test]
fn a_limit_with_which_nothing_can_run_is_named() {
    let refused = |limit: &str| after(&format!("ulimit {limit}"), &["--", "true"]).exits(1);
    refused("-f 1000").said(["file size", "ulimit -Hf"]);
    refused("-v 1000000").said(["address space", "ulimit -Hv"]);
    refused("-n 40").said(["open files", "ulimit -Hn"]);
}

#[test]
fn a_place_that_cannot_be_written_is_named_with_its_variable() {
    // Not even root makes a folder there.
    let nowhere = Path::new("/proc/nowhere");
    Vmette::run(["--", "true"]).cache(nowhere).exits(1).said(["/proc/nowhere", "VMETTE_CACHE_DIR"]);
    let mut run = Vmette::run(["--", "true"]).env("HOME", nowhere).env("VMETTE_CACHE_DIR", "");
    run = run.env("XDG_CACHE_HOME", "");
    run.exits(1).said(["/proc/nowhere/.cache/vmette", "VMETTE_CACHE_DIR"]);
}

#[test]
fn a_guest_knows_more_files_of_a_share_than_a_process_may_open() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..500 {
        fs::write(dir.path().join(format!("f{i}")), "x").unwrap();
    }
    let volume = format!("{}:/data", dir.path().display());
    let script = "cat /data/f* | wc -c; ls -l /data/f* | wc -l; cat /data/f* | wc -c";
    let run = ["-v", &volume, "--", "sh", "-c", script];
    after("ulimit -n 1024", &run).exits(0).printed("500\n500\n500\n");
}
