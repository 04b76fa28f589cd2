#![allow(clippy::unwrap_used)]

use super::*;
use crate::packet::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

const PORT: u32 = 5000;

/// The guest's and the owner's side of a device, in the test's hands.
struct Bench {
    device: Device,
}

/// The room that the guest announces unless a test says otherwise.
const ROOM: u32 = 1 << 20;

fn packet(guest: u32, op: Op) -> Header {
    Header {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: guest,
        dst_port: PORT,
        kind: TYPE_STREAM,
        op: op.number(),
        buf_alloc: ROOM,
        ..Header::default()
    }
}

impl Bench {
    fn listening() -> Self {
        let mut device = Device::new().unwrap();
        device.hear_owner(ToDevice::Listen { port: PORT }, None).unwrap();
        Self { device }
    }

    fn guest(&mut self, header: Header, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        self.device.take_packet(&Header { len, ..header }, data);
    }

    fn asked(&mut self) -> u64 {
        match self.device.next_answer() {
            Some(ToOwner::Asked { id, port: PORT }) => id,
            other => panic!("not asked: {other:?}"),
        }
    }

    /// Takes what the sockets have to say.
    fn settle(&mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            epoll::wait(self.device.epoll(), rustix::buffer::spare_capacity(&mut events), Some(&now))
                .unwrap();
            if events.is_empty() {
                return;
            }
            for event in &events {
                self.device.event(event.data.u64(), event.flags);
            }
        }
    }

    /// All packets that are there for the guest now.
    fn packets(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.settle();
        let mut all = Vec::new();
        let mut buffer = vec![0; 4096];
        while self.device.has_outgoing() {
            let Some(header) = self.device.next_packet(&mut buffer) else { break };
            all.push((header, buffer[..usize::try_from(header.len).unwrap()].to_vec()));
        }
        all
    }

    fn ops(&mut self) -> Vec<Op> {
        self.packets().iter().map(|(header, _)| Op::from_number(header.op).unwrap()).collect()
    }

    /// An open connection from that port of the guest; the owner's end of it.
    fn open(&mut self, guest: u32) -> UnixStream {
        self.guest(packet(guest, Op::Request), b"");
        let id = self.asked();
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.device.hear_owner(ToDevice::Accept { id }, Some(theirs.into())).unwrap();
        assert_eq!(self.ops(), [Op::Response]);
        ours.set_nonblocking(true).unwrap();
        ours
    }
}

fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
    }
    bytes
}

fn is_at_end(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0) | Err(_)) && {
        let again = stream.read(&mut [0]);
        !matches!(again, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

#[test]
fn data_goes_both_ways_and_credits_are_kept() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    bench.guest(packet(1, Op::Data), b"from the guest");
    assert_eq!(read_all(&mut host), b"from the guest");
    host.write_all(b"from the host").unwrap();
    let packets = bench.packets();
    assert_eq!(packets.len(), 1);
    let (header, data) = &packets[0];
    assert_eq!((data.as_slice(), header.src_port, header.dst_port), (&b"from the host"[..], PORT, 1));
    assert_eq!((header.buf_alloc, header.fwd_cnt), (WINDOW, 14));
}

#[test]
fn a_port_that_nobody_opened_refuses_and_one_that_was_closed_too() {
    let mut bench = Bench::listening();
    bench.guest(Header { dst_port: 1, ..packet(9, Op::Request) }, b"");
    let packets = bench.packets();
    assert_eq!(packets.len(), 1);
    assert_eq!((packets[0].0.op, packets[0].0.src_port), (Op::Reset.number(), 1));
    bench.device.hear_owner(ToDevice::Unlisten { port: PORT }, None).unwrap();
    bench.guest(packet(9, Op::Request), b"");
    assert_eq!(bench.ops(), [Op::Reset]);
    assert_eq!(bench.device.next_answer(), None);
}

#[test]
fn the_owner_may_refuse() {
    let mut bench = Bench::listening();
    bench.guest(packet(1, Op::Request), b"");
    let id = bench.asked();
    bench.device.hear_owner(ToDevice::Refuse { id }, None).unwrap();
    assert_eq!(bench.ops(), [Op::Reset]);
    assert_eq!(bench.device.connections(), 0);
}

#[test]
fn the_guest_is_sent_no_more_than_it_has_room_for() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    bench.guest(Header { buf_alloc: 10, ..packet(1, Op::CreditUpdate) }, b"");
    host.write_all(&[7; 100]).unwrap();
    let packets = bench.packets();
    let sent: usize = packets.iter().map(|(_, data)| data.len()).sum();
    assert_eq!(sent, 10);
    assert_eq!(packets.last().unwrap().0.op, Op::CreditRequest.number(), "once, when there is no room left");
    assert!(bench.packets().is_empty());
    bench.guest(Header { buf_alloc: 10, fwd_cnt: 4, ..packet(1, Op::CreditUpdate) }, b"");
    assert_eq!(bench.packets()[0].1.len(), 4);
    // More passed on than was sent: nonsense gets nothing.
    bench.guest(Header { buf_alloc: 10, fwd_cnt: 5000, ..packet(1, Op::CreditUpdate) }, b"");
    assert!(bench.packets().iter().all(|(_, data)| data.is_empty()));
}

#[test]
fn who_sends_beyond_its_window_is_reset_and_nothing_more_is_kept() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    let piece = vec![1; 64 << 10];
    let mut sent = 0;
    // The bytes in the host kernel's buffers come on top of the window.
    while bench.device.connections() == 1 && sent < (64 << 20) {
        bench.guest(packet(1, Op::Data), &piece);
        sent += piece.len();
        if bench.ops().contains(&Op::Reset) {
            break;
        }
    }
    assert!(sent < 4 * WINDOW as usize, "{sent}");
    assert_eq!(bench.device.connections(), 0);
    assert!(read_all(&mut host).len() < sent);
    assert!(is_at_end(&mut host));
}

#[test]
fn a_host_that_reads_gets_everything_and_the_guest_hears_of_the_room() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    let (mut sent, mut forwarded, mut got) = (0u32, 0u32, Vec::new());
    let mut expected = Vec::new();
    for turn in 0..200u32 {
        let room = WINDOW - (sent - forwarded);
        let len = room.min(64 << 10);
        let piece = vec![u8::try_from(turn % 251).unwrap(); usize::try_from(len).unwrap()];
        bench.guest(packet(1, Op::Data), &piece);
        expected.extend(&piece);
        sent += len;
        got.extend(read_all(&mut host));
        for (header, _) in bench.packets() {
            assert_eq!(header.op, Op::CreditUpdate.number());
            forwarded = header.fwd_cnt;
        }
    }
    got.extend(read_all(&mut host));
    assert!(got == expected && sent > 4 * WINDOW, "{} of {}", got.len(), expected.len());
}

#[test]
fn a_half_closed_guest_still_receives_and_the_host_sees_the_end() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    bench.guest(packet(1, Op::Data), b"last");
    bench.guest(Header { flags: SHUTDOWN_SEND, ..packet(1, Op::Shutdown) }, b"");
    let mut text = [0; 8];
    assert_eq!(host.read(&mut text).unwrap(), 4);
    assert_eq!(host.read(&mut text).unwrap(), 0);
    host.write_all(b"answer").unwrap();
    drop(host);
    let packets = bench.packets();
    assert_eq!(packets[0].1, b"answer");
    assert_eq!((packets[1].0.op, packets[1].0.flags), (Op::Shutdown.number(), SHUTDOWN_BOTH));
    bench.guest(packet(1, Op::Reset), b"");
    assert_eq!(bench.device.connections(), 0);
}

#[test]
fn a_half_closed_host_still_receives_and_the_guest_is_told() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    host.shutdown(std::net::Shutdown::Write).unwrap();
    let packets = bench.packets();
    assert_eq!((packets[0].0.op, packets[0].0.flags), (Op::Shutdown.number(), SHUTDOWN_SEND));
    bench.guest(packet(1, Op::Data), b"still");
    assert_eq!(read_all(&mut host), b"still");
    drop(host);
    let packets = bench.packets();
    assert_eq!((packets[0].0.op, packets[0].0.flags), (Op::Shutdown.number(), SHUTDOWN_BOTH));
    // The guest agrees, and has the last word.
    bench.guest(Header { flags: SHUTDOWN_BOTH, ..packet(1, Op::Shutdown) }, b"");
    assert_eq!(bench.ops(), [Op::Reset]);
    assert_eq!(bench.device.connections(), 0);
}

#[test]
fn a_guest_that_will_not_receive_is_sent_nothing() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    bench.guest(Header { flags: SHUTDOWN_RECEIVE, ..packet(1, Op::Shutdown) }, b"");
    bench.settle();
    assert!(host.write_all(b"x").is_err());
    assert!(bench.packets().iter().all(|(_, data)| data.is_empty()));
}

#[test]
fn what_a_guest_sent_before_it_closed_reaches_a_slow_host() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    let piece = vec![3; 64 << 10];
    let mut sent = 0;
    for _ in 0..3 {
        bench.guest(packet(1, Op::Data), &piece);
        sent += piece.len();
    }
    bench.guest(Header { flags: SHUTDOWN_BOTH, ..packet(1, Op::Shutdown) }, b"");
    // Its kernel does not wait for ever.
    bench.guest(packet(1, Op::Reset), b"");
    let mut got = 0;
    while got < sent {
        bench.settle();
        let read = read_all(&mut host).len();
        assert!(read > 0, "{got} of {sent}");
        got += read;
    }
    bench.settle();
    assert!(is_at_end(&mut host));
    assert_eq!(bench.device.connections(), 0);
}

#[test]
fn a_connection_to_the_guest_is_answered_by_the_guest() {
    let mut bench = Bench::listening();
    let offer = |bench: &mut Bench, id| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        bench.device.hear_owner(ToDevice::Connect { id, port: 80 }, Some(theirs.into())).unwrap();
        let packets = bench.packets();
        assert_eq!((packets[0].0.op, packets[0].0.dst_port), (Op::Request.number(), 80));
        (ours, packets[0].0.src_port)
    };
    let answer = |port, op| Header { src_port: 80, dst_port: port, ..packet(80, op) };
    let (mut host, port) = offer(&mut bench, 1);
    host.write_all(b"early").unwrap();
    assert!(bench.packets().is_empty(), "nothing before the guest has agreed");
    bench.guest(answer(port, Op::Response), b"");
    assert_eq!(bench.device.next_answer(), Some(ToOwner::Connected { id: 1 }));
    assert_eq!(bench.packets()[0].1, b"early");

    let (_host, port) = offer(&mut bench, 2);
    bench.guest(answer(port, Op::Reset), b"");
    assert_eq!(bench.device.next_answer(), Some(ToOwner::Refused { id: 2 }));

    let (host, _) = offer(&mut bench, 3);
    drop(host);
    assert_eq!(bench.ops(), [Op::Reset], "called off");
    assert_eq!(bench.device.next_answer(), Some(ToOwner::Refused { id: 3 }));
    assert_eq!(bench.device.connections(), 1);
}

#[test]
fn packets_for_others_of_other_kinds_and_out_of_turn_end_what_they_belong_to() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    bench.guest(Header { src_cid: 4, ..packet(1, Op::Reset) }, b"");
    assert!(bench.packets().is_empty() && bench.device.connections() == 1, "another guest's name");
    bench.guest(Header { dst_cid: 9, ..packet(7, Op::Request) }, b"");
    assert_eq!(bench.ops(), [Op::Reset]);
    bench.guest(Header { kind: 2, ..packet(7, Op::Request) }, b"");
    assert_eq!(bench.ops(), [Op::Reset]);
    bench.guest(Header { op: 77, ..packet(7, Op::Request) }, b"");
    assert_eq!(bench.ops(), [Op::Reset]);
    bench.guest(packet(7, Op::Reset), b"");
    assert!(bench.packets().is_empty(), "a reset is not answered");
    bench.guest(packet(1, Op::Request), b"");
    assert_eq!(bench.ops(), [Op::Reset]);
    assert!(is_at_end(&mut host));
    assert_eq!(bench.device.connections(), 0);
}

#[test]
fn a_flood_of_connections_and_of_nonsense_is_bounded() {
    let mut bench = Bench::listening();
    for guest in 0..5000 {
        bench.guest(packet(guest, Op::Request), b"");
        bench.guest(Header { dst_port: 1, ..packet(guest, Op::Data) }, b"x");
        // Given up before the owner has looked.
        bench.guest(packet(guest, Op::Reset), b"");
    }
    assert!(bench.device.connections() <= CONNECTIONS_MAX);
    assert!(bench.device.resets.len() <= RESETS_MAX);
    let mut asked = 0;
    while let Some(ToOwner::Asked { id, .. }) = bench.device.next_answer() {
        asked += 1;
        bench.device.hear_owner(ToDevice::Refuse { id }, None).unwrap();
    }
    assert_eq!(asked, ASKED_MAX);
    bench.packets();
    drop(bench.open(1));
}

#[test]
fn all_windows_together_stay_within_the_limit() {
    let mut bench = Bench::listening();
    let mut hosts = Vec::new();
    for guest in 0..u32::try_from(CONNECTIONS_MAX).unwrap() {
        hosts.push(bench.open(guest));
    }
    assert!(bench.device.promised <= BUFFERED_MAX, "{}", bench.device.promised);
    bench.guest(packet(9999, Op::Request), b"");
    assert_eq!(bench.ops(), [Op::Reset], "one more than there may be");
    // One that only waits for the guest's last word makes room.
    drop(hosts.pop());
    assert_eq!(bench.ops(), [Op::Shutdown]);
    hosts.push(bench_open_evicting(&mut bench, 9999));
    assert_eq!(bench.device.connections(), CONNECTIONS_MAX);
    drop(hosts);
}

fn bench_open_evicting(bench: &mut Bench, guest: u32) -> UnixStream {
    bench.guest(packet(guest, Op::Request), b"");
    let id = bench.asked();
    let (ours, theirs) = UnixStream::pair().unwrap();
    bench.device.hear_owner(ToDevice::Accept { id }, Some(theirs.into())).unwrap();
    assert_eq!(bench.ops(), [Op::Reset, Op::Response]);
    ours
}

#[test]
fn an_owner_that_goes_away_takes_the_connections_along() {
    let mut bench = Bench::listening();
    let mut host = bench.open(1);
    bench.device.abandon();
    assert!(is_at_end(&mut host));
    assert_eq!(bench.ops(), [Op::Reset]);
    bench.guest(packet(2, Op::Request), b"");
    assert_eq!(bench.ops(), [Op::Reset]);
}

#[derive(Debug, Clone)]
enum Step {
    Guest(Header, usize),
    Accept,
    Refuse,
    Connect(u32),
    Hang,
    Write,
    Read,
    Take(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let port = 0u32..4;
    let header = (port.clone(), 0u16..9, any::<u32>(), any::<u32>(), 0u32..4, 0u8..20, 0u32..2).prop_map(
        |(guest, op, room, forwarded, flags, odd, other)| Header {
            src_cid: if odd == 0 { 9 } else { GUEST_CID },
            dst_cid: if odd == 1 { 9 } else { HOST_CID },
            kind: if odd == 2 { 2 } else { TYPE_STREAM },
            dst_port: if other == 0 { PORT } else { EPHEMERAL },
            op,
            buf_alloc: room,
            fwd_cnt: forwarded,
            flags,
            ..packet(guest, Op::Data)
        },
    );
    let step = prop_oneof![
        6 => (header, 0usize..70_000).prop_map(|(header, len)| Step::Guest(header, len.min(64 << 10))),
        2 => Just(Step::Accept),
        1 => Just(Step::Refuse),
        1 => port.prop_map(Step::Connect),
        1 => Just(Step::Hang),
        1 => Just(Step::Write),
        1 => Just(Step::Read),
        2 => (1usize..4096).prop_map(Step::Take),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest sends in whatever order, nothing panics and nothing grows beyond its limits.
    #[test]
    fn any_guest_is_survived(steps in steps()) {
        let mut bench = Bench::listening();
        let mut hosts: Vec<UnixStream> = Vec::new();
        let mut asked = VecDeque::new();
        for step in steps {
            match step {
                Step::Guest(header, len) => {
                    // A packet that is no data has none to look at.
                    bench.guest(header, &vec![5; len]);
                }
                Step::Accept => if let Some(id) = asked.pop_front() {
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    ours.set_nonblocking(true).unwrap();
                    hosts.push(ours);
                    bench.device.hear_owner(ToDevice::Accept { id }, Some(theirs.into())).unwrap();
                },
                Step::Refuse => if let Some(id) = asked.pop_front() {
                    bench.device.hear_owner(ToDevice::Refuse { id }, None).unwrap();
                },
                Step::Connect(port) => {
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    ours.set_nonblocking(true).unwrap();
                    hosts.push(ours);
                    bench.device.hear_owner(ToDevice::Connect { id: 1, port }, Some(theirs.into())).unwrap();
                }
                Step::Hang => drop(hosts.pop()),
                Step::Write => if let Some(host) = hosts.last_mut() {
                    let _ = host.write(&[1; 9000]);
                },
                Step::Read => if let Some(host) = hosts.last_mut() {
                    let _ = host.read(&mut [0; 9000]);
                },
                Step::Take(room) => {
                    bench.settle();
                    let mut buffer = vec![0; room];
                    if let Some(header) = bench.device.next_packet(&mut buffer) {
                        prop_assert!(usize::try_from(header.len).unwrap() <= room);
                        prop_assert_eq!(header.src_cid, HOST_CID);
                    }
                }
            }
            while let Some(answer) = bench.device.next_answer() {
                if let ToOwner::Asked { id, .. } = answer {
                    asked.push_back(id);
                }
            }
            prop_assert!(bench.device.connections() <= CONNECTIONS_MAX);
            prop_assert!(bench.device.promised <= BUFFERED_MAX);
            prop_assert!(bench.device.queue.len() <= bench.device.connections());
            let buffered: usize = bench.device.connections.values().map(Connection::buffered).sum();
            prop_assert!(buffered <= bench.device.promised);
        }
    }
}
