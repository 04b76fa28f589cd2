#![allow(clippy::unwrap_used)]

use super::*;
use crate::packet::{HOST_CID, Op, TYPE_STREAM};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};
use vmette_backend::vsock::ToOwner;

const SIZE: u16 = 16;
const MEMORY: u64 = 1 << 20;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Where the rings of a queue are, behind its descriptors.
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Where tests put packets.
const DATA: u64 = 0x8000;
const RX_DATA: u64 = 0x4_0000;

fn base(queue: u16) -> u64 {
    u64::from(queue) * 0x1000
}

/// A guest's memory with two queues in it, and the device that looks into it.
struct Guest {
    memory: GuestMemoryMmap,
    queues: Queues,
    vrings: Vec<VringRwLock>,
    owner: Channel,
}

impl Guest {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let atomic = Memory::new(memory.clone());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (queues, _) = Queues::new(atomic.clone(), Channel::new(theirs)).unwrap();
        let queues = Arc::into_inner(queues).unwrap().into_inner().unwrap();
        let vrings = (0..2)
            .map(|i| {
                let vring = VringRwLock::new(atomic.clone(), 256).unwrap();
                let at = base(i);
                vring.set_queue_size(SIZE);
                vring.set_queue_info(at, at + AVAILABLE, at + USED).unwrap();
                vring.set_queue_ready(true);
                vring.set_enabled(true);
                vring
            })
            .collect();
        let owner = Channel::new(ours);
        owner.socket().set_nonblocking(true).unwrap();
        owner.send(ToDevice::Listen { port: 5000 }, None).unwrap();
        let mut guest = Self { memory, queues, vrings, owner };
        guest.event(OTHERS);
        guest
    }

    fn event(&mut self, event: u16) {
        VhostUserBackendMut::handle_event(&mut self.queues, event, EventSet::IN, &self.vrings, 0).unwrap();
    }

    /// Makes these descriptors available as one chain, and says so to the device.
    fn offer(&mut self, queue: u16, descriptors: &[Descriptor]) {
        for (i, descriptor) in (0..).zip(descriptors) {
            self.memory.write_obj(*descriptor, GuestAddress(base(queue) + 16 * i)).unwrap();
        }
        let ring = base(queue) + AVAILABLE;
        let idx: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        self.memory.write_obj(0u16, GuestAddress(ring + 4 + 2 * u64::from(idx % SIZE))).unwrap();
        self.memory.write_obj(idx.wrapping_add(1), GuestAddress(ring + 2)).unwrap();
        self.event(queue);
    }

    fn used(&self, queue: u16) -> u16 {
        self.memory.read_obj(GuestAddress(base(queue) + USED + 2)).unwrap()
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        self.memory.write_slice(&header.encode(), GuestAddress(DATA)).unwrap();
        self.memory.write_slice(data, GuestAddress(DATA + 44)).unwrap();
        let len = u32::try_from(44 + data.len()).unwrap();
        self.offer(1, &[Descriptor::new(DATA, len, 0, 0)]);
    }

    /// One buffer for a packet, and what is in it afterwards.
    fn receive(&mut self, room: u32) -> Option<(Header, Vec<u8>)> {
        let before = self.used(0);
        self.offer(0, &[Descriptor::new(RX_DATA, room, WRITE, 0)]);
        if self.used(0) == before {
            return None;
        }
        let mut bytes = [0; HEADER_LEN];
        self.memory.read_slice(&mut bytes, GuestAddress(RX_DATA)).unwrap();
        let header = Header::decode(&bytes);
        let mut data = vec![0; usize::try_from(header.len).unwrap()];
        self.memory.read_slice(&mut data, GuestAddress(RX_DATA + 44)).unwrap();
        Some((header, data))
    }

    fn connect(&mut self) -> UnixStream {
        self.send(packet(Op::Request, 0), b"");
        let (message, _) = self.owner.receive::<ToOwner>().unwrap().unwrap();
        let ToOwner::Asked { id, port: 5000 } = message else { panic!("{message:?}") };
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.owner.send(ToDevice::Accept { id }, Some(theirs.as_fd())).unwrap();
        self.event(OTHERS);
        ours
    }
}

fn packet(op: Op, len: u32) -> Header {
    Header {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: 1,
        dst_port: 5000,
        len,
        kind: TYPE_STREAM,
        op: op.number(),
        buf_alloc: 1 << 16,
        ..Header::default()
    }
}

#[test]
fn a_guest_connects_and_talks_through_its_queues() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    assert_eq!(guest.receive(4096).unwrap().0.op, Op::Response.number());
    guest.send(packet(Op::Data, 4), b"ping");
    let mut text = [0; 4];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ping");
    host.write_all(b"pong").unwrap();
    guest.event(OTHERS);
    let (header, data) = guest.receive(4096).unwrap();
    assert_eq!((header.op, data.as_slice()), (Op::Data.number(), &b"pong"[..]));
}

#[test]
fn a_packet_may_lie_in_any_number_of_parts() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.memory.write_slice(&packet(Op::Data, 6).encode(), GuestAddress(DATA)).unwrap();
    guest.memory.write_slice(b"in six", GuestAddress(DATA + 44)).unwrap();
    let parts: Vec<Descriptor> = (0..10u16)
        .map(|i| Descriptor::new(DATA + u64::from(i) * 5, 5, if i < 9 { NEXT } else { 0 }, i + 1))
        .collect();
    guest.offer(1, &parts);
    let mut text = [0; 6];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"in six");
}

#[test]
fn a_buffer_without_room_for_a_packet_comes_back_empty_and_nothing_is_lost() {
    let mut guest = Guest::new();
    let _host = guest.connect();
    for room in [0, 1, 43, 44] {
        let before = guest.used(0);
        guest.offer(0, &[Descriptor::new(RX_DATA, room, WRITE, 0)]);
        assert_eq!(guest.used(0), before + 1, "{room}");
    }
    // Readable instead of writable, and outside of the memory.
    guest.offer(0, &[Descriptor::new(RX_DATA, 4096, 0, 0)]);
    guest.offer(0, &[Descriptor::new(MEMORY, 4096, WRITE, 0)]);
    assert_eq!(guest.receive(45).unwrap().0.op, Op::Response.number());
}

#[test]
fn data_is_never_larger_than_the_buffer_that_takes_it() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.receive(4096).unwrap();
    host.write_all(&[9; 1000]).unwrap();
    guest.event(OTHERS);
    let (_, data) = guest.receive(44 + 300).unwrap();
    assert_eq!(data, [9; 300]);
}

#[test]
fn a_header_that_lies_about_its_data_ends_its_connection() {
    for (len, data) in [(100, 4), (u32::MAX, 4), (1 << 17, 1 << 17)] {
        let mut guest = Guest::new();
        let _host = guest.connect();
        guest.receive(4096).unwrap();
        guest.send(packet(Op::Data, len), &vec![0; data]);
        assert_eq!(guest.receive(4096).unwrap().0.op, Op::Reset.number(), "{len}");
    }
}

#[test]
fn descriptors_that_lead_nowhere_or_in_circles_are_survived() {
    let mut guest = Guest::new();
    let host = guest.connect();
    guest.memory.write_slice(&[0; 4096], GuestAddress(DATA)).unwrap();
    for bad in [
        vec![Descriptor::new(DATA, 44, NEXT, 0)],
        vec![Descriptor::new(DATA, 44, NEXT, SIZE)],
        vec![Descriptor::new(u64::MAX - 8, 64, 0, 0)],
        vec![Descriptor::new(MEMORY - 4, 64, 0, 0)],
        vec![Descriptor::new(DATA, u32::MAX, NEXT, 1), Descriptor::new(DATA, u32::MAX, 0, 0)],
        vec![Descriptor::new(DATA, 44, WRITE, 0)],
        vec![Descriptor::new(DATA, 16, INDIRECT, 0)],
        vec![Descriptor::new(DATA, 7, INDIRECT, 0)],
        vec![Descriptor::new(DATA, 0, 0, 0)],
    ] {
        guest.offer(1, &bad);
        guest.offer(0, &bad);
    }
    drop(host);
    // It still serves.
    guest.event(OTHERS);
    assert_eq!(guest.receive(4096).unwrap().0.op, Op::Response.number());
}

/// The number of buffers that the guest says it has made available so far.
const AVAILABLE_INDEX: u64 = AVAILABLE + 2;

#[test]
fn a_queue_that_claims_more_than_it_holds_is_given_up_and_not_looked_at_for_ever() {
    for queue in [1, 0] {
        let mut guest = Guest::new();
        let _host = guest.connect();
        let index: u16 = guest.memory.read_obj(GuestAddress(base(queue) + AVAILABLE_INDEX)).unwrap();
        let lie = index.wrapping_add(SIZE + 1);
        guest.memory.write_obj(lie, GuestAddress(base(queue) + AVAILABLE_INDEX)).unwrap();
        guest.event(queue);
        guest.event(OTHERS);
        let given_up = &guest.vrings[usize::from(queue)];
        assert!(!given_up.get_ref().get_queue().ready(), "it would fail with each notification");
        // The other one is served, and this one is again when it is set up anew.
        guest.memory.write_obj(index, GuestAddress(base(queue) + AVAILABLE_INDEX)).unwrap();
        given_up.set_queue_ready(true);
        assert_eq!(guest.receive(4096).unwrap().0.op, Op::Response.number());
    }
}

#[test]
fn a_ring_outside_of_the_memory_is_given_up() {
    let mut guest = Guest::new();
    let _host = guest.connect();
    let at = base(1);
    guest.vrings[1].set_queue_info(at, at + AVAILABLE, MEMORY + 0x1000).unwrap();
    guest.send(packet(Op::Data, 4), b"lost");
    assert!(!guest.vrings[1].get_ref().get_queue().ready());
    // Its number of buffers can be read, and the buffers cannot.
    guest.vrings[1].set_queue_info(at, MEMORY - 4, at + USED).unwrap();
    guest.vrings[1].set_queue_next_avail(0);
    guest.memory.write_obj(1u16, GuestAddress(MEMORY - 2)).unwrap();
    guest.vrings[1].set_queue_ready(true);
    guest.event(1);
    assert!(!guest.vrings[1].get_ref().get_queue().ready());
    assert_eq!(guest.receive(4096).unwrap().0.op, Op::Response.number());
}

#[test]
fn a_guest_that_sends_much_gives_others_their_turn() {
    const LARGE: u16 = 256;
    const AT: u64 = 0x1_0000;
    let mut guest = Guest::new();
    let vring = &guest.vrings[1];
    vring.set_queue_size(LARGE);
    vring.set_queue_info(AT, AT + 0x2000, AT + 0x3000).unwrap();
    vring.set_queue_next_avail(0);
    // The same packet in each place, too short to be one.
    guest.memory.write_obj(Descriptor::new(DATA, 1, 0, 0), GuestAddress(AT)).unwrap();
    guest.memory.write_obj(LARGE, GuestAddress(AT + 0x2002)).unwrap();
    let taken = |guest: &Guest| usize::from(guest.vrings[1].queue_next_avail());
    guest.event(1);
    assert_eq!(taken(&guest), TURN);
    // The rest needs no notification by the guest.
    guest.event(OTHERS);
    assert_eq!(taken(&guest), 2 * TURN);
}

#[test]
fn the_configuration_is_the_context_id_and_nothing_behind_it() {
    let guest = Guest::new();
    assert_eq!(guest.queues.get_config(0, 8), GUEST_CID.to_le_bytes());
    assert_eq!(guest.queues.get_config(4, 4), [0; 4]);
    assert!(
        guest.queues.get_config(4, 8).is_empty() && guest.queues.get_config(u32::MAX, u32::MAX).is_empty()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_descriptors_and_any_bytes_are_survived(
        chains in prop::collection::vec(
            (0u16..2, prop::collection::vec((0u64..MEMORY + 0x1000, prop_oneof![0u32..70_000, any::<u32>()], 0u16..8, 0u16..SIZE + 1), 1..6)),
            1..20,
        ),
        bytes in prop::collection::vec(any::<u8>(), 64..4096),
    ) {
        let mut guest = Guest::new();
        guest.memory.write_slice(&bytes, GuestAddress(DATA)).unwrap();
        for (queue, chain) in chains {
            let chain: Vec<Descriptor> =
                // Buffers keep clear of the queues themselves: a guest that lets its queues be overwritten is a case of
                // its own, and would only end this one early.
                chain.into_iter().map(|(addr, len, flags, next)| Descriptor::new(addr.max(0x2000), len, flags, next)).collect();
            guest.offer(queue, &chain);
        }
        prop_assert!(guest.queues.device.connections() <= crate::device::CONNECTIONS_MAX);
    }
}

#[test]
fn what_a_guest_sent_last_reaches_the_host_after_the_guests_end() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let len = 1 << 16;
    let piece = vec![8; len];
    // More than a socket takes at once.
    for _ in 0..3 {
        guest.send(packet(Op::Data, u32::try_from(len).unwrap()), &piece);
    }
    let mut queues = guest.queues;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        host.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    queues.finish(Instant::now() + Duration::from_secs(60)).unwrap();
    drop(queues);
    assert_eq!(reader.join().unwrap(), 3 * len);
}
