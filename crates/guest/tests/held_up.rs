//! Processes of the workload can stop what the agent starts before it has become the program. Here it waits as long for
//! its control group, which is a pipe that nobody empties.

#![allow(clippy::unwrap_used, reason = "all of it is test code")]

mod client;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::Client;
use client::world::{Altered, Crowd};
use rustix::io::Errno;
use vmette_wire::streams::{Exec, ExitStatus, FailureKind};
use vmette_wire::{Action, Input, MachineRequest};

fn crowd(hold: Arc<AtomicBool>, inode: &AtomicU64) -> Crowd {
    let (reader, full) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    inode.store(rustix::fs::fstat(&full).unwrap().st_ino, Ordering::SeqCst);
    rustix::io::ioctl_fionbio(&full, true).unwrap();
    let filled = std::iter::repeat_with(|| rustix::io::write(&full, &[0; 4096])).find(Result::is_err);
    assert_eq!(filled, Some(Err(Errno::AGAIN)));
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    Crowd { full, reader, hold }
}

/// An agent that has run a command; from the next one on they are held up while the flag is set. The number is the inode of
/// the pipe that they wait for.
fn crowded() -> (Client, Arc<AtomicBool>, Arc<AtomicU64>) {
    let hold = Arc::new(AtomicBool::new(false));
    let pipe = Arc::new(AtomicU64::new(0));
    let world = |hosted| Altered { hosted, crowd: Some(crowd(hold.clone(), &pipe)), door: None };
    let mut client = Client::of(world).boot();
    assert_eq!(client.run(&["true"]).code(), 0);
    hold.store(true, Ordering::SeqCst);
    (client, hold, pipe)
}

#[test]
fn what_is_held_up_on_its_way_is_ended_and_everything_else_goes_on() {
    let (mut client, hold, _pipe) = crowded();
    let stream = client.shell(Exec { stdin: true, ..Exec::default() }, "echo never");
    client.send(stream, Input::Data, b"input");
    let background = client.fresh_id();
    client.send(background, client::desktop(Action::Exec { command: "echo never".into() }), b"");
    let captured = client.fresh_id();
    let action = Action::ExecCapture { command: "echo never".into(), timeout_ms: None };
    client.send(captured, client::desktop(action), b"");
    let expired = client.fresh_id();
    let action = Action::ExecCapture { command: "echo never".into(), timeout_ms: Some(1) };
    client.send(expired, client::desktop(action), b"");
    client.ask(MachineRequest::Ping, b"").unwrap();
    assert_eq!(client.desktop(expired).0.exit_code, None, "a command has its own limit as well");

    hold.store(false, Ordering::SeqCst);
    assert_eq!(client.sh("echo others").text(), "others\n");
    let output = client.finish(stream);
    assert_eq!((output.failure().kind, output.stdout.len()), (FailureKind::Other, 0));
    assert!(output.failure().message.contains("held up for 10 s"), "{}", output.failure().message);
    for id in [background, captured] {
        let (answer, output) = client.desktop(id);
        assert!(answer.error.unwrap().contains("held up for 10 s") && output.is_empty());
    }
    assert_eq!(client.sh("echo after").text(), "after\n");
    client.leave().unwrap();
}

#[test]
fn what_is_held_up_can_be_killed_and_ends_with_its_host() {
    let (mut client, _hold, pipe) = crowded();
    let id = client.shell(Exec::default(), "echo never");
    client.send(id, Input::Signal { signal: 9 }, b"");
    let output = client.finish(id);
    assert!(matches!(output.end, Some(Ok(ExitStatus::Signal(9)) | Err(_))), "{output:?}");
    client.shell(Exec::default(), "echo never");
    client.act(&Action::Wait { ms: 0 });
    assert_eq!(holders(pipe.load(Ordering::SeqCst)), 1);
    client.leave().unwrap();
    assert_eq!(holders(pipe.load(Ordering::SeqCst)), 0);
}

#[test]
fn a_command_whose_end_another_one_puts_off_does_not_keep_the_agent() {
    let mut client = Client::booted();
    let traced = client.exec(Exec::default(), &[b"sleep", b"1000"], &[]);
    let pid = client.started(traced);
    // A process that is traced like this stops at its end, and goes on when its tracer lets it, or is no more.
    let number = if cfg!(target_arch = "x86_64") { 101 } else { 117 };
    let script =
        format!("syscall({number}, 0x4206, {pid}, 0, 0x40) and die $!; $| = 1; print 'traces'; sleep 1000");
    let tracer = client.exec(Exec::default(), &[b"perl", b"-e", script.as_bytes()], &[]);
    client.started(tracer);
    assert_eq!(client.event(tracer).1, b"traces");
    let begun = Instant::now();
    client.leave().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited for the traced one first");
}

/// How many other processes have the pipe with that inode.
fn holders(pipe: u64) -> usize {
    let link = PathBuf::from(format!("pipe:[{pipe}]"));
    let others = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        pid.is_some_and(|pid| pid != std::process::id())
    });
    let has = |process: &fs::DirEntry| {
        let fds = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        fds.map(|fd| fs::read_link(fd.path())).any(|target| target.is_ok_and(|target| target == link))
    };
    others.filter(has).count()
}
