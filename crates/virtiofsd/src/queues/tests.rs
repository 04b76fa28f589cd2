#![allow(clippy::unwrap_used)]

use super::*;
use std::fs;
use std::time::Instant;

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use virtio_queue::desc::split::Descriptor;
use virtiofsd::fuse::{
    EntryOut, FileLock, GetattrIn, InHeader, InitInCompat, LK_FLOCK, LkIn, Opcode, OpenIn, OpenOut,
    OutHeader, ReadIn, ReleaseIn,
};
use virtiofsd::passthrough::{Config, PassthroughFs};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use crate::folder::Bounds;
use crate::locks::Locks;

const SIZE: u16 = 16;
const MEMORY: u64 = 1 << 20;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Where the rings of a queue are, behind its descriptors.
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Where tests put requests, and have answers.
const REQUEST: u64 = 0x8000;
const ANSWER: u64 = 0x4_0000;
const ANSWER_LEN: u32 = 0x4000;
/// The queue of requests.
const REQUESTS: u16 = 1;
const ROOT: u64 = 1;

fn base(queue: u16) -> u64 {
    u64::from(queue) * 0x1000
}

/// A guest's memory with two queues in it, and the device that looks into it.
struct Guest {
    memory: Memory,
    queues: Queues<PassthroughFs>,
    vrings: Vec<Vring>,
    dir: tempfile::TempDir,
    next_head: u16,
}

impl Guest {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "content").unwrap();
        let memory = Memory::from_ranges(&[(GuestAddress(0), usize::try_from(MEMORY).unwrap())]).unwrap();
        let atomic = AtomicMemory::new(memory.clone());
        let config = Config {
            root_dir: dir.path().to_str().unwrap().into(),
            xattr: true,
            guest_fd_limit: 64,
            ..Config::default()
        };
        let open = rustix::fs::open("/proc/self/fd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let bounds = Bounds { descriptors: 64, files: 1000, size: 1 << 20 };
        let folder =
            Folder::new(PassthroughFs::new(config).unwrap(), bounds, Locks::new(open.into(), true).unwrap());
        let queues = Queues::new(atomic.clone(), folder).unwrap();
        let vrings = (0..2).map(|_| Vring::new(atomic.clone(), 256).unwrap()).collect();
        let mut guest = Self { memory, queues, vrings, dir, next_head: 0 };
        guest.set_up();
        guest
    }

    /// As a driver does at its start.
    fn set_up(&mut self) {
        self.memory.write_slice(&[0; 0x2000], GuestAddress(0)).unwrap();
        self.next_head = 0;
        for (vring, i) in self.vrings.iter().zip(0..) {
            let at = base(i);
            vring.set_queue_size(SIZE);
            vring.set_queue_next_avail(0);
            vring.set_queue_next_used(0);
            vring.set_queue_info(at, at + AVAILABLE, at + USED).unwrap();
            vring.set_queue_ready(true);
            vring.set_enabled(true);
        }
    }

    fn start(&mut self) {
        let init = InitInCompat { major: 7, minor: 36, max_readahead: 0, flags: !(1 << 30) };
        assert_eq!(self.ask(Opcode::Init, ROOT, init.as_slice()).unwrap().error, 0);
    }

    fn event(&mut self, event: u16) {
        VhostUserBackendMut::handle_event(&mut self.queues, event, EventSet::IN, &self.vrings, 0).unwrap();
    }

    fn used(&self, queue: u16) -> u16 {
        self.memory.read_obj(GuestAddress(base(queue) + USED + 2)).unwrap()
    }

    /// Makes these descriptors available as one chain, without a word to the device.
    fn put(&mut self, queue: u16, head: u16, descriptors: &[Descriptor]) {
        for (i, descriptor) in (u64::from(head)..).zip(descriptors) {
            self.memory.write_obj(*descriptor, GuestAddress(base(queue) + 16 * i)).unwrap();
        }
        let ring = base(queue) + AVAILABLE;
        let idx: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        self.memory.write_obj(head, GuestAddress(ring + 4 + 2 * u64::from(idx % SIZE))).unwrap();
        self.memory.write_obj(idx.wrapping_add(1), GuestAddress(ring + 2)).unwrap();
    }

    /// Puts a request into its place, with room for the answer. Returns its number.
    fn send(&mut self, request: &[u8], room: u32) -> u16 {
        let head = self.next_head;
        self.next_head = (head + 2) % SIZE;
        let (from, to) = (REQUEST + u64::from(head) * 0x1000, ANSWER + u64::from(head) * 0x2000);
        self.memory.write_slice(request, GuestAddress(from)).unwrap();
        self.memory.write_slice(&[0xee; 64], GuestAddress(to)).unwrap();
        let len = u32::try_from(request.len()).unwrap();
        let answer = Descriptor::new(to, room, WRITE, 0);
        self.put(REQUESTS, head, &[Descriptor::new(from, len, NEXT, head + 1), answer]);
        self.event(REQUESTS);
        head
    }

    fn answer<T: ByteValued>(&self, head: u16, offset: u64) -> T {
        self.memory.read_obj(GuestAddress(ANSWER + u64::from(head) * 0x2000 + offset)).unwrap()
    }

    /// Asks, and has the header of the answer if there is one at once.
    fn ask(&mut self, opcode: Opcode, node: u64, payload: &[u8]) -> Option<OutHeader> {
        let before = self.used(REQUESTS);
        let head = self.send(&request(opcode as u32, node, payload), ANSWER_LEN / 4);
        (self.used(REQUESTS) != before).then(|| self.answer(head, 0))
    }

    /// Asks something that succeeds, and has what follows the header.
    fn get<T: ByteValued>(&mut self, opcode: Opcode, node: u64, payload: &[u8]) -> T {
        let head = self.send(&request(opcode as u32, node, payload), ANSWER_LEN / 4);
        let out: OutHeader = self.answer(head, 0);
        assert_eq!(out.error, 0, "{opcode:?}");
        self.answer(head, 16)
    }

    fn still_serves(&mut self) {
        let out = self.ask(Opcode::Getattr, ROOT, GetattrIn::default().as_slice()).unwrap();
        assert_eq!((out.error, out.unique), (0, 7));
    }

    /// A file of the share, and an open file of it.
    fn open(&mut self, name: &[u8]) -> (u64, u64) {
        let entry: EntryOut = self.get(Opcode::Lookup, ROOT, name);
        let flags = u32::try_from(libc::O_RDWR).unwrap();
        let open = OpenIn { flags, ..OpenIn::default() };
        let opened: OpenOut = self.get(Opcode::Open, entry.nodeid, open.as_slice());
        (entry.nodeid, opened.fh)
    }

    /// Rings until the condition holds, as the clock does.
    fn until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < limit);
            std::thread::park_timeout(Duration::from_millis(1));
            self.event(AGAIN);
        }
    }
}

fn request(opcode: u32, node: u64, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(size_of::<InHeader>() + payload.len()).unwrap();
    let header = InHeader { len, opcode, unique: 7, nodeid: node, ..InHeader::default() };
    [header.as_slice(), payload].concat()
}

fn lock(fh: u64, owner: u64, kind: i32, whole: bool) -> LkIn {
    let type_ = u32::try_from(kind).unwrap();
    let lk = FileLock { start: 0, end: u64::MAX >> 1, type_, pid: 1 };
    LkIn { fh, owner, lk, lk_flags: if whole { LK_FLOCK } else { 0 }, padding: 0 }
}

#[test]
fn a_guest_is_served() {
    let mut guest = Guest::new();
    guest.start();
    guest.still_serves();
    let (node, fh) = guest.open(b"file\0");
    let read = ReadIn { fh, size: 100, ..ReadIn::default() };
    let content: [u8; 7] = guest.get(Opcode::Read, node, read.as_slice());
    assert_eq!(&content, b"content");
}

#[test]
fn a_request_that_cannot_be_read_has_an_answer() {
    let mut guest = Guest::new();
    guest.start();
    let (node, fh) = guest.open(b"file\0");
    let far = ReadIn { fh, offset: 1 << 63, size: 100, ..ReadIn::default() };
    let long = [[b'x'; 300].as_slice(), b"\0"].concat();
    for (opcode, payload) in [
        (Opcode::Lookup as u32, b"no end".to_vec()),
        (Opcode::Lookup as u32, Vec::new()),
        (Opcode::Lookup as u32, long),
        (Opcode::Rename as u32, vec![0; 3]),
        (Opcode::Read as u32, far.as_slice().to_vec()),
        (Opcode::Read as u32, vec![1]),
        (Opcode::Setxattr as u32, vec![0xff; 20]),
        (Opcode::Setlk as u32, vec![0xff; 48]),
        (Opcode::Setlkw as u32, vec![0; 5]),
        (Opcode::TmpFile as u32, vec![0; 50]),
        (Opcode::Ioctl as u32, Vec::new()),
        (u32::MAX, Vec::new()),
    ] {
        let head = guest.send(&request(opcode, node, &payload), ANSWER_LEN / 4);
        let out: OutHeader = guest.answer(head, 0);
        assert!(out.error < 0 && out.len == 16 && out.unique == 7, "{opcode}: {out:?}");
        guest.still_serves();
    }
    // What has come too late, or is about nothing.
    for node in [0, 77, u64::MAX] {
        let release = ReleaseIn { fh, ..ReleaseIn::default() };
        assert!(guest.ask(Opcode::Release, node, release.as_slice()).unwrap().error < 0);
        guest.ask(Opcode::Forget, node, &[0xff; 8]);
        guest.ask(Opcode::BatchForget, node, &[0xff; 8]);
        guest.ask(Opcode::Interrupt, node, &[]);
        guest.still_serves();
    }
}

#[test]
fn no_room_for_an_answer_is_no_answer() {
    let mut guest = Guest::new();
    guest.start();
    for room in [1, 15, 17, 40] {
        let before = guest.used(REQUESTS);
        for opcode in 0..60 {
            guest.send(&request(opcode, ROOT, &[0; 64]), room);
        }
        assert_eq!(guest.used(REQUESTS), before.wrapping_add(60));
        guest.start();
        guest.still_serves();
    }
    // Not even a header, and a request outside of the memory.
    for descriptor in [Descriptor::new(REQUEST, 3, 0, 0), Descriptor::new(MEMORY + 5, 100, 0, 0)] {
        guest.put(REQUESTS, 0, &[descriptor]);
        guest.event(REQUESTS);
    }
    guest.still_serves();
}

#[test]
fn a_guest_that_lies_about_its_queue_is_heard_again_when_it_has_set_it_up_anew() {
    let lies: [fn(&mut Guest); 3] = [
        // More requests than the queue holds.
        |guest| guest.memory.write_obj(5000u16, GuestAddress(base(REQUESTS) + AVAILABLE + 2)).unwrap(),
        // A table within a table.
        |guest| {
            let table = Descriptor::new(0x7000, 16, INDIRECT, 0);
            guest.memory.write_obj(table, GuestAddress(0x7000)).unwrap();
            guest.put(REQUESTS, 0, &[table]);
        },
        // Descriptors in a circle.
        |guest| {
            let circle = Descriptor::new(REQUEST, 16, NEXT, 0);
            guest.put(REQUESTS, 0, &[circle]);
        },
    ];
    for lie in lies {
        let mut guest = Guest::new();
        guest.start();
        lie(&mut guest);
        guest.event(REQUESTS);
        guest.event(REQUESTS);
        guest.event(0);
        guest.set_up();
        guest.start();
        guest.still_serves();
    }
}

#[test]
fn one_turn_is_bounded_and_goes_on() {
    let mut guest = Guest::new();
    guest.start();
    let request = request(Opcode::Getattr as u32, ROOT, GetattrIn::default().as_slice());
    guest.memory.write_slice(&request, GuestAddress(REQUEST)).unwrap();
    let len = u32::try_from(request.len()).unwrap();
    let answer = Descriptor::new(ANSWER, 256, WRITE, 0);
    for _ in 0..SIZE {
        guest.put(REQUESTS, 0, &[Descriptor::new(REQUEST, len, NEXT, 1), answer]);
    }
    let before = guest.used(REQUESTS);
    guest.event(REQUESTS);
    assert_eq!(guest.used(REQUESTS), before.wrapping_add(SIZE));
}

#[test]
fn a_lock_is_waited_for_while_other_requests_are_served() {
    for whole in [true, false] {
        let mut guest = Guest::new();
        guest.start();
        let (node, first) = guest.open(b"file\0");
        let (_, second) = guest.open(b"file\0");
        let exclusive = libc::F_WRLCK;
        let before = guest.used(REQUESTS);
        // The first lock of a file may have to wait for the guest's trust to end.
        let head = guest.send(
            &request(Opcode::Setlk as u32, node, lock(first, 1, exclusive, whole).as_slice()),
            ANSWER_LEN / 4,
        );
        guest.until(|guest| guest.used(REQUESTS) != before);
        assert_eq!(guest.answer::<OutHeader>(head, 0).error, 0);
        // At once, or not at all.
        let out = guest.ask(Opcode::Setlk, node, lock(second, 2, exclusive, whole).as_slice()).unwrap();
        assert_eq!(out.error, -libc::EAGAIN);
        // When it is free.
        assert!(guest.ask(Opcode::Setlkw, node, lock(second, 2, exclusive, whole).as_slice()).is_none());
        let waits = (guest.next_head + SIZE - 2) % SIZE;
        guest.still_serves();
        let before = guest.used(REQUESTS);
        let unlock = lock(first, 1, libc::F_UNLCK, whole);
        guest.get::<[u8; 0]>(Opcode::Setlk, node, unlock.as_slice());
        guest.until(|guest| guest.used(REQUESTS) == before.wrapping_add(2));
        assert_eq!(guest.answer::<OutHeader>(waits, 0).error, 0);
        guest.still_serves();
    }
}

#[test]
fn waiting_requests_leave_room_in_the_queue_and_go_with_it() {
    let mut guest = Guest::new();
    guest.start();
    let (node, fh) = guest.open(b"file\0");
    let path = guest.dir.path().join("file");
    let host = fs::File::open(path).unwrap();
    host.lock().unwrap();
    let waits = lock(fh, 1, libc::F_WRLCK, true);
    let room = SIZE / u16::try_from(WAITING_SHARE).unwrap();
    for _ in 0..room {
        assert!(guest.ask(Opcode::Setlkw, node, waits.as_slice()).is_none());
    }
    assert_eq!(guest.ask(Opcode::Setlkw, node, waits.as_slice()).unwrap().error, -libc::ENOLCK);
    // The driver starts anew: nothing of before is answered any more.
    guest.set_up();
    guest.start();
    assert!(guest.queues.waiting.is_empty());
    host.unlock().unwrap();
    let used = guest.used(REQUESTS);
    guest.event(AGAIN);
    assert_eq!(guest.used(REQUESTS), used);
    guest.still_serves();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_guest_asks_stops_the_server(
        requests in prop::collection::vec(
            (0u32..60, 0u64..5, prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..120), 0u32..200),
            1..40,
        )
    ) {
        let mut guest = Guest::new();
        guest.start();
        guest.open(b"file\0");
        for (opcode, node, payload, room) in &requests {
            guest.send(&request(*opcode, *node, payload), *room);
        }
        guest.set_up();
        guest.start();
        guest.still_serves();
    }

    #[test]
    fn nothing_in_a_queue_stops_the_server(
        descriptors in prop::collection::vec((0u64..MEMORY + 0x1000, any::<u16>(), 0u16..8, 0u16..20), 1..8),
        head in 0u16..20,
    ) {
        let mut guest = Guest::new();
        guest.start();
        let descriptors: Vec<Descriptor> = descriptors
            .iter()
            .map(|(at, len, flags, next)| Descriptor::new(*at, (*len).into(), *flags, *next))
            .collect();
        guest.put(REQUESTS, 0, &descriptors);
        guest.put(REQUESTS, head, &[]);
        guest.event(REQUESTS);
        guest.set_up();
        guest.start();
        guest.still_serves();
    }
}
