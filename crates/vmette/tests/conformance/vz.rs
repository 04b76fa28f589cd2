//! The suite on the engine of macOS, on the stand-in for its frameworks, and how sessions on it end. The guest is a process
//! that serves the real agent, see the stand-in's guest in `crates/vz/examples`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmette::{
    Accelerator, Config, Error, ExecOptions, ExitStatus, Isolation, Rootfs, RootfsShare, Session, SessionEnd,
    ShareMount, Started, StartedFrom, StopHandle, VsockForward, WorkloadStrategy,
};

use crate::suite::{self, Bench};

const KEEP: usize = 1 << 20;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Built with the tests of the engine, beside these.
fn guest() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let guest = own.parent().and_then(Path::parent).unwrap().join("examples/standin_guest");
    assert!(guest.is_file(), "{}: build the examples of vmette-vz first", guest.display());
    guest
}

/// A machine whose agent works below a folder of its own; the library picks the engine.
fn config(dir: &Path, words: &str) -> Config {
    let root = dir.join("root");
    fs::create_dir_all(&root).unwrap();
    fs::write(dir.join("initramfs"), "x").unwrap();
    let rootfs = RootfsShare { path: root.clone(), read_only: false };
    Config::default().with(|c| {
        c.machine.kernel = Some(guest());
        c.machine.initramfs = Some(dir.join("initramfs"));
        c.machine.cmdline = Some(format!("console=hvc0 quiet root={} {words}", root.display()));
        c.root.rootfs = Some(Rootfs::Share(rootfs));
        c.host.cache_dir = Some(dir.join("cache"));
    })
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    Bench::with(dir, None, config)
}

suite::tests!(bench);

fn start(config: &Config) -> Result<Session, Error> {
    Session::builder(config).captured().start()?.running()
}

fn shell(dir: &Path, words: &str, command: &str) -> Result<Session, Error> {
    start(&config(dir, words).with(|c| c.command.shell = Some(command.into())))
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn the_library_has_picked_vz() {
    let dir = tempfile::tempdir().unwrap();
    let session = start(&config(dir.path(), "")).unwrap();
    let report = session.report();
    assert!(report.engine.starts_with("Virtualization.framework"), "{}", report.engine);
    assert_eq!((report.accelerator, report.isolation), (Accelerator::Hvf, Isolation::Hardware));
    assert_eq!(report.started_from, StartedFrom::Cold);
}

#[test]
fn a_start_that_fails_is_an_error_with_the_frameworks_words() {
    let dir = tempfile::tempdir().unwrap();
    let error = shell(dir.path(), "standin.start=fail", "true").expect_err("no machine").to_string();
    assert!(error.contains("failed to start"), "{error}");
    let error = shell(dir.path(), "standin.unsigned", "true").expect_err("no machine").to_string();
    assert!(error.contains("codesign"), "{error}");
}

#[test]
fn a_guest_that_stops_with_an_error_ends_the_session_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let error = shell(dir.path(), "guest=crash", "true").expect_err("no agent").to_string();
    assert!(error.contains("stopped unexpectedly") && error.contains("last words"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    // The agent is the parent of its commands.
    let session = start(&config(dir.path(), "")).unwrap();
    let _killer = session.exec(&ExecOptions::shell("kill -9 $PPID"));
    let end = session.wait();
    assert!(matches!(&end, SessionEnd::Error(cause) if cause.contains("stopped unexpectedly")), "{end:?}");
    assert!(session.ping().is_err());
}

#[test]
fn a_timeout_ends_a_guest_that_never_comes_up() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "guest=silent").with(|c| c.machine.timeout_seconds = Some(1));
    assert!(matches!(start(&config), Err(Error::Ended(SessionEnd::TimedOut))));
}

#[test]
fn a_stop_during_the_start_ends_it_as_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let stop = StopHandle::new();
    let config = config(dir.path(), "guest=silent");
    thread::scope(|scope| {
        let starter = scope.spawn(|| Session::builder(&config).stop_handle(&stop).start());
        stop.stop();
        assert!(matches!(starter.join().unwrap().unwrap(), Started::Ended(SessionEnd::Stopped)));
    });
}

#[test]
fn grants_reach_the_machine_as_they_were_given() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let share = ShareMount { read_only: true, ..ShareMount::new("in", dir.path()) };
    let config = config(dir.path(), "").with(|c| {
        c.grants.shares = vec![share, ShareMount::new("work", dir.path())];
        c.grants.disks = vec![disk.clone()];
        c.root.scratch_mib = Some(16);
        c.grants.net = true;
        c.machine.vcpus = Some(3);
        c.machine.mem_mib = Some(384);
    });
    let session = start(&config).unwrap();
    assert!(session.report().grants.network);
    let given = fs::read_to_string(dir.path().join("root/machine")).unwrap();
    for line in [
        "cpus=3".to_owned(),
        format!("memory={}", 384 << 20),
        format!("share=rootfs:ro:{}", dir.path().join("root").display()),
        format!("share=in:ro:{}", dir.path().display()),
        format!("share=work:rw:{}", dir.path().display()),
        format!("disk=disk0:rw:{}", disk.display()),
    ] {
        assert!(given.lines().any(|given| given == line), "{line} in {given}");
    }
    assert!(given.contains("disk=scratch:rw:") && given.contains("network=nat:"), "{given}");
}

#[test]
fn a_session_with_a_network_boots_cold_and_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::write(&image, vec![0; 4096]).unwrap();
    let rootfs = vmette::RootfsBlock { path: image, fstype: vmette::BlockFs::Squashfs };
    let bare = config(dir.path(), "").with(|c| c.root.rootfs = Some(Rootfs::Block(rootfs)));
    let config = bare.clone().with(|c| c.grants.net = true);
    let session = start(&config.clone().with(|c| c.snapshots.allow = true)).unwrap();
    let report = session.report();
    assert_eq!((report.started_from, report.grants.network), (StartedFrom::Cold, true));
    let saved = dir.path().join("saved");
    let error = session.snapshot(&saved).unwrap_err();
    assert!(matches!(&error, Error::SaveFailed(reason) if reason.to_string().contains("network")), "{error}");
    let build = config.clone().with(|c| c.snapshots.build = Some(saved.clone()));
    let error = start(&build).expect_err("refused before it boots");
    assert!(matches!(&error, Error::SaveFailed(reason) if reason.to_string().contains("network")), "{error}");
    assert!(!saved.exists());
    // One that was saved without a network does not get one when it is resumed.
    let session = start(&bare.with(|c| c.snapshots.allow = true)).unwrap();
    session.snapshot(&saved).unwrap();
    let resume = config.with(|c| {
        c.snapshots.resume = Some(saved);
        c.root.rootfs = None;
    });
    let error = start(&resume).expect_err("refused before it starts").to_string();
    assert!(error.contains("a machine that starts from a snapshot has none"), "{error}");
}

#[test]
fn a_save_that_fails_half_way_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::write(&image, vec![0; 4096]).unwrap();
    let rootfs = vmette::RootfsBlock { path: image, fstype: vmette::BlockFs::Squashfs };
    let config = config(dir.path(), "standin.save=fail").with(|c| {
        c.root.rootfs = Some(Rootfs::Block(rootfs));
        c.snapshots.allow = true;
    });
    let session = start(&config).unwrap();
    let report = session.report();
    assert_eq!(report.started_from, StartedFrom::Cold, "no template could be saved");
    assert!(report.notes.iter().any(|note| note.contains("failed to save")), "{:?}", report.notes);
    let in_folder = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let templates: Vec<_> = in_folder(&dir.path().join("cache/templates")).collect();
    assert!(
        templates.iter().all(|name| Path::new(name).extension() == Some("lock".as_ref())),
        "{templates:?}"
    );
    let snapshots = dir.path().join("snapshots");
    fs::create_dir(&snapshots).unwrap();
    let error = session.snapshot(snapshots.join("saved")).unwrap_err().to_string();
    assert!(error.contains("failed to save"), "{error}");
    assert_eq!(in_folder(&snapshots).count(), 0);
    // The session goes on.
    let all = session.exec(&ExecOptions::shell("echo on")).unwrap().collect(KEEP).unwrap();
    assert_eq!(all.stdout, b"on\n");
}

#[test]
fn sessions_start_from_a_template() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::write(&image, vec![0; 4096]).unwrap();
    let rootfs = vmette::RootfsBlock { path: image.clone(), fstype: vmette::BlockFs::Squashfs };
    let config = config(dir.path(), "").with(|c| c.root.rootfs = Some(Rootfs::Block(rootfs)));
    for _ in 0..2 {
        let session = start(&config).unwrap();
        let report = session.report();
        assert_eq!(report.started_from, StartedFrom::Template, "{:?}", report.notes);
        let all = session.exec(&ExecOptions::shell("echo restored")).unwrap().collect(KEEP).unwrap();
        assert_eq!((all.stdout.as_slice(), all.status), (&b"restored\n"[..], ExitStatus::Code(0)));
        let given = fs::read_to_string(dir.path().join("root/machine")).unwrap();
        assert!(given.contains(&format!("disk=rootfs:ro:{}", image.display())), "{given}");
    }
}

#[test]
fn eight_sessions_at_once_are_apart_and_leave_no_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let before = open_files();
    thread::scope(|scope| {
        for i in 0..8 {
            let dir = dir.path().join(i.to_string());
            scope.spawn(move || {
                let session = shell(&dir, "", &format!("echo {i}; exit {i}")).unwrap();
                let output = session.wait_captured();
                assert_eq!((output.exit_code, output.output), (i, format!("{i}\n")));
                // Some are stopped, some only dropped.
                if i % 2 == 0 {
                    session.stop();
                }
            });
        }
    });
    let deadline = Instant::now() + LIMIT;
    // What threads of a session hold goes with them, a moment after its end.
    while open_files() > before && Instant::now() < deadline {
        thread::yield_now();
    }
    assert_eq!(open_files(), before);
}

#[test]
fn a_session_that_is_dropped_ends_its_machine() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("root/pid");
    let session = shell(dir.path(), "", &format!("echo $$ > {}; exec sleep 1000", marker.display())).unwrap();
    let deadline = Instant::now() + LIMIT;
    let pid = loop {
        match fs::read_to_string(&marker) {
            Ok(text) if text.ends_with('\n') => break text.trim().to_owned(),
            _ => assert!(Instant::now() < deadline),
        }
    };
    drop(session);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "the command lives on");
    }
}

#[test]
fn concurrent_first_runs_share_a_template_and_none_fails() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::write(&image, vec![0; 4096]).unwrap();
    let rootfs = vmette::RootfsBlock { path: image, fstype: vmette::BlockFs::Squashfs };
    let config = Arc::new(config(dir.path(), "").with(|c| c.root.rootfs = Some(Rootfs::Block(rootfs))));
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let config = config.clone();
            thread::spawn(move || start(&config).unwrap().report().started_from)
        })
        .collect();
    for run in runs {
        assert_eq!(run.join().unwrap(), StartedFrom::Template);
    }
}

#[test]
fn a_session_is_saved_goes_on_and_is_resumed_as_often_as_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    fs::write(&image, vec![0; 4096]).unwrap();
    let rootfs = vmette::RootfsBlock { path: image, fstype: vmette::BlockFs::Squashfs };
    let config = config(dir.path(), "").with(|c| c.root.rootfs = Some(Rootfs::Block(rootfs)));
    let saved = dir.path().join("saved");
    let session = start(&config.clone().with(|c| c.snapshots.allow = true)).unwrap();
    session.snapshot(&saved).unwrap();
    session.ping().unwrap();
    session.stop();
    let resumed = |change: &dyn Fn(&mut Config)| {
        let mut config = config.clone().with(|c| {
            c.snapshots.resume = Some(saved.clone());
            c.command.shell = Some("echo resumed; exit 5".into());
            c.root.rootfs = None;
        });
        change(&mut config);
        start(&config)
    };
    for _ in 0..2 {
        let output = resumed(&|_| ()).unwrap().wait_captured();
        assert_eq!((output.exit_code, output.output.as_str()), (5, "resumed\n"));
    }
    let error =
        resumed(&|c| c.grants.shares = vec![ShareMount::new("in", dir.path())]).expect_err("no place for it");
    assert!(error.to_string().contains("shares or disks"), "{error}");
}

#[test]
fn a_session_with_a_share_says_why_it_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let session = start(&config(dir.path(), "").with(|c| c.snapshots.allow = true));
    let error = session
        .and_then(|session| session.snapshot(dir.path().join("saved")))
        .expect_err("a share is its root");
    assert!(error.to_string().contains("shares or disks"), "{error}");
    assert!(!dir.path().join("saved").exists());
}

/// The guest's own port 9 has it say `hello` at a port of the host, and passes back what it is answered.
fn have_dialled(session: &Session, port: u32) -> UnixStream {
    let mut stream = session.vsock_connect(9).unwrap();
    stream.write_all(&port.to_le_bytes()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

#[test]
fn vsock_goes_both_ways_and_to_sockets_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let behind = UnixListener::bind(&path).unwrap();
    let session = start(&config(dir.path(), "").with(|c| {
        c.vsock.forwards = vec![VsockForward { port: 5000, path }];
        c.command.workload = WorkloadStrategy::Agent;
    }))
    .unwrap();
    let exchange = |caller: UnixStream, mut accepted: UnixStream| {
        let (mut caller, mut text) = (caller, String::new());
        accepted.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        accepted.write_all(b"and back").unwrap();
        drop(accepted);
        text.clear();
        caller.read_to_string(&mut text).unwrap();
        assert_eq!(text, "and back");
    };
    let caller = have_dialled(&session, 5000);
    exchange(caller, behind.accept().unwrap().0);
    let listener = session.vsock_listen(0).unwrap();
    let caller = have_dialled(&session, listener.port());
    exchange(caller, listener.accept_until(Instant::now() + LIMIT).unwrap().unwrap());
    // Ports that are chosen come from where the agent's is not.
    assert!(session.vsock_listen(1024).is_err() && session.vsock_connect(1024).is_err());
    session.stop();
    assert!(listener.accept().is_none());
}
