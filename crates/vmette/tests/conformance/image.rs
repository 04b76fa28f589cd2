//! What an image says about how it wants to be run, in real machines. The built-in root stands for the image.

use std::time::{Duration, Instant};

use vmette::{
    Config, ExecOptions, ExitStatus, ImageConfig, Session, SessionEnd, ShareMount, WorkloadStrategy,
};

use crate::suite::Bench;

const KEEP: usize = 1 << 20;

fn bench() -> Bench {
    Bench::new(tempfile::tempdir().unwrap(), None)
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn config(bench: &Bench, image: ImageConfig) -> Config {
    bench.config().with(|c| c.root.image = image)
}

/// A session without a command of its own.
fn idle(bench: &Bench, image: ImageConfig, change: impl FnOnce(&mut Config)) -> Session {
    let mut config = config(bench, image).with(|c| c.command.workload = WorkloadStrategy::Agent);
    change(&mut config);
    bench.start(&config).unwrap()
}

fn says(session: &Session, options: &ExecOptions) -> String {
    let all = session.exec(options).unwrap().collect(KEEP).unwrap();
    assert_eq!(all.status, ExitStatus::Code(0), "{}", String::from_utf8_lossy(&all.stderr));
    String::from_utf8(all.stdout).unwrap()
}

fn shell(session: &Session, script: &str) -> String {
    says(session, &ExecOptions::shell(script))
}

#[test]
fn the_images_command_runs_in_its_surroundings() {
    let bench = bench();
    let image = ImageConfig {
        env: vec![("GREETING".into(), "hello".into()), ("HOME".into(), "/of/image".into())],
        entrypoint: strings(&["sh", "-c", "echo $GREETING $HOME $0 $(id -u) $(id -g) $(pwd)"]),
        cmd: strings(&["cmd"]),
        user: Some("nobody".into()),
        working_dir: Some("/made/by/vmette".into()),
        ..ImageConfig::default()
    };
    let output = bench.start(&config(&bench, image.clone())).unwrap().wait_captured();
    assert_eq!(
        (output.exit_code, output.output.as_str()),
        (0, "hello /of/image cmd 65534 65534 /made/by/vmette\n")
    );

    let own = config(&bench, image).with(|c| {
        c.command.argv = Some(strings(&["mine"]));
        c.command.user = Some("7:8".into());
        c.command.cwd = Some("/srv".into());
        c.command.env = vec![("GREETING".into(), "bye".into())];
    });
    let output = bench.start(&own).unwrap().wait_captured();
    assert_eq!(output.output, "bye /of/image mine 7 8 /srv\n");
}

#[test]
fn an_images_user_starts_in_the_root_and_has_its_home() {
    let bench = bench();
    let image = ImageConfig {
        user: Some("nobody".into()),
        cmd: strings(&["sh", "-c", "pwd; echo $HOME"]),
        ..ImageConfig::default()
    };
    let output = bench.start(&config(&bench, image)).unwrap().wait_captured().output;
    let (folder, home) = output.split_once('\n').unwrap();
    assert_eq!(folder, "/");
    let session = idle(&bench, ImageConfig::default(), |_| {});
    let passwd = shell(&session, "grep ^nobody: /etc/passwd");
    assert_eq!(home.trim_end(), passwd.trim_end().split(':').nth(5).unwrap());
}

#[test]
fn further_commands_inherit_all_but_the_entrypoint() {
    let bench = bench();
    let image = ImageConfig {
        env: vec![("A".into(), "image".into())],
        entrypoint: strings(&["/no/such/entrypoint"]),
        user: Some("nobody".into()),
        working_dir: Some("/var/tmp".into()),
        ..ImageConfig::default()
    };
    let session = idle(&bench, image, |config| config.command.env = vec![("B".into(), "caller".into())]);
    assert_eq!(shell(&session, "echo $A $B $(id -un) $(pwd)"), "image caller nobody /var/tmp\n");
    let own = ExecOptions::shell("echo $A $(id -un) $(pwd)").env("A", "own").user("0").cwd("/srv");
    assert_eq!(says(&session, &own), "own root /srv\n");
}

#[test]
fn a_folder_that_only_the_caller_names_must_exist() {
    let bench = bench();
    let image = ImageConfig { cmd: strings(&["true"]), ..ImageConfig::default() };
    let missing = config(&bench, image).with(|c| c.command.cwd = Some("/no/such".into()));
    let error = bench.start(&missing).unwrap_err().to_string();
    assert!(error.contains("/no/such"), "{error}");
}

#[test]
fn volumes_take_writes_in_a_read_only_root_and_keep_what_the_image_has() {
    let bench = bench();
    let image = ImageConfig {
        volumes: strings(&["/etc", "/new/volume", "/var/tmp", "/etc/ssl", "/run/inside", "/proc/x", "/"]),
        working_dir: Some("/made".into()),
        ..ImageConfig::default()
    };
    let session = idle(&bench, image.clone(), |config| config.root.read_only = true);
    shell(&session, "! touch /touched 2>/dev/null && ! touch /srv/x 2>/dev/null");
    // What is there stays, is changed, and goes.
    shell(
        &session,
        "grep -q ^root: /etc/passwd && echo x >> /etc/passwd && tail -n 1 /etc/passwd | grep -qx x",
    );
    shell(&session, "rm /etc/group && ! test -e /etc/group && mkdir /etc/ssl/own && touch /etc/ssl/own/x");
    shell(&session, "touch /new/volume/x /run/inside/x");
    assert_eq!(shell(&session, "stat -c '%a %u' /var/tmp; stat -c '%a' /etc"), "1777 0\n755\n");
    let own = ExecOptions::shell("touch /var/tmp/x && ! touch /etc/x 2>/dev/null && pwd").user("nobody");
    assert_eq!(says(&session, &own), "/made\n");
    // The machine has its own name in a volume, too.
    assert_eq!(shell(&session, "cat /etc/hostname"), shell(&session, "hostname"));
    shell(&session, "! cut -d' ' -f2 /proc/mounts | grep vmette-volumes && ! test -e /run/.vmette-volumes");

    // The writes are gone with the machine.
    let fresh = idle(&bench, image, |config| config.root.read_only = true);
    shell(&fresh, "test -e /etc/group && ! test -e /new/volume/x");
    assert_ne!(shell(&fresh, "cat /etc/machine-id"), shell(&session, "cat /etc/machine-id"));
}

#[test]
fn volumes_of_a_writable_root_are_there() {
    let bench = bench();
    let image = ImageConfig { volumes: strings(&["/data/a,b:c", "/data"]), ..ImageConfig::default() };
    let session = idle(&bench, image.clone(), |_| {});
    shell(&session, "touch /data/x '/data/a,b:c/x' /anywhere");
    let session = idle(&bench, image, |config| config.root.read_only = true);
    shell(&session, "touch /data/x '/data/a,b:c/x' && ! touch /anywhere 2>/dev/null");
}

#[test]
fn a_command_that_is_pid_1_has_its_volumes_too() {
    let bench = bench();
    let image = ImageConfig {
        volumes: strings(&["/data"]),
        cmd: strings(&["sh", "-c", "touch /data/x && ! touch /x 2>/dev/null && echo $$"]),
        ..ImageConfig::default()
    };
    let config = config(&bench, image).with(|c| {
        c.command.switch_root = true;
        c.root.read_only = true;
    });
    let output = bench.start(&config).unwrap().wait_captured();
    assert_eq!((output.exit_code, output.output.as_str()), (0, "1\n"));
}

#[test]
fn a_volume_that_is_a_file_is_an_error_that_names_it() {
    let bench = bench();
    let image = ImageConfig { volumes: strings(&["/etc/passwd/x"]), ..ImageConfig::default() };
    let error = bench.start(&config(&bench, image)).unwrap_err().to_string();
    assert!(error.contains("/etc/passwd/x") && error.contains("volume"), "{error}");
}

#[test]
fn a_share_takes_the_place_of_a_volume() {
    let bench = bench();
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("of-host"), "").unwrap();
    let image = ImageConfig { volumes: strings(&["/data", "/data/inner"]), ..ImageConfig::default() };
    let session = idle(&bench, image, |config| {
        let target = Some("/data".into());
        config.grants.shares.push(ShareMount {
            target,
            read_only: true,
            ..ShareMount::new("d", host.path())
        });
        config.root.read_only = true;
    });
    assert_eq!(shell(&session, "ls /data"), "of-host\n");
    shell(&session, "! touch /data/x 2>/dev/null");
}

/// A command that ends on that signal only, once it is ready.
fn stubborn(signal: &str) -> ImageConfig {
    let script =
        format!("trap '' TERM; trap 'echo asked; exit 5' {signal}; echo ready; while :; do sleep 0.1; done");
    ImageConfig {
        cmd: vec!["sh".into(), "-c".into(), script],
        stop_signal: Some(format!("SIG{signal}")),
        ..ImageConfig::default()
    }
}

fn ready(session: &Session) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let output = session.capture_rx().unwrap();
    assert_eq!(output.recv().unwrap(), b"ready\n");
    output
}

#[test]
fn a_command_is_asked_to_end_by_its_images_signal() {
    let bench = bench();
    let session = bench.start(&config(&bench, stubborn("USR1"))).unwrap();
    let output = ready(&session);
    assert_eq!(session.stop_gently(Duration::from_secs(60)), SessionEnd::Exited(5));
    let said: Vec<u8> = output.into_iter().flatten().collect();
    // The shell may have a word to say of its `sleep`, which the signal ends too.
    assert!(said.ends_with(b"asked\n"), "{:?}", String::from_utf8_lossy(&said));
}

#[test]
fn a_command_that_does_not_end_in_time_is_ended() {
    let bench = bench();
    let image = ImageConfig { stop_signal: None, ..stubborn("USR1") };
    let session = bench.start(&config(&bench, image)).unwrap();
    let _output = ready(&session);
    let begun = Instant::now();
    assert_eq!(session.stop_gently(Duration::from_millis(300)), SessionEnd::Stopped);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let idle = idle(&bench, ImageConfig::default(), |_| {});
    let begun = Instant::now();
    assert_eq!(idle.stop_gently(Duration::from_secs(60)), SessionEnd::Stopped);
    assert!(begun.elapsed() < Duration::from_secs(30), "there is no command to wait for");
}
