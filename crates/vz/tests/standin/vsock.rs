//! Connections between guest and host.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use vmette_vmm::{Error, Hypervisor, Machine, MachineSpec, Origin, Saved};

use crate::bench::{Bench, LIMIT, assert_answers};

/// A machine with a vsock device that runs.
fn with_vsock(bench: &Bench) -> (Arc<dyn Machine>, UnixStream) {
    let machine = bench.engine.create(MachineSpec { vsock: true, ..bench.spec("") }).unwrap();
    let stream = machine.start().unwrap();
    (machine, stream)
}

/// Has the guest say `hello` at a port of the host. Ends with what it was answered.
fn have_dialled(machine: &dyn Machine, port: u32) -> UnixStream {
    let mut stream = machine.vsock_connect(9).unwrap();
    stream.write_all(&port.to_le_bytes()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn text_of(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::AddrInUse)
}

#[test]
fn the_guest_connects_to_ports_that_are_open() {
    let bench = Bench::new();
    let machine = bench.engine.create(MachineSpec { vsock: true, ..bench.spec("") }).unwrap();
    assert!(machine.vsock_listen(5000).is_err(), "it does not run yet");
    let _stream = machine.start().unwrap();
    assert_eq!(text_of(have_dialled(&*machine, 6000)), "", "nobody listens");
    let listener = machine.vsock_listen(6000).unwrap();
    let error = machine.vsock_listen(6000).unwrap_err();
    assert!(is_taken(&error) && error.to_string().contains("6000"), "{error}");
    assert!(is_taken(&machine.vsock_listen(1024).unwrap_err()), "the agent's");
    for nobodys in [0, u32::MAX] {
        assert!(matches!(machine.vsock_listen(nobodys), Err(Error::InvalidSpec(_))));
    }
    let answered = have_dialled(&*machine, 6000);
    let mut accepted = listener.accept_until(Instant::now() + LIMIT).unwrap().unwrap();
    drop(listener);
    // A connection goes on without its port.
    assert_eq!(text_of(&accepted), "hello");
    accepted.write_all(b"and back").unwrap();
    drop(accepted);
    assert_eq!(text_of(answered), "and back");
    assert_eq!(text_of(have_dialled(&*machine, 6000)), "", "closed");
    let listener = machine.vsock_listen(6000).unwrap();
    machine.stop();
    assert!(listener.accept().is_none(), "it ends with the machine");
}

#[test]
fn without_a_device_there_are_no_ports() {
    let bench = Bench::new();
    let without = bench.machine("");
    let _stream = without.start().unwrap();
    assert!(matches!(without.vsock_listen(6000), Err(Error::Unsupported { .. })));
    assert!(matches!(without.vsock_connect(7), Err(Error::Unsupported { .. })));
}

#[test]
fn nobody_takes_the_agents_place() {
    let bench = Bench::new();
    let (machine, stream) = with_vsock(&bench);
    let error = machine.vsock_connect(1024).unwrap_err();
    assert!(error.to_string().contains("port 1024: it is the agent's"), "{error}");
    machine.pause().unwrap();
    let folder = bench.folder("saved");
    let saved = Saved { state: machine.save(&folder).unwrap_or_else(|e| panic!("{e}")), folder };
    drop((stream, machine));
    let spec = MachineSpec { vsock: true, origin: Origin::Saved(saved), ..bench.spec("") };
    let machine = bench.engine.create(spec).unwrap();
    let stream = machine.start().unwrap();
    assert!(machine.vsock_connect(1024).is_err());
    assert_answers(&stream);
}

#[test]
fn guests_that_nobody_accepts_are_refused_in_the_end() {
    let bench = Bench::new();
    let (machine, _stream) = with_vsock(&bench);
    let listener = machine.vsock_listen(6000).unwrap();
    let (sender, refused) = std::sync::mpsc::channel();
    let callers: Vec<_> = (0..65)
        .map(|_| {
            let (caller, sender) = (have_dialled(&*machine, 6000), sender.clone());
            thread::spawn(move || sender.send(text_of(caller)))
        })
        .collect();
    // Only when as many wait as may is anybody refused.
    assert_eq!(refused.recv_timeout(LIMIT).unwrap(), "");
    let mut accepted = Vec::new();
    while let Ok(Some(stream)) = listener.accept_until(Instant::now()) {
        accepted.push(stream);
    }
    assert_eq!(accepted.len(), 64);
    drop(accepted);
    callers.into_iter().for_each(|caller| caller.join().unwrap().unwrap());
}

#[test]
fn the_host_connects_to_ports_of_the_guest() {
    let bench = Bench::new();
    let (machine, _stream) = with_vsock(&bench);
    let mut echo = machine.vsock_connect(7).unwrap();
    echo.write_all(b"to and fro").unwrap();
    echo.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    echo.read_to_string(&mut text).unwrap();
    assert_eq!(text, "to and fro");
    let error = machine.vsock_connect(8).unwrap_err().to_string();
    assert!(error.contains("port 8") && error.contains("reset"), "{error}");
    assert!(matches!(machine.vsock_connect(u32::MAX), Err(Error::InvalidSpec(_))));
    machine.stop();
    assert!(machine.vsock_connect(7).is_err());
}
