//! What a session promises about vsock, on real machines.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmette::{
    Error, ExecOptions, Notice, Observer, Process, Session, VsockForward, VsockListener, VsockPort,
    WorkloadStrategy, engine_api,
};

use crate::suite::Bench;

/// How long a guest under emulation, with other tests beside it, may take to connect.
const PATIENCE: Duration = Duration::from_secs(100);

/// What the device's server may take of memory beside the windows of its connections, in KiB.
const SERVER_KIB: u64 = 16 << 10;

fn bench() -> Bench {
    Bench::new(tempfile::tempdir().unwrap(), None)
}

/// A machine with a vsock device and no command.
fn session(bench: &Bench) -> Session {
    let config = bench.config().with(|c| {
        c.vsock.device = true;
        c.command.workload = WorkloadStrategy::Agent;
    });
    bench.start(&config).unwrap()
}

fn shell(session: &Session, command: &str) -> Process {
    session.exec(&ExecOptions::shell(command)).unwrap()
}

fn accept(listener: &VsockListener) -> UnixStream {
    listener.accept_until(Instant::now() + PATIENCE).expect("a connection in time").expect("a machine")
}

/// Connects to a port of the guest. Nothing says when it listens: until then it refuses.
fn connected(session: &Session, port: u32) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match session.vsock_connect(port) {
            Ok(stream) => return stream,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
    }
}

fn output(process: &Process) -> String {
    let collected = process.collect(1 << 20).unwrap();
    assert_eq!(collected.status.code(), 0, "{collected:?}");
    String::from_utf8(collected.stdout).unwrap()
}

fn ended(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn without_being_asked_for_there_is_no_device() {
    let bench = bench();
    let script = "echo \"[$VMETTE_VSOCK_PORT]\"; ls /sys/bus/virtio/drivers/vmw_vsock_virtio_transport | grep -c virtio";
    let config = bench.config().with(|c| c.command.shell = Some(format!("{script}; sleep 600")));
    let session = bench.start(&config).unwrap();
    assert_eq!(session.vsock_port(), None);
    assert!(session.report().grants.vsock.is_none());
    assert!(matches!(session.vsock_listen(5000), Err(Error::Vsock(_))));
    assert!(matches!(session.vsock_connect(5000), Err(Error::Vsock(_))));
    assert_eq!(two_lines(&session), "[]\n0\n");

    // The guest would see one.
    let session = bench.start(&config.with(|c| c.vsock.port = VsockPort::Fixed(1025))).unwrap();
    assert_eq!(two_lines(&session), "[1025]\n1\n");
}

/// The first two lines of what is captured, in however many pieces they come.
fn two_lines(session: &Session) -> String {
    let mut output = String::new();
    for piece in session.capture_rx().unwrap() {
        output += str::from_utf8(&piece).unwrap();
        if output.matches('\n').count() >= 2 {
            break;
        }
    }
    output
}

#[test]
fn guest_and_host_reach_each_others_ports_and_half_closing_passes_through() {
    let bench = bench();
    let session = session(&bench);
    let listener = session.vsock_listen(5000).unwrap();
    assert!(matches!(
        session.vsock_listen(5000),
        Err(Error::Engine(engine_api::Error::Io { source, .. })) if source.kind() == std::io::ErrorKind::AddrInUse
    ));

    let guest = shell(&session, "echo from the guest | vsock-send 5000");
    let mut host = accept(&listener);
    assert_eq!(ended(&mut host), b"from the guest\n", "the guest's end of sending arrives");
    host.write_all(b"from the host\n").unwrap();
    drop(host);
    assert_eq!(output(&guest), "from the host\n");

    // A port that was closed refuses, one that nobody opened too.
    drop(listener);
    let guest = shell(
        &session,
        "echo x | vsock-send 5000 2>&1; echo $?; echo x | vsock-send 5001 2>/dev/null; echo $?",
    );
    let text = output(&guest);
    assert!(text.starts_with("vsock-send: ") && text.ends_with("\n1\n1\n"), "{text}");

    assert!(matches!(
        session.vsock_connect(80),
        Err(Error::Engine(engine_api::Error::Io { source, .. })) if source.kind() == std::io::ErrorKind::ConnectionRefused
    ));
    // The guest says when it listens.
    let any = session.vsock_listen(0).unwrap();
    let guest = shell(&session, &format!("vsock-runner {} 81; echo $?", any.port()));
    assert_eq!(ended(&mut accept(&any)), b"READY\n");
    let mut host = session.vsock_connect(81).unwrap();
    host.write_all(b"echo out; echo err >&2; exit 7").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(ended(&mut host), b"out\nerr\n__EXIT__:7\n");
    drop(host);
    assert_eq!(output(&guest), "7\n");

    let guest = shell(&session, "echo served | vsock-listen 82");
    let mut host = connected(&session, 82);
    host.write_all(b"asked\n").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(ended(&mut host), b"served\n");
    assert_eq!(output(&guest), "asked\n");

    session.stop();
    assert!(any.accept().is_none(), "the machine's end is the listener's");
}

#[test]
fn an_observer_is_let_go_with_its_session_also_when_a_server_hangs() {
    let bench = bench();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server");
    // Room for one connection that nobody accepts: the guest's waits still when the session is over.
    let server = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&server, 0).unwrap();
    let _full = UnixStream::connect(&path).unwrap();
    let config = bench.config().with(|c| {
        c.vsock.forwards = vec![VsockForward { port: 5000, path }];
        c.command.workload = WorkloadStrategy::Agent;
    });
    let observer: Observer = Arc::new(|_: &Notice| ());
    let session =
        Session::builder(&config).observer(observer.clone()).captured().start().unwrap().running().unwrap();
    let _guest = shell(&session, "vsock-runner 5000 81");
    // It serves once it has connected.
    let mut host = connected(&session, 81);
    host.write_all(b"exit 7").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(ended(&mut host), b"__EXIT__:7\n");
    drop(session);
    assert_eq!(Arc::strong_count(&observer), 1);
}

#[test]
fn two_hundred_connections_are_open_at_once() {
    const CONNECTIONS: usize = 200;
    let bench = bench();
    let session = session(&bench);
    let listener = session.vsock_listen(5000).unwrap();
    let script = format!(
        "i=0; while [ $i -lt {CONNECTIONS} ]; do echo $i | vsock-send 5000 & i=$((i + 1)); done | sort -n; wait"
    );
    let guest = shell(&session, &script);
    let mut hosts: Vec<UnixStream> = (0..CONNECTIONS).map(|_| accept(&listener)).collect();
    // All of them are there before the first is answered.
    for host in &mut hosts {
        let number = ended(host);
        host.write_all(&number).unwrap();
    }
    drop(hosts);
    let expected: String = (0..CONNECTIONS).map(|i| format!("{i}\n")).collect();
    assert_eq!(output(&guest), expected);
}

/// Bytes whose every MiB is different, so that one that is missing, doubled or out of place is noticed.
struct Blocks(Vec<u8>);

impl Blocks {
    const LEN: usize = 1 << 20;

    fn new() -> Self {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let words = (0..Self::LEN / 8).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        Self(words.collect())
    }

    fn nth(&mut self, number: u64) -> &[u8] {
        self.0[..8].copy_from_slice(&number.to_le_bytes());
        &self.0
    }
}

#[test]
fn a_gibibyte_goes_each_way_unchanged() {
    const MIB: u64 = 1024;
    let bench = bench();
    let session = session(&bench);
    let (to, from) = (session.vsock_listen(5000).unwrap(), session.vsock_listen(5001).unwrap());
    let guest = shell(&session, "vsock-send 5000 </dev/null | vsock-send 5001");
    let sender = thread::spawn(move || {
        let mut stream = accept(&to);
        let mut blocks = Blocks::new();
        for number in 0..MIB {
            stream.write_all(blocks.nth(number)).unwrap();
        }
    });
    let mut stream = accept(&from);
    let (mut blocks, mut got) = (Blocks::new(), vec![0; Blocks::LEN]);
    for number in 0..MIB {
        stream.read_exact(&mut got).unwrap();
        assert!(got == blocks.nth(number), "MiB {number} is another one");
    }
    assert_eq!(stream.read(&mut got).unwrap(), 0);
    drop(stream);
    sender.join().unwrap();
    assert_eq!(output(&guest), "");
}

/// Memory of the device's server that is its own: the guest's, which it maps, does not count.
fn server_kib(session: &Session) -> u64 {
    let servers: Vec<u64> = session
        .processes()
        .into_iter()
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "vmette-vsockd\n")
        })
        .map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        })
        .collect();
    assert_eq!(servers.len(), 1);
    servers[0]
}

#[test]
fn a_guest_that_floods_half_closes_or_never_reads_costs_a_bounded_amount_of_memory() {
    const EACH: usize = 30;
    const WINDOW_KIB: u64 = 256;
    let bench = bench();
    let session = session(&bench);
    let listen = |port| session.vsock_listen(port).unwrap();
    let (floods, halves, deaf, last) = (listen(5000), listen(5001), listen(5002), listen(5003));
    let script = format!(
        "for i in $(seq {EACH}); do
            vsock-send 5000 </dev/zero >/dev/null &
            vsock-send 5001 </dev/null >/dev/null &
            sleep 600 | vsock-send 5002 | sleep 600 &
        done
        # Ports that nobody has opened.
        for i in $(seq {EACH}); do vsock-send 6000 </dev/zero 2>/dev/null; done
        head -c 33554432 /dev/zero | vsock-send 5003 >/dev/null"
    );
    let guest = shell(&session, &script);
    // Nobody on the host reads what the first send; the second have half closed, and are left so.
    let floods: Vec<UnixStream> = (0..EACH).map(|_| accept(&floods)).collect();
    let halves: Vec<UnixStream> = (0..EACH).map(|_| accept(&halves)).collect();
    let mut stuck = Vec::new();
    for _ in 0..EACH {
        let mut stream = accept(&deaf);
        stream.set_nonblocking(true).unwrap();
        let mut sent = 0;
        // What is taken at once is what the host's kernel has room for.
        while let Ok(n) = stream.write(&[1; 64 << 10]) {
            sent += n;
        }
        assert!(sent < 16 << 20, "{sent}");
        stuck.push(stream);
    }
    // One that is served beside them: when it is through, the others have had all the time to fill what they can.
    let mut stream = accept(&last);
    assert_eq!(ended(&mut stream).len(), 33_554_432);
    let used = server_kib(&session);
    let windows = (floods.len() + halves.len() + stuck.len()) as u64 * WINDOW_KIB;
    assert!(used < windows + SERVER_KIB, "{used} KiB");
    drop((floods, halves, stuck, stream));
    assert_eq!(output(&guest), "");
}

#[test]
fn the_guest_is_told_of_the_port_that_was_asked_for() {
    let bench = bench();
    let config = bench.config().with(|c| {
        c.vsock.port = VsockPort::Fixed(1025);
        c.command.shell = Some("echo $VMETTE_VSOCK_PORT; echo ping | vsock-send $VMETTE_VSOCK_PORT".into());
    });
    let session = bench.start(&config).unwrap();
    assert_eq!(session.vsock_port(), Some(1025));
    let grant = session.report().grants.vsock.clone().unwrap();
    assert!(grant.echo && grant.port == Some(1025) && grant.forwards.is_empty());
    assert_eq!(session.wait_captured().output, "1025\nping\n");
}
