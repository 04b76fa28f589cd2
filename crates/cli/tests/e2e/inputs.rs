//! What is not there, cannot be read or is something else is named, with the remedy, before a machine is started.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::machine::Vmette;

/// A run with these options must fail with these words.
fn fails<const N: usize>(options: &[&str], words: [&str; N]) {
    let args = [options, &["--", "true"]].concat();
    let outcome = Vmette::run(args).exits(1);
    outcome.said(["[vmette] error: "]).said(words).printed("");
    // A cause is not said twice.
    let error = outcome.stderr.lines().find(|line| line.contains("error: ")).unwrap_or_default();
    let parts: Vec<&str> = error.split(": ").filter(|part| part.len() > 20).collect();
    assert!(parts.iter().all(|part| error.matches(part).count() == 1), "{outcome:?}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_rootfs_that_is_not_there_is_named() {
    fails(&["/no/such/rootfs"], ["/no/such/rootfs"]);
    fails(&["squashfs+file:///no/such.sqfs"], ["/no/such.sqfs"]);
    fails(&["tar+file:///no/such.tar"], ["/no/such.tar"]);
    fails(&["tar+file://relative.tar"], ["absolute", "relative.tar"]);
}

#[test]
fn a_registrys_image_is_refused_and_not_taken_for_a_folder() {
    fails(&["--offline", "nonesuch:1.0"], ["nonesuch:1.0"]);
}

#[test]
fn a_rootfs_of_another_kind_is_named_with_the_form_that_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "text").unwrap();
    fails(&[path(&file)], [path(&file), "not a directory"]);
    fails(&[&format!("squashfs+file://{}", file.display())], [path(&file)]);
    fails(&[&format!("tar+file://{}", file.display())], [path(&file)]);
    fails(&[&format!("squashfs+file://{}", dir.path().display())], ["a directory"]);
    let fifo = dir.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    fails(&[&format!("tar+file://{}", fifo.display())], ["not a regular file"]);
}

#[test]
fn a_rootfs_without_programs_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = Vmette::run([path(dir.path()), "--", "/bin/sh"]).exits(127);
    outcome.said(["/bin/sh"]);
}

#[test]
fn a_kernel_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fails(&["--kernel", "/no/such/kernel"], ["kernel", "/no/such/kernel"]);
    fails(&["--kernel", path(dir.path())], ["kernel", path(dir.path())]);
    let text = dir.path().join("text");
    fs::write(&text, "this is no kernel\n".repeat(1000)).unwrap();
    fails(&["--kernel", path(&text)], ["kernel", path(&text)]);
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    fails(&["--kernel", path(&empty)], ["kernel", path(&empty)]);
    fails(&["--initramfs", "/no/such/initramfs"], ["initramfs", "/no/such/initramfs"]);
    fails(&["--initramfs", path(&empty)], ["initramfs", path(&empty)]);
}

#[test]
fn a_share_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    fails(&["--share", "work=/no/such/folder"], ["share", "/no/such/folder"]);
    fails(&["--share", &format!("work={}", file.display())], ["share", path(&file), "not a directory"]);
    fails(&["-v", "/no/such/folder:/work"], ["share", "/no/such/folder"]);
    symlink("/no/such/target", dir.path().join("dangling")).unwrap();
    fails(&["-v", &format!("{}:/work", dir.path().join("dangling").display())], ["dangling"]);
}

#[test]
fn a_share_tag_is_a_plain_name() {
    for tag in ["a/b", "..", ".", "a'b", "a\"b", "a b", "", "a,b", "ä", &"x".repeat(37)] {
        fails(&["--share", &format!("{tag}=/tmp")], ["share tag"]);
    }
    for tag in ["ctl", "rootfs", "certs"] {
        fails(&["--share", &format!("{tag}=/tmp")], [tag, "reserved"]);
    }
    fails(&["--share", "a=/tmp", "--share", "a=/var"], ["share tag a", "twice"]);
}

#[test]
fn a_shares_place_in_the_guest_is_a_plain_path() {
    for target in ["/", "/proc", "/dev", "/a/../b", "/a/./b"] {
        fails(&["-v", &format!("/tmp:{target}")], ["share target"]);
    }
    fails(&["-v", "/tmp:/x", "-v", "/var:/x"], ["share target /x", "twice"]);
}

#[test]
fn a_disk_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fails(&["--disk", "/no/such/disk"], ["disk", "/no/such/disk"]);
    fails(&["--disk", path(dir.path())], ["disk", path(dir.path())]);
    let image = dir.path().join("image");
    fs::write(&image, vec![0; 4096]).unwrap();
    fails(&["--disk", path(&image), "--disk", path(&image)], ["twice"]);
}

#[test]
fn absurd_sizes_are_refused_with_what_is_possible() {
    fails(&["--vcpus", "0"], ["virtual CPUs", "1 to"]);
    fails(&["--vcpus", "255"], ["virtual CPUs", "1 to"]);
    fails(&["-m", "1"], ["1 MiB of memory", "128"]);
    fails(&["-m", "9999999G"], ["of memory", "choose"]);
    fails(&["--scratch", "1M"], ["scratch", "16"]);
    fails(&["--scratch", "9999999G"], ["scratch", "choose"]);
}

#[test]
fn what_is_not_supported_is_refused_and_never_ignored() {
    fails(&["--net"], ["network", "--net"]);
}

#[test]
fn a_missing_user_or_folder_of_the_guest_is_named() {
    Vmette::run(["-u", "nobody-knows", "--", "true"]).exits(1).said(["nobody-knows"]);
    let missing = Vmette::run(["-w", "/no/such/folder", "--", "true"]).outcome();
    assert_ne!(missing.code, Some(0), "{missing:?}");
    missing.said(["/no/such/folder"]);
    fails(&["-w", "relative"], ["working directory", "relative"]);
}

#[test]
fn certificates_that_are_not_there_are_named() {
    fails(&["--ca-certs", "/no/such/certs"], ["/no/such/certs"]);
}
