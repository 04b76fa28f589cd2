//! Sessions that are saved and go on, and sessions that start from them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmette::{
    Config, Error, ExecOptions, ExitStatus, Output, Session, SessionEnd, ShareMount, Snapshot, StartedFrom,
    VsockPort,
};

use crate::suite::Bench;

fn bench() -> Bench {
    Bench::new(tempfile::tempdir().unwrap(), None)
}

fn allowed(bench: &Bench) -> Config {
    bench.config().with(|c| c.snapshots.allow = true)
}

/// The configuration of a session that starts from the snapshot.
fn resumed(bench: &Bench, folder: &Path) -> Config {
    let base = bench.config();
    Config::resume(folder).with(|c| c.host.cache_dir = base.host.cache_dir)
}

/// A folder with room for snapshots, on a disk and not in memory.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("snapshot");
    (dir, path)
}

fn say(session: &Session, script: &str) -> String {
    let process = session.exec(&ExecOptions::shell(script)).unwrap();
    let collected = process.collect(1 << 20).unwrap();
    assert_eq!(collected.status, ExitStatus::Code(0), "{script}: {collected:?}");
    String::from_utf8(collected.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_session_goes_on_and_its_copies_begin_where_it_was() {
    let bench = bench();
    let (_dir, path) = folder();
    let session = bench.start(&allowed(&bench)).unwrap();
    // A command with open streams, which the session keeps and the copy loses.
    let counter = session.exec(&ExecOptions::argv(["cat"]).stdin(true)).unwrap();
    counter.write_stdin(b"one\n").unwrap();
    assert!(matches!(counter.next_output().unwrap(), Some(Output::Stdout(bytes)) if bytes == b"one\n"));
    say(&session, "echo before > /file; (while :; do sleep 1; done) > /dev/null & echo $! > /pid");
    session.snapshot(&path).unwrap();
    say(&session, "echo after >> /file");
    counter.write_stdin(b"two\n").unwrap();
    assert!(matches!(counter.next_output().unwrap(), Some(Output::Stdout(bytes)) if bytes == b"two\n"));

    let copies: Vec<Session> = (0..2).map(|_| bench.start(&resumed(&bench, &path)).unwrap()).collect();
    for copy in &copies {
        assert_eq!(copy.report().started_from, StartedFrom::Snapshot);
        assert_eq!(say(copy, "cat /file; kill -0 $(cat /pid) && echo runs"), "before\nruns");
    }
    let identity = "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -A n -t x1";
    let of = |session: &Session| say(session, identity).lines().map(str::to_owned).collect::<Vec<_>>();
    let (first, second, original) = (of(&copies[0]), of(&copies[1]), of(&session));
    for i in 0..3 {
        assert!(first[i] != second[i] && first[i] != original[i], "{first:?} {second:?} {original:?}");
    }
    say(&copies[0], "echo mine > /file");
    assert_eq!(say(&copies[1], "cat /file"), "before", "copies share nothing that they write to");
    assert_eq!(say(&session, "cat /file"), "before\nafter");
}

#[test]
fn a_copy_can_be_saved_again() {
    let bench = bench();
    let (dir, path) = folder();
    let session = bench.start(&allowed(&bench)).unwrap();
    session.snapshot(&path).unwrap();
    session.stop();
    let copy = bench.start(&resumed(&bench, &path).with(|c| c.snapshots.allow = true)).unwrap();
    say(&copy, "echo second > /file");
    let again = dir.path().join("again");
    copy.snapshot(&again).unwrap();
    say(&copy, "echo third > /file");
    copy.snapshot(dir.path().join("third")).unwrap();
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(say(&bench.start(&resumed(&bench, &again)).unwrap(), "cat /file"), "second");
}

#[test]
fn output_that_nobody_read_is_not_the_copys() {
    let bench = bench();
    let (_dir, path) = folder();
    let session = bench.start(&allowed(&bench)).unwrap();
    // More than the stream holds: the command waits for its reader, here and in the copy.
    let noisy = session.exec(&ExecOptions::shell("while :; do echo noise; done")).unwrap();
    session.snapshot(&path).unwrap();
    let copy = bench.start(&resumed(&bench, &path)).unwrap();
    assert_eq!(say(&copy, "echo quiet"), "quiet");
    assert!(
        matches!(noisy.next_output().unwrap(), Some(Output::Stdout(bytes)) if bytes.starts_with(b"noise\n"))
    );
}

#[test]
fn a_session_keeps_its_shares_and_a_copy_has_those_that_it_names() {
    let bench = bench();
    let (_dir, path) = folder();
    let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(mine.path().join("name"), "mine").unwrap();
    fs::write(other.path().join("name"), "other\n").unwrap();
    let shares = vec![ShareMount { target: Some("/data".into()), ..ShareMount::new("data", mine.path()) }];
    let session = bench.start(&allowed(&bench).with(|c| c.grants.shares = shares.clone())).unwrap();
    let busy = session.exec(&ExecOptions::shell("cd /data; cat").stdin(true)).unwrap();
    say(&session, "until ls -l /proc/*/cwd 2>/dev/null | grep -q /data; do :; done");
    let error = session.snapshot(&path).unwrap_err().to_string();
    assert!(error.contains("/data") && error.contains("busy"), "{error}");
    assert!(!path.exists());
    busy.close_stdin().unwrap();
    busy.wait().unwrap();
    session.snapshot(&path).unwrap();
    assert_eq!(say(&session, "cat /data/name; echo x > /data/new"), "mine");
    assert!(mine.path().join("new").exists());

    let bare = bench.start(&resumed(&bench, &path)).unwrap();
    assert_eq!(say(&bare, "ls /data | wc -l"), "0", "nothing is implied");
    drop(bare);
    let shares = vec![ShareMount { path: other.path().to_owned(), read_only: true, ..shares[0].clone() }];
    let copy = bench.start(&resumed(&bench, &path).with(|c| c.grants.shares = shares)).unwrap();
    assert_eq!(
        say(&copy, "cat /data/name; echo x 2>/dev/null > /data/new || echo refused"),
        "other\nrefused"
    );
    assert_eq!(Snapshot::open(&path).unwrap().info().shares, ["data"]);
}

fn numbers(text: &str) -> BTreeSet<u32> {
    text.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

/// The names of all files in a folder of the host that are not empty.
fn files_in(folder: &Path) -> BTreeSet<u32> {
    let full = |entry: &fs::DirEntry| entry.metadata().unwrap().len() > 0;
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.filter(full).map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn nothing_that_is_written_to_a_share_is_lost_while_a_machine_is_saved() {
    let bench = bench();
    let (_dir, path) = folder();
    let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shares = vec![ShareMount { target: Some("/data".into()), ..ShareMount::new("data", mine.path()) }];
    let session = bench.start(&allowed(&bench).with(|c| c.grants.shares = shares.clone())).unwrap();
    // The share is in use now and then only: what was written, and not where, is what the process knows.
    let writer = "i=0; until [ -e /stop ]; do i=$((i+1)); read name < /proc/sys/kernel/hostname; \
                  echo $i > /data/$i && echo $i | tee -a /written >> /written.$name; usleep 5000; done; touch /stopped";
    let _writer = session.exec(&ExecOptions::shell(writer)).unwrap();
    say(&session, "until [ -s /written ]; do :; done");
    // It may be caught in the act, which is a refusal.
    let saved = (0..20).find_map(|_| match session.snapshot(&path) {
        Ok(()) => Some(()),
        Err(e) => {
            assert!(e.to_string().contains("busy"), "{e}");
            None
        }
    });
    assert!(saved.is_some());
    let all = "n=$(wc -l < /written); until [ $(wc -l < /written) -gt $((n+3)) ]; do :; done; touch /stop; \
               until [ -e /stopped ]; do :; done; cat /written";
    let written = numbers(&say(&session, all));
    assert_eq!(files_in(mine.path()), written);
    drop(session);

    let shares = vec![ShareMount { path: other.path().to_owned(), ..shares[0].clone() }];
    let copy = bench.start(&resumed(&bench, &path).with(|c| c.grants.shares = shares)).unwrap();
    say(&copy, all);
    // As the machine that it is now.
    let written = numbers(&say(&copy, "cat /written.$(hostname)"));
    let missed: Vec<_> = written.difference(&files_in(other.path())).copied().collect();
    assert!(!written.is_empty() && missed.is_empty(), "{missed:?} of {written:?}");
}

#[test]
fn a_session_that_cannot_have_its_shares_back_does_not_go_on_without_them() {
    let bench = bench();
    let (_dir, path) = folder();
    let mine = tempfile::tempdir().unwrap();
    let shares = vec![ShareMount { target: Some("/data".into()), ..ShareMount::new("data", mine.path()) }];
    let session = bench.start(&allowed(&bench).with(|c| c.grants.shares = shares)).unwrap();
    drop(mine);
    session.snapshot(&path).unwrap_err();
    assert!(!path.exists());
    let end = session.stop_handle().wait_end(Duration::from_secs(20));
    assert!(matches!(&end, Some(SessionEnd::Error(cause)) if cause.contains("lost its shares")), "{end:?}");
}

#[test]
fn a_process_of_a_copy_never_sees_the_machine_that_it_was() {
    let bench = bench();
    let (_dir, path) = folder();
    let session = bench.start(&allowed(&bench)).unwrap();
    // Without a pause: whatever time it had before its machine is one of its own would be seen.
    let watch = "while :; do read name < /proc/sys/kernel/hostname; echo $name; done > /seen";
    let watcher = session.exec(&ExecOptions::shell(watch)).unwrap();
    let name = say(&session, "until [ -s /seen ]; do :; done; hostname");
    session.snapshot(&path).unwrap();
    let before = format!("grep -cx {name} /seen");
    let count: u64 = say(&session, &before).parse().unwrap();
    say(&session, &format!("until [ $({before}) -gt {count} ]; do :; done"));
    watcher.signal(9).unwrap();

    let seen = [0, 1].map(|_| {
        let copy = bench.start(&resumed(&bench, &path)).unwrap();
        say(&copy, &format!("until grep -qx $(hostname) /seen; do :; done; {before}"))
    });
    assert_eq!(seen[0], seen[1], "what each of them has seen is what there was when they were saved");
    assert_ne!(seen[0], "0");
}

#[test]
fn a_pid_1_of_the_users_divides_its_control_group_and_commands_run_beside_it() {
    let bench = bench();
    let (_dir, path) = folder();
    // As systemd does: itself into a group, and then what all groups are to have.
    let init = "{ mount -t cgroup2 none /mnt && mkdir /mnt/init.scope && echo 1 > /mnt/init.scope/cgroup.procs && \
                echo +pids +memory > /mnt/cgroup.subtree_control && cat /proc/self/cgroup; } > /tried 2>&1; \
                mv /tried /ready; while :; do sleep 1000; done";
    let config = allowed(&bench).with(|c| {
        c.command.switch_root = true;
        c.command.shell = Some(init.into());
    });
    let session = bench.start(&config).unwrap();
    assert_eq!(say(&session, "until [ -e /ready ]; do :; done; cat /ready"), "0::/init.scope");
    session.snapshot(&path).unwrap();
    let still = "ls /mnt; cat /proc/1/comm";
    let copy = bench.start(&resumed(&bench, &path)).unwrap();
    assert_eq!(say(&copy, still), say(&session, still));
}

#[test]
fn a_copy_has_vsock_when_it_asks_for_it() {
    let bench = bench();
    let (_dir, path) = folder();
    for read_only in [false, true] {
        let config = allowed(&bench).with(|c| c.root.read_only = read_only);
        let session = bench.start(&config).unwrap();
        assert!(matches!(session.vsock_listen(5000), Err(Error::Vsock(_))));
        session.snapshot(&path).unwrap();
        drop(session);
        let without = bench.start(&resumed(&bench, &path)).unwrap();
        assert!(matches!(without.vsock_listen(5000), Err(Error::Vsock(_))), "nothing is implied");
        drop(without);
        // Two at once: the ports of each are its own.
        let config = resumed(&bench, &path).with(|c| {
            c.vsock.port = VsockPort::Fixed(5000);
            c.vsock.echo = Some(false);
        });
        let copies: Vec<Session> = (0..2).map(|_| bench.start(&config).unwrap()).collect();
        for (number, copy) in copies.iter().enumerate() {
            let listener = copy.vsock_listen(5000).unwrap();
            let script = format!("echo {number} | vsock-send $VMETTE_VSOCK_PORT");
            let guest = copy.exec(&ExecOptions::shell(&script)).unwrap();
            let mut host = listener.accept().unwrap();
            let mut text = String::new();
            host.read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("{number}\n"));
            host.write_all(b"answer\n").unwrap();
            drop(host);
            let collected = guest.collect(1 << 20).unwrap();
            assert_eq!(collected.stdout, b"answer\n", "{collected:?}");
            let error = copy.snapshot(path.with_extension("again")).unwrap_err().to_string();
            assert!(error.contains("vsock device") || error.contains("allow_snapshot"), "{error}");
        }
        drop(copies);
        fs::remove_dir_all(&path).unwrap();
    }
    let config = allowed(&bench).with(|c| c.vsock.device = true);
    let error = bench.start(&config).unwrap().snapshot(&path).unwrap_err().to_string();
    assert!(error.contains("cannot save a vsock device"), "{error}");
}

#[test]
fn only_who_said_so_beforehand_is_saved() {
    let bench = bench();
    let (_dir, path) = folder();
    let session = bench.start(&bench.config()).unwrap();
    let error = session.snapshot(&path).unwrap_err();
    assert!(
        matches!(&error, Error::SaveFailed(reason) if reason.to_string().contains("allow snapshots")),
        "{error}"
    );
    session.stop();
    assert!(session.snapshot(&path).is_err());
    assert!(!path.exists());
}
