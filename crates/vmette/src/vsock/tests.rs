use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Mutex;

use super::relay::RELAYS_MAX;
use super::*;
use crate::config::VsockForward;
use crate::notice::Notice;

#[test]
fn a_port_echoes_for_a_command_only() {
    let forwards = vec![VsockForward { port: 7, path: "/s".into() }];
    let vsock = Vsock { port: Some(9), echo: true, forwards, connects: Vec::new() };
    let granted = grant(&vsock, true);
    assert!(granted.echo && granted.port == Some(9));
    assert_eq!(granted.forwards, [VsockGrantForward { port: 7, host: "/s".into() }]);
    assert!(!grant(&vsock, false).echo, "without a command");
    assert!(!grant(&Vsock { echo: false, ..vsock }, true).echo);
}

/// A relay between two sockets, and their other ends.
fn relayed(relays: &Arc<Relays>) -> (UnixStream, UnixStream) {
    let ((guest, one), (host, other)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    relays.start(one, other).unwrap();
    (guest, host)
}

fn read(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn half_closing_passes_through_a_relay_in_either_direction() {
    let relays = Arc::new(Relays::default());
    let (mut guest, mut host) = relayed(&relays);
    guest.write_all(b"question").unwrap();
    guest.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read(&mut host), "question");
    host.write_all(b"answer").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read(&mut guest), "answer");
    relays.wait_idle(Instant::now() + Duration::from_secs(60));

    let (mut guest, host) = relayed(&relays);
    drop(host);
    // Whoever sends learns that nobody reads, at the latest when no buffer has room any more.
    while guest.write_all(&[0; 4096]).is_ok() {}
    drop(guest);
    relays.wait_idle(Instant::now() + Duration::from_secs(60));
}

#[test]
fn the_guests_last_bytes_arrive_and_a_host_that_keeps_its_side_open_holds_nothing_up() {
    let relays = Arc::new(Relays::default());
    let (mut guest, mut host) = relayed(&relays);
    guest.write_all(b"last words").unwrap();
    drop(guest);
    relays.end(Instant::now() + Duration::from_secs(60));
    assert_eq!(read(&mut host), "last words");
    relays.wait_idle(Instant::now() + Duration::from_secs(60));
    // A host that reads nothing is waited for until the deadline and no longer.
    let relays = Arc::new(Relays::default());
    let (mut guest, host) = relayed(&relays);
    guest.set_nonblocking(true).unwrap();
    while guest.write(&[0; 4096]).is_ok() {}
    relays.end(Instant::now());
    relays.wait_idle(Instant::now() + Duration::from_secs(60));
    drop((guest, host));
    let ((one, _), (other, _)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    assert!(relays.start(one, other).is_err(), "no more after the end");
}

#[test]
fn relays_are_limited_and_make_room_when_they_end() {
    let relays = Arc::new(Relays::default());
    let ends: Vec<_> = (0..RELAYS_MAX).map(|_| relayed(&relays)).collect();
    let (_, one) = UnixStream::pair().unwrap();
    let (_, other) = UnixStream::pair().unwrap();
    let error = relays.start(one, other).unwrap_err().to_string();
    assert!(error.contains("256"), "{error}");
    drop(ends);
    relays.wait_idle(Instant::now() + Duration::from_secs(60));
    drop(relayed(&relays));
}

#[test]
fn an_echo_shows_a_bounded_amount_and_nothing_that_a_terminal_obeys() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let shown = lines.clone();
    let observer: crate::Observer = Arc::new(move |notice: &Notice| {
        if let Notice::Vsock(line) = notice {
            shown.lock().unwrap().push(line.clone());
        }
    });
    let relays = Arc::new(Relays::default());
    let echo = echo::Echo::new(7, Arc::new(Notices::new(Some(observer))));
    let talk = |sent: &[u8]| {
        let (mut guest, stream) = UnixStream::pair().unwrap();
        echo.serve(stream, &relays).unwrap();
        let mut writer = guest.try_clone().unwrap();
        let sent = sent.to_vec();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        guest.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        relays.wait_idle(Instant::now() + Duration::from_secs(60));
        back
    };
    assert_eq!(talk(b"\x1b[2Jhi\n"), b"\x1b[2Jhi\n");
    let expected = ["[vsock] guest connected on port 7", "[vsock 7] \\u{1b}[2Jhi", "[vsock 7] end"];
    assert_eq!(*lines.lock().unwrap(), expected);
    let flood = vec![b'x'; 1 << 20];
    assert!(talk(&flood) == flood);
    for _ in 0..2000 {
        talk(b"");
    }
    let lines = lines.lock().unwrap();
    assert!(lines.iter().map(String::len).sum::<usize>() < 70_000 && lines.len() < 2000, "{}", lines.len());
    assert_eq!(lines.iter().filter(|line| line.contains("not shown")).count(), 1);
}

#[test]
#[cfg(target_os = "linux")]
fn a_server_that_hangs_holds_nobody_up_for_ever() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server");
    let server = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&server, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    // Room for one connection that nobody accepts.
    listen(&server, 0).unwrap();
    let waiting = connect(&path, Duration::from_millis(10)).unwrap();
    assert_eq!(waiting.write_timeout().unwrap(), None, "what is connected may take its time");
    let error = connect(&path, Duration::from_millis(10)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(waiting);
    let gone = connect(&dir.path().join("none"), CONNECT_LIMIT).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
}
