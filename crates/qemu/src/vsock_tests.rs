#![allow(clippy::unwrap_used)]

use super::*;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

/// An owner's side and, in the test's hands, the server's end of the channel.
fn pair() -> (Vsock, Channel) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Vsock::new(ours).unwrap(), Channel::new(theirs))
}

fn hear(server: &Channel) -> (ToDevice, Option<OwnedFd>) {
    server.receive().unwrap().unwrap()
}

#[test]
fn a_guest_that_connects_to_an_open_port_reaches_who_accepts() {
    let (vsock, server) = pair();
    let listener = vsock.listen(7).unwrap();
    assert_eq!(hear(&server).0, ToDevice::Listen { port: 7 });
    server.send(ToOwner::Asked { id: 99, port: 7 }, None).unwrap();
    let (message, socket) = hear(&server);
    assert_eq!(message, ToDevice::Accept { id: 99 });
    UnixStream::from(socket.unwrap()).write_all(b"hello").unwrap();
    let mut text = String::new();
    listener.accept().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    drop(listener);
    assert_eq!(hear(&server).0, ToDevice::Unlisten { port: 7 });
    server.send(ToOwner::Asked { id: 100, port: 7 }, None).unwrap();
    assert_eq!(hear(&server).0, ToDevice::Refuse { id: 100 }, "closed while the guest asked");
}

#[test]
fn a_port_has_one_listener_and_some_numbers_are_none() {
    let (vsock, _server) = pair();
    let _listener = vsock.listen(7).unwrap();
    match vsock.listen(7) {
        Err(Error::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::AddrInUse),
        other => panic!("{other:?}"),
    }
    for port in [0, u32::MAX] {
        assert!(matches!(vsock.listen(port), Err(Error::InvalidSpec(_))));
        assert!(matches!(vsock.connect(port), Err(Error::InvalidSpec(_))));
    }
}

#[test]
fn connections_that_nobody_accepts_are_refused_at_some_point() {
    let (vsock, server) = pair();
    let _listener = vsock.listen(7).unwrap();
    hear(&server);
    for id in 0..BACKLOG as u64 {
        server.send(ToOwner::Asked { id, port: 7 }, None).unwrap();
        assert_eq!(hear(&server).0, ToDevice::Accept { id });
    }
    server.send(ToOwner::Asked { id: 9999, port: 7 }, None).unwrap();
    assert_eq!(hear(&server).0, ToDevice::Refuse { id: 9999 });
}

#[test]
fn a_connection_to_the_guest_is_there_when_the_guest_has_agreed() {
    let (vsock, server) = pair();
    let guest = thread::spawn(move || {
        let (message, socket) = hear(&server);
        let ToDevice::Connect { id, port: 80 } = message else { panic!("{message:?}") };
        server.send(ToOwner::Connected { id }, None).unwrap();
        UnixStream::from(socket.unwrap()).write_all(b"served").unwrap();
        let (message, _) = hear(&server);
        let ToDevice::Connect { id, port: 81 } = message else { panic!("{message:?}") };
        server.send(ToOwner::Refused { id }, None).unwrap();
        server
    });
    let mut text = String::new();
    vsock.connect(80).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "served");
    match vsock.connect(81) {
        Err(Error::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }
    guest.join().unwrap();
}

#[test]
fn a_server_that_ends_is_told_to_everyone_who_waits() {
    let (vsock, server) = pair();
    let vsock = Arc::new(vsock);
    let listener = vsock.listen(7).unwrap();
    let connecting = {
        let vsock = vsock.clone();
        thread::spawn(move || vsock.connect(80))
    };
    hear(&server);
    hear(&server);
    drop(server);
    assert!(listener.accept().is_none());
    assert!(matches!(connecting.join().unwrap(), Err(Error::Machine(_))));
    assert!(matches!(vsock.listen(8), Err(Error::Machine(_))));
}
