//! What the workload's root can be made of, and who may write to it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::machine::{Vmette, shared_cache};

/// A small rootfs in a folder, made from the built-in one.
pub(crate) fn folder() -> (TempDir, PathBuf) {
    Vmette::run(["--quiet", "--", "true"]).exits(0);
    let images = shared_cache().join("images");
    let image = fs::read_dir(&images)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "sqfs") && is_builtin(path))
        .max_by_key(|path| path.metadata().unwrap().modified().unwrap())
        .expect("the built-in root's image");
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("rootfs");
    let status = Command::new("unsquashfs").args(["-q", "-n", "-d"]).args([&root, &image]).status().unwrap();
    assert!(status.success());
    fs::write(root.join("etc/marker"), "from the folder\n").unwrap();
    (dir, root)
}

/// Whether it is the built-in root's image, or its record: other tests keep converted archives in the same folder.
pub(crate) fn is_builtin(image: &Path) -> bool {
    fs::read_to_string(image.with_extension("json")).is_ok_and(|record| record.contains("\"builtin\""))
}

/// Runs a script with that root.
fn script(root: &str, script: &str) -> Vmette {
    Vmette::run([root, "--", "sh", "-c", script])
}

/// The same with a folder, and options besides.
fn script_in(root: &Path, options: &[&str], script: &str) -> Vmette {
    let root = root.to_str().unwrap();
    Vmette::run([options, &["--quiet", root, "--", "sh", "-c", script]].concat())
}

#[test]
fn a_folder_is_a_root_and_is_never_written_to() {
    let (_dir, root) = folder();
    script(
        root.to_str().unwrap(),
        "cat /etc/marker; echo changed > /etc/marker; touch /new; cat /etc/marker",
    )
    .exits(0)
    .printed("from the folder\nchanged\n");
    assert_eq!(fs::read_to_string(root.join("etc/marker")).unwrap(), "from the folder\n");
    assert!(!root.join("new").exists());
}

#[test]
fn a_folder_may_be_named_relative_to_the_current_one() {
    let (dir, root) = folder();
    for name in ["./rootfs", "rootfs", "rootfs/../rootfs"] {
        let outcome = script(name, "cat /etc/marker").dir(dir.path()).exits(0);
        outcome.printed("from the folder\n");
        assert!(!outcome.stderr.contains("oci") && !outcome.stderr.contains("registr"), "{outcome:?}");
    }
    Vmette::new(["--rootfs", ".", "--exec", "cat /etc/marker"])
        .dir(&root)
        .exits(0)
        .printed("from the folder\n");
}

#[test]
fn a_squashfs_image_is_a_root() {
    let (dir, root) = folder();
    fs::set_permissions(root.join("etc/marker"), fs::Permissions::from_mode(0o640)).unwrap();
    let image = dir.path().join("image.sqfs");
    let status =
        Command::new("mksquashfs").args([&root, &image]).arg("-quiet").arg("-no-progress").status().unwrap();
    assert!(status.success());
    let spec = format!("squashfs+file://{}", image.display());
    let before = fs::read(&image).unwrap();
    script(&spec, "stat -c '%a %u' /etc/marker; echo changed > /etc/marker").exits(0).printed("640 0\n");
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn an_archive_is_a_root_with_its_owners_and_modes() {
    let (dir, root) = folder();
    let program = root.join("usr/local");
    fs::create_dir_all(&program).unwrap();
    fs::write(program.join("tool"), "#!/bin/sh\nid -u\n").unwrap();
    fs::set_permissions(program.join("tool"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("tool", program.join("link")).unwrap();
    let archive = dir.path().join("root.tar.gz");
    let tar = Command::new("tar")
        .args(["--numeric-owner", "--owner=1234", "--group=4321", "-czf"])
        .arg(&archive)
        .arg("-C")
        .args([root.as_path(), Path::new(".")])
        .status()
        .unwrap();
    assert!(tar.success());
    let spec = format!("tar+file://{}", archive.display());
    let expected = "4751 1234:4321\ntool\n0\n";
    let check = "stat -c '%a %u:%g' /usr/local/tool; readlink /usr/local/link; /usr/local/link";
    script(&spec, check).exits(0).printed(expected);
    // From the cache now.
    script(&spec, check).exits(0).printed(expected);
}

/// Packed with the oldest format and a label, from a folder that only its owner may enter, with things in the places of
/// file systems that are no folders.
#[test]
fn an_odd_archive_is_a_root_for_every_user() {
    let (dir, root) = folder();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    let spec = |name: &str, options: &[&str]| {
        let archive = dir.path().join(name);
        let mut tar = Command::new("tar");
        tar.args(options)
            .args(["--numeric-owner", "--owner=501", "--group=501", "-cf"])
            .arg(&archive)
            .arg("-C");
        assert!(tar.args([root.as_path(), Path::new(".")]).status().unwrap().success());
        format!("tar+file://{}", archive.display())
    };
    let swap = |name: &str, made: &dyn Fn(&Path)| {
        let path = root.join(name);
        let _ = fs::remove_dir_all(&path);
        made(&path);
    };
    let check = "id -u; id -g; ls / > /dev/null && echo entered; cat /tmp 2> /dev/null || readlink /tmp; \
        stat -fc %T /proc /run; stat -c '%F %a %u' /";
    let check = |spec: &str, user: &str| Vmette::run([spec, "-u", user, "--", "sh", "-c", check]).exits(0);
    swap("tmp", &|path| fs::write(path, "a file\n").unwrap());
    let printed = "1000\n0\nentered\na file\nproc\ntmpfs\ndirectory 755 0\n";
    check(&spec("v7.tar", &["--format=v7"]), "1000:").printed(printed);
    swap("tmp", &|path| drop(fs::remove_file(path).and_then(|()| symlink("/nowhere/tmp", path))));
    swap("proc", &|path| fs::write(path, "").unwrap());
    swap("run", &|path| symlink("/nowhere/run", path).unwrap());
    let printed = "0\n50\nentered\n/nowhere/tmp\nproc\ntmpfs\ndirectory 755 0\n";
    check(&spec("label.tar", &["--label=a root"]), ":50").printed(printed);
}

#[test]
fn a_read_only_root_refuses_writes_and_the_status_arrives() {
    let (_dir, root) = folder();
    for root in ["builtin", root.to_str().unwrap()] {
        let outcome =
            Vmette::new(["--rootfs", root, "--rootfs-ro", "--exec", "touch /foo || exit 9"]).exits(9);
        outcome.showed(["Read-only file system"]);
        Vmette::run(["--rootfs-ro", root, "--", "sh", "-c", "touch /tmp/a /run/b /dev/shm/c && exit 3"])
            .exits(3);
    }
}

#[test]
fn a_scratch_disk_takes_more_than_the_memory_holds() {
    let write = "dd if=/dev/zero of=/big bs=1M count=700 2>/dev/null && stat -c %s /big";
    Vmette::run(["--mem-mib", "512", "--scratch", "1G", "--quiet", "--", "sh", "-c", write])
        .exits(0)
        .printed("734003200\n");
}

#[test]
fn a_scratch_disk_is_where_the_roots_writes_go() {
    let script = "df -m / | tail -1 | awk '{ print ($2 > 3000) }'; grep -c 'ext4' /proc/filesystems";
    Vmette::run(["--scratch", "4G", "--console", "--no-template", "--", "sh", "-c", script])
        .exits(0)
        .printed("1\n1\n")
        .said(["overlay upper on scratch disk"]);
}

#[test]
fn what_is_left_of_an_images_etc_as_it_is_is_noted() {
    let (_dir, root) = folder();
    for name in ["hostname", "machine-id"] {
        let _ = fs::remove_file(root.join("etc").join(name));
    }
    fs::create_dir(root.join("etc/hostname")).unwrap();
    symlink("/no/such/folder/id", root.join("etc/machine-id")).unwrap();
    let script = "cat /etc/machine-id | wc -c; ls -l /proc/1/fd | grep -c kmsg; dmesg";
    let outcome = script_in(&root, &[], script).exits(0);
    let mut lines = outcome.text().lines();
    assert_eq!((lines.next(), lines.next()), (Some("33"), Some("0")), "{outcome:?}");
    assert!(lines.any(|line| line.contains("vmette-guest: /etc/hostname")), "{outcome:?}");
}

#[test]
fn everybody_may_write_to_a_tmp_that_the_image_lacks() {
    let (_dir, root) = folder();
    for mode in [None, Some(0o750)] {
        let _ = fs::remove_dir_all(root.join("tmp"));
        if let Some(mode) = mode {
            fs::create_dir(root.join("tmp")).unwrap();
            fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let outcome = script_in(&root, &["--scratch", "64M"], "stat -c %a /tmp").exits(0);
        outcome.printed(format!("{:o}\n", mode.unwrap_or(0o1777)));
    }
}

#[test]
fn a_full_scratch_disk_says_so_and_the_run_goes_on() {
    let script =
        "dd if=/dev/zero of=/big bs=1M count=100; echo status $?; rm /big && echo small > /new && cat /new";
    let outcome = Vmette::run(["--scratch", "32M", "--", "sh", "-c", script]).exits(0);
    outcome.printed("status 1\nsmall\n").said(["No space left on device"]);
}

#[test]
fn a_full_memory_overlay_says_so_and_the_run_goes_on() {
    let script =
        "dd if=/dev/zero of=/big bs=1M count=2000; echo status $?; rm /big && echo small > /new && cat /new";
    Vmette::script(script).exits(0).printed("status 1\nsmall\n").said(["No space left on device"]);
}

#[test]
fn with_switch_root_the_command_is_process_one() {
    let outcome =
        Vmette::new(["--rootfs", "builtin", "--switch-root", "--exec", "cat /proc/1/comm"]).exits(0);
    assert!(outcome.text().contains("vmette-runner"), "{outcome:?}");
    Vmette::run(["--switch-root", "--", "cat", "/proc/1/comm"]).exits(0).printed("cat\n");
    Vmette::run(["--switch-root", "--", "sh", "-c", "echo $$; exit 6"]).exits(6).printed("1\n");
}

#[test]
fn the_workload_has_what_programs_expect_of_a_root() {
    let script = "set -e
        for d in /proc/self /sys/kernel /dev/pts /dev/shm /run /tmp; do test -d $d; done
        for f in /dev/null /dev/zero /dev/urandom /dev/tty /dev/ptmx; do test -c $f; done
        for l in /dev/fd /dev/stdin /dev/stdout /dev/stderr; do test -L $l; done
        echo through > /dev/stdout
        test $(stat -c %a /tmp) = 1777
        grep -qw localhost /etc/hosts
        grep -qw $(hostname) /etc/hosts
        ip addr show lo | grep -q 127.0.0.1
        echo all";
    Vmette::script(script).exits(0).printed("through\nall\n");
}

#[test]
fn the_workload_sees_its_own_processes_and_no_others() {
    let outcome = Vmette::script("cat /proc/[0-9]*/comm; true").exits(0);
    let mut names: Vec<&str> = outcome.text().lines().collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| *name != "cat");
    assert_eq!(names, ["sh", "vmette-init"], "{outcome:?}");
}
