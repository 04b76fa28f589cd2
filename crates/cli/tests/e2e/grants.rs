//! A guest reaches what it was granted, as it was granted, and nothing else of the host.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use crate::machine::Vmette;

/// A folder of the host with a file in it.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "of the host\n").unwrap();
    dir
}

fn share(dir: &Path, rest: &str) -> String {
    format!("{}:{rest}", dir.display())
}

/// Root in the guest, with everything that root can try.
fn attack(options: &[&str], script: &str) -> Vmette {
    Vmette::run([options, &["--", "sh", "-c", script]].concat())
}

#[test]
fn a_shares_files_are_read_and_written_in_place() {
    let dir = folder();
    let script =
        "cat /data/file; echo of the guest > /data/new; mkdir /data/sub; mv /data/file /data/sub/moved";
    attack(&["-v", &share(dir.path(), "/data")], script).exits(0).printed("of the host\n");
    let new = dir.path().join("new");
    assert_eq!(fs::read_to_string(&new).unwrap(), "of the guest\n");
    let us = fs::metadata(dir.path()).unwrap();
    assert_eq!(fs::metadata(&new).unwrap().uid(), us.uid());
    assert_eq!(fs::read_to_string(dir.path().join("sub/moved")).unwrap(), "of the host\n");
}

#[test]
fn a_tagged_share_is_below_mnt() {
    let dir = folder();
    let tagged = format!("work.1={}", dir.path().display());
    Vmette::new([
        "--rootfs",
        "builtin",
        "--share",
        &tagged,
        "--exec",
        "cat /mnt/work.1/file; echo hi > /mnt/work.1/new",
    ])
    .exits(0)
    .printed("of the host\n");
    assert_eq!(fs::read_to_string(dir.path().join("new")).unwrap(), "hi\n");
}

#[test]
fn several_shares_are_kept_apart() {
    let dirs = [folder(), folder(), folder()];
    let mut options = Vec::new();
    for (i, dir) in dirs.iter().enumerate() {
        fs::write(dir.path().join("file"), format!("{i}\n")).unwrap();
        options.extend(["-v".to_owned(), share(dir.path(), &format!("/data/{i}:ro"))]);
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    attack(&options, "cat /data/0/file /data/1/file /data/2/file").exits(0).printed("0\n1\n2\n");
}

/// The names and options that a user of docker gives: an inner folder first, a link on the way, a name that is no text.
#[test]
fn a_grant_is_the_folder_that_its_path_leads_to_on_the_host() {
    let (outer, inner) = (folder(), folder());
    fs::write(inner.path().join("file"), "inner\n").unwrap();
    fs::create_dir(outer.path().join("in")).unwrap();
    let names = tempfile::tempdir().unwrap();
    symlink(outer.path(), names.path().join("link")).unwrap();
    let raw = names.path().join(OsStr::from_bytes(b"no text \xff"));
    fs::create_dir(&raw).unwrap();
    let mut raw_volume = raw.clone().into_os_string();
    raw_volume.push(":/raw");
    let script = "cat /w/file /w/in/file; echo x > /w/in/new; echo x > /w/new; umask 0; echo x > /raw/new";
    let script = format!("{script}; mkdir /raw/open; stat -c %a /raw/new /raw/open");
    let options: [&OsStr; 11] = [
        "-v".as_ref(),
        &OsString::from(share(inner.path(), "/w/in:z,rw")),
        "-v".as_ref(),
        &OsString::from(share(&names.path().join("link"), "/w/:cached,ro")),
        "-v".as_ref(),
        &raw_volume,
        "-q".as_ref(),
        "--".as_ref(),
        "sh".as_ref(),
        "-c".as_ref(),
        script.as_ref(),
    ];
    Vmette::run(options).exits(0).printed("of the host\ninner\n666\n777\n");
    assert!(inner.path().join("new").exists() && !outer.path().join("new").exists());
    assert_eq!(fs::metadata(raw.join("new")).unwrap().permissions().mode() & 0o777, 0o666);
}

#[test]
fn a_read_only_share_refuses_writes_also_after_a_remount() {
    let dir = folder();
    let script = "echo x > /data/file; echo first $?
        mount -o remount,rw /data; mount -o remount,rw,bind /data
        tag=$(awk '$2 == \"/data\" { print $1 }' /proc/mounts)
        mkdir /again && mount -t virtiofs -o rw $tag /again
        for place in /data /again; do
            echo x > $place/file; echo x > $place/new; rm -f $place/file; chmod 777 $place/file; mkdir $place/sub
        done
        cat /data/file";
    let outcome = attack(&["-v", &share(dir.path(), "/data:ro")], script).exits(0);
    assert!(outcome.text().ends_with("of the host") && outcome.text().starts_with("first 1"), "{outcome:?}");
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "of the host\n");
    assert_eq!(crate::machine::entries(dir.path()), ["file"]);
    assert_ne!(fs::metadata(dir.path().join("file")).unwrap().permissions().mode() & 0o777, 0o777);
}

#[test]
fn shares_work_on_a_read_only_root_too() {
    let (dir, tagged) = (folder(), folder());
    let options = [
        "--rootfs-ro",
        "-v",
        &share(dir.path(), "/not/in/image"),
        "--share",
        &format!("t={}", tagged.path().display()),
    ];
    attack(&options, "cat /not/in/image/file /mnt/t/file && echo y > /not/in/image/new; touch /x || exit 4")
        .exits(4)
        .printed("of the host\nof the host\n");
    assert!(dir.path().join("new").exists());
}

#[test]
fn a_link_in_a_share_leads_nowhere_on_the_host() {
    let (dir, secret) = (folder(), folder());
    let target = secret.path().join("file");
    symlink(&target, dir.path().join("absolute")).unwrap();
    symlink(secret.path(), dir.path().join("folder")).unwrap();
    symlink(format!("..{}", target.display()), dir.path().join("relative")).unwrap();
    symlink("/etc/passwd", dir.path().join("passwd")).unwrap();
    let script = format!(
        "cd /data; for f in absolute folder/file relative ../../../../..{0}; do cat $f && echo LEAK; echo x > $f; done
         ln -s {0} /data/made; cat /data/made && echo LEAK; ln {0} /data/hard && echo LEAK
         cat passwd | grep -c :",
        target.display()
    );
    let outcome = attack(&["-v", &share(dir.path(), "/data")], &script).outcome();
    // The guest's own /etc/passwd, as any link in the guest would have it.
    assert!(!String::from_utf8_lossy(&outcome.stdout).contains("LEAK"), "{outcome:?}");
    assert_eq!(outcome.text(), "4", "{outcome:?}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "of the host\n");
}

#[test]
fn locks_of_the_guest_and_of_the_host_exclude_each_other() {
    let dir = folder();
    fs::write(dir.path().join("free"), "").unwrap();
    let held = fs::File::open(dir.path().join("file")).unwrap();
    held.lock().unwrap();
    let script = "for f in file free; do flock -n /data/$f true && echo $f is ours || echo $f is theirs; done
        exec 9< /data/free; flock -n 9; flock -n /data/free true || echo and not twice";
    // The built-in root has no `flock`; the host has.
    Vmette::run(["-v", &share(dir.path(), "/data"), "/", "--", "sh", "-c", script])
        .exits(0)
        .printed("file is theirs\nfree is ours\nand not twice\n");
}

#[test]
fn a_device_node_made_in_a_share_opens_no_device() {
    let dir = folder();
    let script = "mknod /data/node b 254 0; mknod /data/mem c 1 1; cat /data/mem | head -c 1; cat /data/file";
    attack(&["-v", &share(dir.path(), "/data")], script).outcome().showed(["of the host"]);
}

#[test]
fn what_was_not_granted_is_not_there() {
    let (granted, secret) = (folder(), folder());
    let file = secret.path().join("file");
    let script = format!(
        "test ! -e {} && test ! -e {} && echo unseen; ls {1} 2>/dev/null; ls /mnt; grep -c virtiofs /proc/mounts",
        file.display(),
        secret.path().display()
    );
    attack(&["-v", &share(granted.path(), "/data")], &script).outcome().printed("unseen\n1\n");
}

#[test]
fn a_disk_is_written_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    fs::write(&disk, vec![0; 8 << 20]).unwrap();
    let script = r#"for d in /sys/block/vd*; do
            [ "$(cat $d/size)" = 16384 ] && echo marked | dd of=/dev/${d##*/} bs=512 count=1 conv=sync 2>/dev/null && echo found
        done; sync"#;
    Vmette::run(["--disk", disk.to_str().unwrap(), "--", "sh", "-c", script]).exits(0).printed("found\n");
    assert!(fs::read(&disk).unwrap().starts_with(b"marked\n"));
}

#[test]
fn there_is_no_network() {
    // Nor the drivers of one, which would cost every start some time.
    let script = "ls /sys/class/net
        grep -E 'virtio_net|failover' /proc/modules
        ping -c 1 -W 2 10.0.2.2 >/dev/null 2>&1 && echo reached the host
        ping -c 1 -W 2 1.1.1.1 >/dev/null 2>&1 && echo reached the world
        wget -q -T 2 -O - http://10.0.2.2/ 2>/dev/null && echo fetched
        ping -c 1 -W 2 127.0.0.1 >/dev/null && echo loopback";
    Vmette::script(script).exits(0).printed("lo\nloopback\n");
}

#[test]
fn variables_folder_and_user_are_the_ones_that_were_asked_for() {
    let script = "echo $A-$B-$CALLER; pwd; id -u; id -g";
    let args = [
        "-e",
        "A=1 2",
        "--env",
        "B=",
        "-e",
        "CALLER",
        "-w",
        "/tmp",
        "-u",
        "65534:100",
        "--",
        "sh",
        "-c",
        script,
    ];
    Vmette::run(args).env("CALLER", "passed on").exits(0).printed("1 2--passed on\n/tmp\n65534\n100\n");
    Vmette::run(["-u", "nobody", "--", "id", "-un"]).exits(0).printed("nobody\n");
    Vmette::script("echo [$SECRET]").env("SECRET", "of the host").exits(0).printed("[]\n");
}

#[test]
fn there_is_no_vsock_port_where_there_is_no_vsock() {
    let args = ["--rootfs", "builtin", "--vsock-port", "-1", "--exec", "echo [${VMETTE_VSOCK_PORT-unset}]"];
    Vmette::new(args).exits(0).printed("[]\n");
    Vmette::script("echo [${VMETTE_VSOCK_PORT-unset}]; command -v vsock-send").exits(127).printed("[]\n");
}

#[test]
fn certificates_are_trusted_in_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=vmette test authority", "-keyout", "/dev/null", "-out"])
        .arg(dir.path().join("ca.crt"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = fs::read_to_string(dir.path().join("ca.crt")).unwrap();
    let line = certificate.lines().nth(1).unwrap();
    let script = format!(
        "grep -rlF '{line}' /etc/ssl/certs >/dev/null && grep -qF '{line}' \"$SSL_CERT_FILE\" && echo trusted"
    );
    Vmette::run(["--ca-certs", dir.path().to_str().unwrap(), "--", "sh", "-c", &script])
        .exits(0)
        .printed("trusted\n");
}

#[test]
fn more_processors_and_memory_are_there_when_asked_for() {
    let script = "nproc; awk '/MemTotal/ { print ($2 > 700000 && $2 < 800000) }' /proc/meminfo";
    Vmette::run(["--vcpus", "2", "-m", "768M", "--no-template", "--", "sh", "-c", script])
        .exits(0)
        .printed("2\n1\n");
}
