//! What breaks below a run ends it, with the cause, and not by waiting for ever.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::machine::Vmette;

/// A program that is called QEMU and does what the script says.
fn pretended_qemu(script: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qemu-system-x86_64");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

/// A run with another QEMU, and a cache of its own since the version is remembered there.
fn with_qemu(qemu: &Path) -> Vmette {
    Vmette::run(["--no-template", "--", "true"]).env("VMETTE_QEMU", qemu)
}

#[test]
fn a_missing_qemu_is_named_with_its_remedy() {
    with_qemu(Path::new("/no/such/qemu")).exits(1).said(["/no/such/qemu", "VMETTE_QEMU"]);
    let empty = tempfile::tempdir().unwrap();
    let outcome = Vmette::run(["--", "true"]).env("PATH", empty.path()).exits(1);
    outcome.said(["qemu-system-", "not on PATH", "apt-get install"]);
    with_qemu(Path::new("/etc/passwd")).exits(1).said(["/etc/passwd"]);
}

#[test]
fn an_old_qemu_is_refused_with_both_versions() {
    let (_dir, qemu) = pretended_qemu("echo 'QEMU emulator version 4.0.1 (Debian 1:4.0)'");
    with_qemu(&qemu).exits(1).said(["4.0", "6.2"]);
}

#[test]
fn something_that_is_no_qemu_is_refused() {
    let (_dir, qemu) = pretended_qemu("echo 'hello, I am not the one'");
    let outcome = with_qemu(&qemu).exits(1);
    outcome.said([qemu.to_str().unwrap()]);
    let (_dir, qemu) =
        pretended_qemu("echo 'error while loading shared libraries: libpixman-1.so.0' >&2; exit 127");
    with_qemu(&qemu).exits(1).said(["qemu-system-x86_64", "127"]);
}

#[test]
fn a_qemu_that_dies_at_once_is_quoted() {
    let (_dir, qemu) = pretended_qemu(
        "[ \"$1\" = -version ] && { echo 'QEMU emulator version 8.2.0'; exit; }
         echo 'could not allocate: Cannot allocate memory' >&2; exit 1",
    );
    with_qemu(&qemu).exits(1).said(["Cannot allocate memory"]);
}

#[test]
fn a_qemu_that_is_killed_ends_the_run_with_an_error_that_names_it() {
    let mut running = Vmette::script("echo up; sleep 600").start();
    running.has_printed("up\n");
    let machine = running.processes();
    let qemu = running.process("qemu-system");
    assert_eq!(qemu.len(), 1);
    qemu.kill();
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    outcome.said(["[vmette] error: ", "QEMU", "signal 9"]);
    machine.are_gone();
}

#[test]
fn a_share_server_that_is_killed_ends_the_run_with_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let share = format!("{}:/data", dir.path().display());
    let (stdin, mut keyboard) = std::io::pipe().unwrap();
    let script = "echo up; read line; ls /data; echo after";
    let mut running =
        Vmette::run(["--timeout", "60", "-v", &share, "--", "sh", "-c", script]).stdin(stdin).start();
    running.has_printed("up\n");
    let server = running.process("vmette-virtiofs");
    let machine = running.processes();
    server.kill();
    server.are_gone();
    // The run may be over already, and nobody reads it.
    let _ = keyboard.write_all(b"go\n");
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    outcome.said(["[vmette] error: ", "share"]);
    machine.are_gone();
}

#[test]
fn a_kernel_that_panics_is_quoted() {
    let args = ["--no-template", "--cmdline", "rdinit=/nonexistent console=hvc0", "--", "true"];
    Vmette::run(args).exits(1).said(["[vmette] error: ", "Kernel panic"]).printed("");
}

#[test]
fn a_kernel_that_is_damaged_is_refused_or_ends_with_an_error() {
    Vmette::run(["--quiet", "--", "true"]).exits(0);
    let kernels = crate::machine::shared_cache().join("kernel");
    let version = crate::machine::entries(&kernels).into_iter().find(|name| name != ".lock").unwrap();
    let mut bytes = fs::read(kernels.join(version).join("vmlinuz")).unwrap();
    bytes[0x8000..].fill(0xf4);
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("vmlinuz");
    fs::write(&damaged, &bytes).unwrap();
    let args = ["--timeout", "20", "--no-template", "--kernel", damaged.to_str().unwrap(), "--", "true"];
    let outcome = Vmette::run(args).outcome();
    assert!(matches!(outcome.code, Some(1 | 124)), "{outcome:?}");
    outcome.printed("");
}

#[test]
fn memory_that_runs_out_costs_the_greediest_and_not_the_session() {
    // A full pipe holds each of them once it has filled its buffer.
    let script =
        "for i in 1 2 3 4 5 6 7 8 9 10; do dd if=/dev/zero bs=90M count=1 2>/dev/null | sleep 600 & done
        until dmesg | grep -q 'Out of memory'; do sleep 0.1; done; echo alive; exit 6";
    Vmette::script(script).exits(6).printed("alive\n");
}

#[test]
fn a_guest_whose_memory_is_full_for_good_ends_the_run() {
    // Files in memory: killing whoever wrote them gives nothing back.
    let script = "for file in /tmp/a /dev/shm/b /run/c /d; do dd if=/dev/zero of=$file bs=1M 2>/dev/null; done; exit 5";
    let outcome = Vmette::run(["--timeout", "100", "--", "sh", "-c", script]).outcome();
    assert!(matches!(outcome.code, Some(137 | 5 | 1)), "{outcome:?}");
}

#[test]
fn a_fork_bomb_ends_with_the_timeout() {
    let running =
        Vmette::run(["--timeout", "8", "--", "sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 600"])
            .start();
    let machine = running.process("qemu-system");
    let outcome = running.wait();
    assert!(matches!(outcome.code, Some(124 | 1 | 137)), "{outcome:?}");
    machine.are_gone();
}

#[test]
fn a_guest_that_powers_itself_off_ends_the_run() {
    let outcome = Vmette::script("echo o > /proc/sysrq-trigger; poweroff -f; sleep 600").outcome();
    assert_ne!(outcome.code, None, "{outcome:?}");
    assert_ne!(outcome.code, Some(0), "{outcome:?}");
}
