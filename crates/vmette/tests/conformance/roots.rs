//! Several roots in one real machine. The library makes one; here the agent is spoken to as a host with more would.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmette::WorkloadStrategy;
use vmette::engine_api::{Capabilities, ControlStream, Hypervisor, Machine, MachineSpec, Result, Support};
use vmette_qemu::Qemu;
use vmette_wire::handshake::{ENTROPY_LEN, PROTOCOL_VERSION};
use vmette_wire::root::{Base, Overlay};
use vmette_wire::streams::{Command, Exec};
use vmette_wire::{
    Boot, Event, Hello, Input, MachineRequest, Open, Reply, Request, Root, RootName, RootRequest, frame,
};

use crate::suite::Bench;

/// No answer takes that long, not even of a machine that boots while others do.
const PATIENCE: Duration = Duration::from_secs(120);

/// QEMU that keeps the last machine's description.
struct Watched {
    qemu: Qemu,
    spec: Arc<Mutex<Option<MachineSpec>>>,
}

impl Hypervisor for Watched {
    fn probe(&self, spec: &MachineSpec) -> Result<Capabilities> {
        self.qemu.probe(spec)
    }

    fn try_shares(&self) -> Support {
        self.qemu.try_shares()
    }

    fn fingerprint(&self, spec: &MachineSpec) -> Result<String> {
        self.qemu.fingerprint(spec)
    }

    fn boot_failed(&self, spec: &MachineSpec, reason: &str) -> Result<()> {
        self.qemu.boot_failed(spec, reason)
    }

    fn create(&self, spec: MachineSpec) -> Result<Arc<dyn Machine>> {
        *self.spec.lock().unwrap() = Some(spec.clone());
        self.qemu.create(spec)
    }
}

/// The description of a machine with the built-in root's image and a scratch disk.
fn spec() -> (MachineSpec, vmette::Session) {
    let spec = Arc::new(Mutex::new(None));
    let watched = Watched { qemu: Qemu::discover(), spec: spec.clone() };
    let shared = Bench::new(tempfile::tempdir().unwrap(), None).config();
    let config = shared.with(|c| {
        c.machine.template = Some(false);
        c.root.scratch_mib = Some(64);
        c.command.workload = WorkloadStrategy::Agent;
    });
    let session =
        vmette::Session::builder(&config).engine(Arc::new(watched)).start().unwrap().running().unwrap();
    let spec = spec.lock().unwrap().take().unwrap();
    // The session holds its image and its disk; its own machine is not needed.
    session.stop();
    (spec, session)
}

/// A host in small.
struct Host {
    stream: ControlStream,
    last_id: u32,
}

impl Host {
    fn send(&mut self, request: impl Into<Request>, payload: &[u8]) -> u32 {
        self.last_id += 1;
        frame::write_frame(&mut self.stream, self.last_id, &request.into(), payload).unwrap();
        self.last_id
    }

    fn next(&mut self, id: u32) -> (Reply, Vec<u8>) {
        loop {
            let frame = frame::read_frame(&mut self.stream).unwrap().expect("the machine has ended");
            if frame.id == id {
                return (Reply::parse(&frame.header).unwrap(), frame.payload);
            }
        }
    }

    fn ask(&mut self, request: impl Into<Request>, payload: &[u8]) {
        let id = self.send(request, payload);
        assert_eq!(self.next(id).0, Reply::Done);
    }

    fn make(&mut self, root: &str, overlay: Overlay, switch_root: bool) {
        let base = Base::rootfs_disk("squashfs");
        let root = Root { name: name(root), overlay, switch_root, ..Root::new(base) };
        self.ask(RootRequest::Make(root), b"");
    }

    /// Starts a shell command, and returns once it has printed a line.
    fn begin(&mut self, root: &str, line: &str, init: bool) -> u32 {
        let exec = Exec { root: name(root), argc: 1, shell: true, stdin: true, init, ..Exec::default() };
        let command = Command { args: vec![line.into()], env: Vec::new() };
        let id = self.send(Open::Exec(exec), &command.encode().unwrap());
        loop {
            match self.next(id) {
                (Reply::Event(Event::Started { .. }), _) => {}
                (Reply::Event(Event::Stdout), _) => return id,
                other => panic!("{line} in {root}: {other:?}"),
            }
        }
    }

    /// Runs a shell command, and returns its output.
    fn run(&mut self, root: &str, line: &str) -> String {
        let exec = Exec { root: name(root), argc: 1, shell: true, ..Exec::default() };
        let command = Command { args: vec![line.into()], env: Vec::new() };
        let id = self.send(Open::Exec(exec), &command.encode().unwrap());
        let mut output = Vec::new();
        loop {
            match self.next(id) {
                (Reply::Event(Event::Started { .. }), _) => {}
                (Reply::Event(Event::Stdout | Event::Stderr), bytes) => output.extend(bytes),
                (Reply::Event(Event::Exited(_)), _) => return String::from_utf8(output).unwrap(),
                other => panic!("{line} in {root}: {other:?}"),
            }
        }
    }
}

fn name(name: &str) -> RootName {
    RootName::new(name).unwrap()
}

#[test]
fn roots_of_one_machine_see_neither_files_nor_processes_of_each_other() {
    let (spec, _session) = spec();
    let machine = Qemu::discover().create(spec).unwrap();
    let stream: UnixStream = machine.start().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut host = Host { stream, last_id: 0 };
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        realtime_ns: 1_700_000_000_000_000_000,
        hostname: "pod".into(),
        machine_id: "0123456789abcdef".repeat(2),
        awaited: Vec::new(),
    };
    host.ask(hello, &[7; ENTROPY_LEN]);
    let boot = Boot { disks: vec!["scratch".into()], savable: true, ..Boot::default() };
    host.ask(MachineRequest::Boot(boot), b"");
    host.make("a", Overlay::Scratch, false);
    // The first one has processes before the others are made.
    let sleeper = host.begin("a", "echo here; exec sleep 1000", false);
    host.make("b", Overlay::Scratch, false);
    host.make("c", Overlay::None, true);
    let init = host.begin("c", "echo here; read -r line; echo over", true);

    for root in ["a", "b"] {
        host.run(root, &format!("echo {root} > /own; echo {root} > /run/own"));
    }
    for root in ["a", "b"] {
        assert_eq!(host.run(root, "cat /own /run/own; hostname"), format!("{root}\n{root}\npod\n"));
    }
    assert!(host.run("c", "cat /own /run/own; echo > /own").contains("No such file"));
    let processes = |host: &mut Host, root: &str| host.run(root, "ps -o comm").contains("sleep");
    assert!(processes(&mut host, "a") && !processes(&mut host, "b") && !processes(&mut host, "c"));
    for root in ["a", "b"] {
        assert_eq!(host.run(root, "cat /proc/1/comm"), "vmette-init\n");
    }
    assert_eq!(host.run("c", "cut -c1-6 /proc/1/comm"), ".vmett\n");
    // A signal to all reaches those of the root, which has no others.
    host.run("b", "kill -9 -1");
    assert!(processes(&mut host, "a"));

    // The end of one PID 1 is the end of its root's processes and of no others.
    frame::write_frame(&mut host.stream, init, &Request::from(Input::Data), b"\n").unwrap();
    while !matches!(host.next(init).0, Reply::Event(Event::Exited(_))) {}
    let exec = Exec { root: name("c"), argc: 1, ..Exec::default() };
    let id = host.send(Open::Exec(exec), b"true\0");
    assert!(matches!(host.next(id).0, Reply::Event(Event::Failed(f)) if f.message.contains("has ended")));
    assert!(processes(&mut host, "a"));
    host.make("d", Overlay::Tmpfs, false);
    assert_eq!(host.run("d", "cat /own 2>/dev/null; echo $?"), "1\n");

    // All of them stand still together, and go on.
    host.ask(MachineRequest::Hold, b"");
    host.ask(MachineRequest::Release { realtime_ns: 1_700_000_000_000_000_000 }, b"");
    frame::write_frame(&mut host.stream, sleeper, &Request::from(Input::Signal { signal: 9 }), b"").unwrap();
    while !matches!(host.next(sleeper).0, Reply::Event(Event::Exited(_))) {}
    machine.stop();
}
