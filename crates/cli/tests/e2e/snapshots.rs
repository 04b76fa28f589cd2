//! A snapshot is the whole machine, taken from nowhere but a folder that is complete, and refused with the reason.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::cache::Cache;
use crate::machine::{Outcome, Vmette, entries};

/// A folder for snapshots, on a disk and not in memory.
struct Shelf(TempDir);

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<std::ffi::OsString> {
        entries(self.0.path())
    }
}

/// `vmette run --build-snapshot PATH ARGS`.
fn build(path: &Path, args: &[&str]) -> Vmette {
    let path = path.to_str().unwrap();
    Vmette::run([&["--build-snapshot", path], args].concat())
}

/// `vmette run --resume-snapshot PATH ARGS`.
fn resume(path: &Path, args: &[&str]) -> Vmette {
    let path = path.to_str().unwrap();
    Vmette::run([&["--resume-snapshot", path], args].concat())
}

/// A snapshot of the built-in root with a file in it.
fn made(shelf: &Shelf) -> PathBuf {
    let path = shelf.path("snapshot");
    build(&path, &["--", "sh", "-c", "echo kept > /file"]).exits(0);
    path
}

fn refused(path: &Path, args: &[&str], word: &str) {
    let outcome = resume(path, &[args, &["--", "echo", "it", "ran"]].concat()).exits(1);
    outcome.printed("").said([word, path.to_str().unwrap()]);
}

fn copied(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--sparse=always"]).args([from, to]).status().unwrap();
    assert!(status.success());
}

#[test]
fn what_was_in_memory_goes_on_in_each_copy() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    let daemon = "mkfifo /ask /tell; (n=0; while read line < /ask; do n=$((n+1)); echo $line $n > /tell; done) \
                  > /dev/null 2>&1 & echo one > /ask; read line < /tell; echo $line; echo kept > /file";
    build(&path, &["--", "sh", "-c", daemon]).exits(0).printed("one 1\n").said(["saved the machine"]);
    assert_eq!(shelf.names(), ["snapshot"]);
    // What is in a guest's memory is for nobody else to read.
    for (name, mode) in [("", 0o700), ("machine", 0o700), ("machine/memory", 0o600), ("manifest.json", 0o600)]
    {
        assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
    let ask = "cat /file; echo two > /ask; cat /tell; hostname; cat /etc/machine-id; od -A n -N 8 -t x8 /dev/urandom";
    let runs = [0, 1].map(|_| resume(&path, &["--", "sh", "-c", ask]).start());
    let texts = runs.map(|run| {
        let outcome = run.wait();
        outcome.said([", snapshot,"]);
        assert!(outcome.code == Some(0) && outcome.warnings().is_empty(), "{outcome:?}");
        outcome.text().lines().map(str::to_owned).collect::<Vec<_>>()
    });
    for text in &texts {
        assert_eq!(text[..2], ["kept", "two 2"], "{texts:?}");
    }
    let (one, two) = (texts[0].iter().skip(2), texts[1].iter().skip(2));
    assert!(one.zip(two).all(|(one, two)| one != two), "{texts:?}");
}

#[test]
fn the_original_flags_make_and_take_snapshots() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    let path = path.to_str().unwrap();
    Vmette::new(["--rootfs", "builtin", "--build-snapshot", path, "--exec", "echo made > /file"]).exits(0);
    Vmette::new(["--resume-snapshot", path, "--exec", "cat /file; exit 5"]).exits(5).printed("made\n");
    Vmette::new(["--rootfs", "builtin", "--resume-snapshot", path, "--exec", "cat /file"]).exits(0);
    let bare = shelf.path("bare");
    Vmette::new(["--rootfs", "builtin", "--build-snapshot", bare.to_str().unwrap()]).exits(0).printed("");
    resume(&bare, &["--", "sh", "-c", "exit 6"]).exits(6);
}

#[test]
fn a_command_that_fails_makes_none_and_its_status_is_passed_on() {
    let shelf = Shelf::new();
    build(&shelf.path("s"), &["--", "sh", "-c", "exit 7"]).exits(7).said(["no snapshot"]);
    build(&shelf.path("s"), &["--", "sh", "-c", "kill -9 $$"]).exits(137);
    build(&shelf.path("s"), &["--", "no-such-command"]).exits(127);
    build(&shelf.path("s"), &["--timeout", "2", "--", "sleep", "100"]).exits(124);
    assert!(shelf.names().is_empty(), "{:?}", shelf.names());
}

#[test]
fn a_scratch_disk_is_saved_with_its_machine() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    let fill = "dd if=/dev/urandom of=/big bs=1M count=8 2>/dev/null; sha256sum /big";
    let sum = build(&path, &["--scratch", "64M", "--", "sh", "-c", fill]).exits(0);
    let check = ["--", "sh", "-c", "sha256sum /big; rm /big; echo x > /more; ls /more"];
    for _ in 0..2 {
        let outcome = resume(&path, &check).exits(0);
        assert_eq!(outcome.text(), format!("{}\n/more", sum.text()), "each copy has a disk of its own");
    }
    refused(&path, &["--scratch", "128M"], "scratch disk of 128 MiB");
    File::options().write(true).open(path.join("scratch")).unwrap().write_all_at(b"x", 30 << 20).unwrap();
    refused(&path, &[], "scratch is not what was saved");
}

#[test]
fn shares_are_left_behind_and_attached_where_they_are_named() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(old.path().join("name"), "old\n").unwrap();
    fs::write(new.path().join("name"), "new\n").unwrap();
    let at = |dir: &TempDir, access: &str| format!("{}:/data{access}", dir.path().display());
    let script = ["--", "sh", "-c", "cp /data/name /copy; echo out > /data/out"];
    build(&path, &[&["-v", &at(&old, "")], &script[..]].concat()).exits(0);
    assert_eq!(fs::read(old.path().join("out")).unwrap(), b"out\n");
    resume(&path, &["--", "sh", "-c", "cat /copy; ls /data"]).exits(0).printed("old\n");
    let script = ["--", "sh", "-c", "cat /copy /data/name; ! echo x > /data/x"];
    let outcome = resume(&path, &[&["-v", &at(&new, ":ro")], &script[..]].concat()).exits(0);
    outcome.printed("old\nnew\n").said([&at(&new, " read-only").replace(":/data", " at /data")]);
    assert_eq!(entries(new.path()), ["name"]);
    let busy = ["--", "sh", "-c", "cd /data; sleep 1000 > /dev/null 2>&1 & :"];
    let outcome = build(&shelf.path("busy"), &[&["-v", &at(&old, "")], &busy[..]].concat()).exits(1);
    outcome.said(["/data", "busy"]);
    assert_eq!(shelf.names(), ["snapshot"]);
}

#[test]
fn a_read_only_root_stays_one() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    build(&path, &["--rootfs-ro", "--", "sh", "-c", "echo kept > /tmp/file"]).exits(0);
    let script = "cat /tmp/file; ! echo x > /file; test \"$(hostname)\" = \"$(cat /etc/hostname)\"";
    resume(&path, &["--", "sh", "-c", script]).exits(0).printed("kept\n");
}

#[test]
fn a_machine_that_starts_from_one_may_have_vsock() {
    let shelf = Shelf::new();
    let path = made(&shelf);
    let script = "cat /file; echo ping | vsock-send $VMETTE_VSOCK_PORT";
    let outcome = resume(&path, &["--vsock-port", "1234", "--", "sh", "-c", script]).exits(0);
    outcome.printed("kept\nping\n").said([", snapshot,", "; echo at vsock port 1234"]);
}

#[test]
fn another_shape_than_it_has_is_refused() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    build(&path, &["-m", "256M", "--", "true"]).exits(0);
    resume(&path, &["--", "sh", "-c", "exit 3"]).exits(3);
    resume(&path, &["-m", "256M", "--vcpus", "1", "--", "true"]).exits(0);
    refused(&path, &["-m", "512M"], "256 MiB of memory");
    refused(&path, &["--vcpus", "2"], "1 virtual CPUs");
    refused(&path, &["--rootfs-ro"], "read-only");
    refused(&path, &["--cmdline", "quiet debug"], "command line");
    refused(&path, &["--require-hardware"], "hardware virtualisation is wanted");
    refused(&path, &["--kernel", env!("CARGO_BIN_EXE_vmette")], "--kernel");
    let dir = tempfile::tempdir().unwrap();
    let shares: Vec<String> = (0..5).map(|i| format!("s{i}={}", dir.path().display())).collect();
    let shares: Vec<&str> = shares.iter().flat_map(|share| ["--share", share]).collect();
    refused(&path, &shares, "no room for 5 shares");
}

#[test]
fn a_copy_is_as_good_and_damage_is_found() {
    let shelf = Shelf::new();
    let path = made(&shelf);
    let copy = shelf.path("copy");
    copied(&path, &copy);
    resume(&copy, &["--", "cat", "/file"]).exits(0).printed("kept\n");
    fs::rename(&copy, shelf.path("moved")).unwrap();
    resume(&shelf.path("moved"), &["--", "cat", "/file"]).exits(0).printed("kept\n");

    let damaged = |change: &dyn Fn(&Path), word: &str| {
        let copy = shelf.path("damaged");
        copied(&path, &copy);
        change(&copy);
        refused(&copy, &[], word);
        fs::remove_dir_all(&copy).unwrap();
    };
    let overwrite = |file: PathBuf, at| {
        OpenOptions::new().write(true).open(file).unwrap().write_all_at(b"damage", at).unwrap();
    };
    damaged(&|dir| overwrite(dir.join("machine/memory"), 20 << 20), "memory is not what was saved");
    damaged(&|dir| overwrite(dir.join("machine/state"), 5000), "state is not what was saved");
    damaged(
        &|dir| {
            OpenOptions::new().write(true).open(dir.join("machine/memory")).unwrap().set_len(1 << 20).unwrap()
        },
        "bytes instead of",
    );
    damaged(&|dir| fs::remove_file(dir.join("machine/state")).unwrap(), "state");
    damaged(&|dir| fs::write(dir.join("machine/more"), "").unwrap(), "machine/more is no part of it");
    damaged(
        &|dir| {
            let elsewhere = dir.join("elsewhere");
            fs::rename(dir.join("machine"), &elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, dir.join("machine")).unwrap();
        },
        "machine is no folder",
    );
    damaged(
        &|dir| {
            fs::rename(dir.join("machine/state"), dir.join("state")).unwrap();
            std::os::unix::fs::symlink("../state", dir.join("machine/state")).unwrap();
        },
        "state",
    );
    damaged(
        &|dir| fs::set_permissions(dir.join("machine"), fs::Permissions::from_mode(0o777)).unwrap(),
        "may be written by others",
    );
    damaged(&|dir| fs::write(dir.join("manifest.json"), "{").unwrap(), "manifest.json is damaged");
    damaged(&|dir| fs::remove_file(dir.join("manifest.json")).unwrap(), "never finished");
    damaged(
        &|dir| fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap(),
        "may be written by others",
    );
    let rewritten = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        move |dir: &Path| {
            let text = fs::read_to_string(dir.join("manifest.json")).unwrap();
            assert!(text.contains(&from), "{text}");
            fs::write(dir.join("manifest.json"), text.replacen(&from, &to, 1)).unwrap();
        }
    };
    damaged(&rewritten("\"format\": 2", "\"format\": 99"), "format 99");
    let arch = format!("\"arch\": \"{}\"", std::env::consts::ARCH);
    damaged(&rewritten(&arch, "\"arch\": \"m68k\""), "for m68k");
    damaged(&rewritten("\"fingerprint\": \"QEMU ", "\"fingerprint\": \"QEMU 1."), "another engine or host");
    damaged(&rewritten("\"protocol\": ", "\"protocol\": 9"), "protocol");
    damaged(&rewritten("\"machine/state\"", "\"../machine/state\""), "manifest.json is damaged");
    refused(&shelf.path("none"), &[], "No such file");
    // What was found damaged left the original as it was.
    resume(&path, &["--", "cat", "/file"]).exits(0).printed("kept\n");
}

#[test]
fn the_image_below_it_is_held_to_what_it_was() {
    let cache = Cache::without_template();
    let shelf = Shelf::new();
    let dir = tempfile::tempdir().unwrap();
    let spec = crate::templates::archive(dir.path(), &[("mark", "echo one")]);
    let path = shelf.path("snapshot");
    build(&path, &[&spec, "--", "sh", "-c", "echo kept > /file"]).cache(cache.path()).exits(0);
    let run =
        |args: &[&str]| resume(&path, &[args, &["--", "sh", "-c", "read x < /file; echo $x; mark"]].concat());
    run(&[]).cache(cache.path()).exits(0).printed("kept\none\n");
    fs::remove_dir_all(cache.path().join("images")).unwrap();
    let outcome = run(&[]).cache(cache.path()).exits(1);
    outcome.printed("").said(["no longer in the cache", &spec, "make the snapshot anew"]);
    // The same archive again is the same image.
    run(&[&spec]).cache(cache.path()).exits(0).printed("kept\none\n");
    run(&[]).cache(cache.path()).exits(0).printed("kept\none\n");
    let other = tempfile::tempdir().unwrap();
    let other = crate::templates::archive(other.path(), &[("mark", "echo two")]);
    run(&[&other]).cache(cache.path()).exits(1).said(["is not what is at"]);
    let (_dir, folder) = crate::roots::folder();
    let folder = folder.to_str().unwrap();
    run(&[folder]).cache(cache.path()).exits(1).said(["not on the folder"]);
}

#[test]
fn what_cannot_be_saved_is_refused_before_anything_runs() {
    let shelf = Shelf::new();
    let (_dir, folder) = crate::roots::folder();
    let ran = ["--", "echo", "it", "ran"];
    let fails = |args: &[&str], word: &str| {
        let outcome = build(&shelf.path("s"), &[args, &ran].concat()).exits(1);
        outcome.printed("").said([word]);
    };
    fails(&[folder.to_str().unwrap()], "host folder");
    let disk = shelf.path("disk");
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    fails(&["--disk", disk.to_str().unwrap()], "use a scratch disk");
    assert_eq!(shelf.names(), ["disk"]);
    build(&disk, &ran).exits(1).printed("").said(["exists already"]);
    build(&shelf.path("no/such/folder"), &ran).exits(1).printed("").said(["no/such"]);
}

/// Waits until something is there, which must come before `never`.
fn await_path(path: &Path, never: &Path) {
    let deadline = std::time::Instant::now() + crate::machine::LIMIT;
    while !path.exists() {
        assert!(std::time::Instant::now() < deadline && !never.exists(), "{} was never seen", path.display());
        std::thread::yield_now();
    }
}

#[test]
fn whoever_is_killed_while_it_saves_leaves_nothing_that_is_taken() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    let running =
        build(&path, &["--", "sh", "-c", "dd if=/dev/urandom of=/x bs=1M count=100 2>/dev/null"]).start();
    let partial = shelf.path(".snapshot.partial");
    await_path(&partial, &path);
    running.signal(Signal::KILL);
    let outcome = running.wait();
    assert_eq!(outcome.signal, Some(9), "{outcome:?}");
    refused(&path, &[], "No such file");
    refused(&partial, &[], "never finished");
    made(&shelf);
    assert_eq!(shelf.names(), ["snapshot"], "the next one has removed what was left");
}

#[test]
fn whoever_is_asked_to_end_while_it_saves_leaves_nothing() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    let fill = ["--", "sh", "-c", "dd if=/dev/urandom of=/x bs=1M count=100 2>/dev/null"];
    let running = build(&path, &fill).start();
    await_path(&shelf.path(".snapshot.partial"), &path);
    running.signal(Signal::TERM);
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(143), "{outcome:?}");
    assert!(shelf.names().is_empty(), "{:?}", shelf.names());
}

#[test]
fn a_full_disk_makes_no_snapshot() {
    let Some(disk) = crate::templates::SmallDisk::mount("size=40m,mode=700") else { return };
    let path = disk.0.path().join("snapshot");
    build(&path, &["--", "true"]).exits(1).said(["save failed", "No space left"]);
    assert!(entries(disk.0.path()).is_empty());
}

#[test]
fn certificates_that_are_new_are_trusted_from_then_on() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    let certs = tempfile::tempdir().unwrap();
    let pem = |mark: &str| format!("-----BEGIN CERTIFICATE-----\n{mark}\n-----END CERTIFICATE-----\n");
    let folder = certs.path().to_str().unwrap();
    fs::write(certs.path().join("one.pem"), pem("b25l")).unwrap();
    let show =
        ["--", "sh", "-c", "cat /etc/ssl/certs/vmette-host-ca.pem | grep -v -- -; echo $NODE_EXTRA_CA_CERTS"];
    build(&path, &["--ca-certs", folder, "--", "true"]).exits(0);
    let place = "/etc/ssl/certs/vmette-host-ca.pem";
    resume(&path, &show).exits(0).printed(format!("b25l\n{place}\n"));
    fs::write(certs.path().join("one.pem"), pem("dHdv")).unwrap();
    resume(&path, &[&["--ca-certs", folder], &show[..]].concat())
        .exits(0)
        .printed(format!("dHdv\n{place}\n"));
}

fn inspected(path: &Path, args: &[&str]) -> Outcome {
    Vmette::new([&["snapshot", "inspect"], args, &[path.to_str().unwrap()]].concat()).outcome()
}

#[test]
fn a_snapshot_says_what_it_is() {
    let shelf = Shelf::new();
    let path = shelf.path("snapshot");
    build(&path, &["-m", "256M", "--", "true"]).exits(0);
    let text = inspected(&path, &[]);
    text.showed(["256 MiB", "tcg", "builtin"]);
    let json = inspected(&path, &["--json", "--verify"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((value["mem_mib"].as_u64(), value["vcpus"].as_u64()), (Some(256), Some(1)));
    OpenOptions::new()
        .write(true)
        .open(path.join("machine/memory"))
        .unwrap()
        .write_all_at(b"x", 9000)
        .unwrap();
    assert_eq!(inspected(&path, &[]).code, Some(0));
    let damaged = inspected(&path, &["--verify"]);
    assert_eq!(damaged.code, Some(1));
    damaged.said(["memory is not what was saved"]);
    let none = inspected(&shelf.path("none"), &[]);
    assert_eq!(none.code, Some(1));
}
