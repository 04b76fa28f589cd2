//! The suite on the in-process engine, and what only a made-up guest can show: one that breaks the protocol.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmette::engine_api::{Network, fake::FakeHypervisor};
use vmette::{
    BlockFs, Config, Error, ExecOptions, Rootfs, RootfsBlock, Session, SessionEnd, Started, StopHandle,
};
use vmette_wire::streams::{ExitStatus, WINDOW};
use vmette_wire::{Event, MachineRequest, Open, Reply, Request, RootRequest, frame};

use crate::suite::{self, Bench};

/// Serves the real agent below a folder of its own.
fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let engine = FakeHypervisor::new(move |stream, _| {
        let world = vmette_guest::Hosted::new(&root).map_err(|e| e.to_string())?;
        vmette_guest::serve(OwnedFd::from(stream), world).map_err(|e| e.to_string())
    });
    let config = config(dir.path());
    Bench::with(dir, Some(Arc::new(engine)), config)
}

suite::tests!(bench);

/// A configuration for this engine, which starts neither kernel nor rootfs: the beginning of a kernel will do.
fn config(dir: &Path) -> Config {
    let file = dir.join("file");
    std::fs::write(&file, b"\x7fELF").unwrap();
    Config::default().with(|c| {
        c.host.cache_dir = Some(dir.join("cache"));
        c.machine.kernel = Some(file.clone());
        c.machine.initramfs = Some(file.clone());
        c.root.rootfs = Some(Rootfs::Block(RootfsBlock { path: file, fstype: BlockFs::Squashfs }));
    })
}

/// A guest that is whatever the test makes of it.
fn hostile(
    guest: impl Fn(UnixStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<(Session, tempfile::TempDir), Error> {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let engine = FakeHypervisor::new(move |stream, _| guest(stream).map_err(|e| e.to_string()));
    Ok((Session::builder(&config).engine(Arc::new(engine)).captured().start()?.running()?, dir))
}

/// Answers `hello`, `boot` and the root, then hands each further request to `answer`.
fn polite_until(
    mut stream: UnixStream,
    mut answer: impl FnMut(u32, Request, &mut UnixStream) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut reader = stream.try_clone()?;
    while let Ok(Some(frame)) = frame::read_frame(&mut reader) {
        let request = Request::parse(&frame.header).expect("the host speaks the protocol");
        match request {
            Request::Hello(_)
            | Request::Machine(MachineRequest::Boot(_))
            | Request::Root(RootRequest::Make(_)) => stream.write_all(&raw(frame.id, &Reply::Done))?,
            request => answer(frame.id, request, &mut stream)?,
        }
    }
    Ok(())
}

fn raw(id: u32, reply: &Reply) -> Vec<u8> {
    frame::encode(id, reply, b"").unwrap()
}

fn event(id: u32, event: Event, payload: &[u8]) -> Vec<u8> {
    frame::encode(id, &Reply::Event(event), payload).unwrap()
}

/// Why a command came to nothing: the breach may be seen before or after it counts as started.
fn end_of(session: &Session, options: &ExecOptions) -> String {
    session.exec(options).and_then(|process| process.wait()).expect_err("the guest cheats").to_string()
}

#[test]
fn garbage_instead_of_an_answer_fails_the_start() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64], b"\0\0\0\0\x02\0\0\0\0\0\0\0[]"] {
        let started = hostile(move |mut stream| {
            stream.write_all(garbage)?;
            // Reads until the host gives up.
            stream.read_to_end(&mut Vec::new()).map(drop)
        });
        let message = started.expect_err("no session with such a guest").to_string();
        assert!(message.contains("broke the protocol"), "{message}");
    }
}

#[test]
fn a_guest_that_ends_before_it_answers_fails_the_start_at_once() {
    let begun = Instant::now();
    let message = hostile(|_| Ok(())).expect_err("nobody is there").to_string();
    assert!(message.contains("powered off"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(20), "it did not wait for a minute");
}

#[test]
fn a_refusal_to_boot_is_the_guests_words_made_safe() {
    let started = hostile(|mut stream| {
        let mut reader = stream.try_clone()?;
        while let Ok(Some(frame)) = frame::read_frame(&mut reader) {
            let refusal = Reply::Refused("\x1b]0;owned\x07no root".into());
            stream.write_all(&raw(frame.id, &refusal))?;
        }
        Ok(())
    });
    let message = started.expect_err("refused").to_string();
    assert!(message.contains("no root") && !message.contains('\x1b'), "{message:?}");
}

/// What a terminal would obey, and more of it than anybody reads.
fn noise() -> String {
    "\x1b]0;owned\x07\x1b[2J".repeat(20_000)
}

fn assert_shown_safely(message: &str) {
    assert!(message.contains("owned") && !message.contains(char::is_control), "{message:.200}");
    assert!(message.len() < 20_000, "{} bytes", message.len());
}

#[test]
fn what_no_parser_understands_is_shown_safely() {
    let (session, _dir) = hostile(|stream| {
        polite_until(stream, |id, _, stream| {
            let header = serde_json::json!({ "event": noise() });
            stream.write_all(&frame::encode(id, &header, b"").unwrap())
        })
    })
    .unwrap();
    assert_shown_safely(&session.ping().unwrap_err().to_string());
    assert!(matches!(session.wait(), SessionEnd::Error(message) if !message.contains('\x1b')));
}

#[test]
fn a_refusal_to_write_out_what_is_dirty_is_shown_safely() {
    let (session, _dir) = hostile(|stream| {
        polite_until(stream, |id, _, stream| {
            let refusal = Reply::Refused(noise());
            stream.write_all(&raw(id, &refusal))
        })
    })
    .unwrap();
    assert_shown_safely(&session.shutdown().unwrap_err().to_string());
}

#[test]
fn output_beyond_the_window_ends_the_connection() {
    let (session, _dir) = hostile(|stream| {
        polite_until(stream, |id, request, stream| {
            if let Request::Open(Open::Exec(_)) = request {
                stream.write_all(&event(id, Event::Started { pid: 2 }, b""))?;
                let chunk = vec![b'x'; frame::CHUNK_MAX];
                // Twice the window, confirmed or not.
                for _ in 0..2 * WINDOW as usize / chunk.len() {
                    if stream.write_all(&event(id, Event::Stdout, &chunk)).is_err() {
                        break;
                    }
                }
            }
            Ok(())
        })
    })
    .unwrap();
    let message = end_of(&session, &ExecOptions::argv(["yes"]));
    assert!(message.contains("window"), "{message}");
    // Poisoned once: everything after fails at once with the same cause.
    let again = session.ping().expect_err("the connection is gone").to_string();
    assert!(again.contains("window"), "{again}");
}

#[test]
fn an_answer_of_the_wrong_kind_ends_the_connection() {
    let (session, _dir) = hostile(|stream| {
        polite_until(stream, |id, _, stream| {
            stream.write_all(&event(id, Event::Exited(ExitStatus::Code(0)), b""))
        })
    })
    .unwrap();
    assert!(session.ping().unwrap_err().to_string().contains("wrong kind"));
}

#[test]
fn answers_to_nobody_are_dropped_and_the_stream_stays_in_step() {
    let (session, _dir) = hostile(|stream| {
        polite_until(stream, |id, _, stream| {
            stream.write_all(&raw(id.wrapping_add(999), &Reply::Done))?;
            stream.write_all(&event(id.wrapping_add(998), Event::Stdout, b"late"))?;
            stream.write_all(&raw(id, &Reply::Done))
        })
    })
    .unwrap();
    for _ in 0..50 {
        session.ping().unwrap();
    }
}

#[test]
fn credit_beyond_the_window_ends_the_connection() {
    let (session, _dir) = hostile(|stream| {
        polite_until(stream, |id, request, stream| {
            if let Request::Open(Open::Exec(_)) = request {
                stream.write_all(&event(id, Event::Started { pid: 2 }, b""))?;
                stream.write_all(&event(id, Event::Credit { bytes: u32::MAX }, b""))?;
            }
            Ok(())
        })
    })
    .unwrap();
    assert!(end_of(&session, &ExecOptions::argv(["cat"]).stdin(true)).contains("credit"));
}

#[test]
fn a_guest_that_dies_wakes_every_waiter_with_the_cause() {
    let (session, _dir) = hostile(|stream| {
        let mut seen = 0;
        polite_until(stream, |_, _, _| {
            seen += 1;
            // The last of the waiters below has registered: now it dies.
            if seen == 8 { Err(std::io::Error::other("kernel panic")) } else { Ok(()) }
        })
    })
    .unwrap();
    let session = Arc::new(session);
    let waiters: Vec<_> = (0..8)
        .map(|_| {
            let session = session.clone();
            std::thread::spawn(move || session.ping().unwrap_err().to_string())
        })
        .collect();
    for waiter in waiters {
        let message = waiter.join().unwrap();
        assert!(message.contains("kernel panic"), "{message}");
    }
    assert!(matches!(session.wait(), SessionEnd::Error(message) if message.contains("kernel panic")));
}

#[test]
fn the_longest_wait_is_one_without_a_limit() {
    let bench = bench();
    let session = bench.start(&bench.config().with(|c| c.command.shell = Some("exit 3".into()))).unwrap();
    let end = Some(SessionEnd::Exited(3));
    assert_eq!(session.stop_handle().wait_end(Duration::MAX), end);
    assert_eq!(Some(session.stop_gently(Duration::MAX)), end);
}

#[test]
fn a_guest_that_takes_nothing_more_does_not_prolong_a_gentle_stop() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let (over, waits) = std::sync::mpsc::channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    let engine = FakeHypervisor::new(move |stream, _| {
        polite_until(stream, |id, _, stream| {
            stream.write_all(&event(id, Event::Started { pid: 2 }, b""))?;
            // Reads no more until the test is over.
            waits.lock().unwrap().recv().map_err(std::io::Error::other)
        })
        .map_err(|e| e.to_string())
    });
    let engine = Arc::new(engine);
    let command = ExecOptions::argv(["cat"]).stdin(true);
    let builder = Session::builder(&config).engine(engine.clone()).piped();
    let session = builder.start_with(Some(command)).unwrap().running().unwrap();
    let process = session.process().unwrap().clone();
    let stream = engine.host_end().expect("the machine was started");
    std::thread::spawn(move || while process.write_stdin(&[0; 1 << 14]).is_ok() {});
    // Until the writer is stuck.
    while takes_more(&stream) {
        std::thread::yield_now();
    }
    let begun = Instant::now();
    assert_eq!(session.stop_gently(Duration::from_millis(10)), SessionEnd::Stopped);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(over);
}

fn takes_more(stream: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = [PollFd::new(stream, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    polled[0].revents().contains(PollFlags::OUT)
}

#[test]
fn a_stop_during_the_start_ends_it_as_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let stop = StopHandle::new();
    let for_guest = stop.clone();
    // The guest never answers; the stop comes once it has been asked.
    let engine = FakeHypervisor::new(move |mut stream, _| {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(|e| e.to_string())?;
        for_guest.stop();
        stream.read_to_end(&mut Vec::new()).map(drop).map_err(|e| e.to_string())
    });
    let started = Session::builder(&config).engine(Arc::new(engine)).stop_handle(&stop).start().unwrap();
    assert!(matches!(started, Started::Ended(SessionEnd::Stopped)), "{started:?}");
}

#[test]
fn a_guest_that_never_answers_is_ended_by_the_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path()).with(|c| c.machine.timeout_seconds = Some(1));
    let engine = FakeHypervisor::new(|mut stream, _| {
        stream.read_to_end(&mut Vec::new()).map(drop).map_err(|e| e.to_string())
    });
    let started = Session::builder(&config).engine(Arc::new(engine)).start().unwrap();
    assert!(matches!(started, Started::Ended(SessionEnd::TimedOut)), "{started:?}");
    assert!(matches!(started.running(), Err(Error::Ended(end)) if end.exit_code() == 124));
}

#[test]
fn an_engine_that_saves_no_machines_says_so_before_anything_runs() {
    let bench = bench();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("snapshot");
    let config = bench.config().with(|c| {
        c.command.shell = Some("true".into());
        c.snapshots.build = Some(target.clone());
    });
    let error = bench.start(&config).unwrap_err();
    assert!(matches!(&error, Error::SaveFailed(reason) if reason.to_string().contains("fake")), "{error}");
    let session = bench.start(&bench.config().with(|c| c.snapshots.allow = true)).unwrap();
    let error = session.snapshot(&target).unwrap_err();
    assert!(matches!(&error, Error::SaveFailed(reason) if reason.to_string().contains("fake")), "{error}");
    session.ping().unwrap();
    assert!(!target.exists());
}

#[test]
fn a_granted_network_reaches_the_engine_and_the_guest_and_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    for net in [false, true] {
        let told = Arc::new(std::sync::Mutex::new(None));
        let (spec, root) = (told.clone(), dir.path().to_owned());
        let engine = FakeHypervisor::new(move |stream, given| {
            let world = vmette_guest::Hosted::new(&root).map_err(|e| e.to_string())?;
            *spec.lock().unwrap() = Some((given.network.clone(), world.record()));
            vmette_guest::serve(OwnedFd::from(stream), world).map_err(|e| e.to_string())
        });
        let config = config.clone().with(|c| c.grants.net = net);
        let session = Session::builder(&config).engine(Arc::new(engine)).start().unwrap().running().unwrap();
        let (network, record) = told.lock().unwrap().clone().unwrap();
        assert!(matches!((network, net), (Network::Nat, true) | (Network::None, false)));
        assert_eq!(record.lock().unwrap().boot.as_ref().unwrap().network, net);
        assert_eq!(session.report().grants.network, net);
    }
}

#[test]
fn an_engine_without_vsock_refuses_who_asks_for_it_and_nobody_else() {
    let bench = bench();
    for config in [
        bench.config().with(|c| c.vsock.device = true),
        bench.config().with(|c| c.vsock.port = vmette::VsockPort::Fixed(5)),
    ] {
        let started = bench.start(&config);
        assert!(matches!(started, Err(vmette::Error::Vsock(_))));
    }
    drop(bench.start(&bench.config()).unwrap());
}
