//! Between the virtqueues of the guest's driver and the [`Device`].

use std::io;
use std::mem::size_of_val;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringRwLock, VringState, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmette_backend::queue::next_chain;
use vmette_backend::vsock::{Channel, ToDevice};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use crate::device::Device;
use crate::packet::{GUEST_CID, HEADER_LEN, Header, PAYLOAD_MAX};

/// The two queues that a vhost-user backend serves. QEMU serves the third, for events.
const RX: usize = 0;
const TX: usize = 1;
const QUEUES: usize = 2;

/// Most descriptors of a queue; Linux's driver takes what is offered, QEMU offers 128.
const QUEUE_SIZE: usize = 1024;

/// The event loop's number for events that are not a queue's: above the queues and its own exit event.
pub(crate) const OTHERS: u16 = 3;

/// In the device's own set of events.
const CONTROL: u64 = 1;
const AGAIN: u64 = 2;

/// Packets of one direction that are moved before anything else has its turn: a guest that never stops sending must not
/// keep its other connections, or its owner, waiting.
const TURN: usize = 128;

/// Events that are taken at once.
const EVENTS: usize = 64;

/// `VIRTIO_F_VERSION_1`.
const VERSION_1: u64 = 1 << 32;

/// `VIRTIO_RING_F_EVENT_IDX`.
const EVENT_IDX: u64 = 1 << 29;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// The backend, as the vhost-user library drives it: on one thread, except for changes of the memory.
pub(crate) struct Queues {
    memory: Memory,
    device: Device,
    control: Option<Channel>,
    /// Wakes the thread up for what it has put off.
    again: OwnedFd,
    buffer: Vec<u8>,
    /// The queue of the guest's packets, once it has sent any.
    transmitting: Option<VringRwLock>,
}

impl Queues {
    /// A device without queues as yet, and the descriptor whose events are its [`OTHERS`].
    pub(crate) fn new(memory: Memory, control: Channel) -> io::Result<(Arc<Mutex<Self>>, OwnedFd)> {
        control.socket().set_nonblocking(true)?;
        let again = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let device = Device::new()?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(device.epoll(), &control, epoll::EventData::new_u64(CONTROL), edge)?;
        epoll::add(device.epoll(), &again, epoll::EventData::new_u64(AGAIN), epoll::EventFlags::IN)?;
        let events = device.epoll().try_clone_to_owned()?;
        let queues = Self {
            memory,
            device,
            control: Some(control),
            again,
            buffer: vec![0; PAYLOAD_MAX],
            transmitting: None,
        };
        Ok((Arc::new(Mutex::new(queues)), events))
    }

    /// Passes on the last packets of a guest that is gone, as far as the host takes them until the deadline.
    pub(crate) fn finish(&mut self, deadline: Instant) -> io::Result<()> {
        if let Some(vring) = self.transmitting.take() {
            let mut state = vring.get_mut();
            // A queue holds no more packets than that, and nobody adds any.
            for _ in 0..=QUEUE_SIZE / TURN {
                if state.is_enabled() && state.get_queue().ready() && self.transmit(&mut state).is_err() {
                    break;
                }
            }
        }
        while self.device.has_pending() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.others(left)?;
        }
        Ok(())
    }

    fn put_off(&self) {
        // Fails only when it is set already.
        let _ = rustix::io::write(&self.again, &1u64.to_ne_bytes());
    }

    /// Packets from the guest.
    fn transmit(&mut self, vring: &mut VringState) -> io::Result<()> {
        let mut moved = false;
        for _ in 0..TURN {
            let Some(chain) = next_chain(vring, &self.memory)? else {
                return if moved { notify(vring) } else { Ok(()) };
            };
            vring.disable_notification().map_err(io::Error::other)?;
            let head = chain.head_index();
            let memory = self.memory.memory();
            if let Ok(mut reader) = chain.reader(&memory) {
                self.packet(&mut reader);
            }
            vring.add_used(head, 0).map_err(io::Error::other)?;
            moved = true;
        }
        self.put_off();
        notify(vring)
    }

    fn packet(&mut self, reader: &mut virtio_queue::Reader<'_>) {
        use std::io::Read;
        let mut header = [0; HEADER_LEN];
        // Too short to say which connection it is about.
        if reader.read_exact(&mut header).is_err() {
            return;
        }
        let header = Header::decode(&header);
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        let data = self.buffer.get_mut(..len).filter(|_| len <= reader.available_bytes());
        match data.map(|data| reader.read_exact(data).map(|()| &*data)) {
            Some(Ok(data)) => self.device.take_packet(&header, data),
            _ => self.device.malformed(&header),
        }
    }

    /// Packets for the guest.
    fn receive(&mut self, vring: &mut VringState) -> io::Result<()> {
        use std::io::Write;
        let mut moved = 0;
        while self.device.has_outgoing() {
            if moved == TURN {
                self.put_off();
                break;
            }
            let memory = self.memory.memory();
            let Some(chain) = next_chain(vring, &self.memory)? else { break };
            vring.disable_notification().map_err(io::Error::other)?;
            let head = chain.head_index();
            let mut written = 0;
            if let Ok(mut writer) = chain.writer(&memory)
                && let Some(room) = writer.available_bytes().checked_sub(HEADER_LEN).filter(|room| *room > 0)
            {
                let room = room.min(self.buffer.len());
                let Some(header) = self.device.next_packet(&mut self.buffer[..room]) else {
                    vring.get_queue_mut().go_to_previous_position();
                    break;
                };
                let len = usize::try_from(header.len).unwrap_or(usize::MAX).min(room);
                let bytes = header.encode();
                if writer.write_all(&bytes).and_then(|()| writer.write_all(&self.buffer[..len])).is_ok() {
                    written = size_of_val(&bytes) + len;
                }
            }
            // A buffer that cannot take a packet goes back as it is.
            let written = u32::try_from(written).unwrap_or(u32::MAX);
            vring.add_used(head, written).map_err(io::Error::other)?;
            moved += 1;
        }
        if moved > 0 { notify(vring) } else { Ok(()) }
    }

    /// The owner's messages and the sockets' events.
    fn others(&mut self, patience: Duration) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        let patience = rustix::event::Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        };
        let events_now = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(self.device.epoll(), events_now, Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in events {
            match event.data.u64() {
                CONTROL => self.hear_owner(),
                AGAIN => {
                    // It is readable, or nobody has written since: both are fine.
                    let _ = rustix::io::read(&self.again, &mut [0; 8]);
                }
                id => self.device.event(id, event.flags),
            }
        }
        Ok(())
    }

    /// An owner that is gone, or that is not understood, is not listened to any more.
    fn hear_owner(&mut self) {
        while let Some(control) = &self.control {
            let heard = match control.receive::<ToDevice>() {
                Ok(Some((message, socket))) => self.device.hear_owner(message, socket),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) => Err(e),
            };
            if heard.is_err() {
                self.control = None;
                self.device.abandon();
            }
        }
    }

    fn answer_owner(&mut self) {
        let Some(control) = &self.control else { return };
        while let Some(answer) = self.device.next_answer() {
            if let Err(e) = control.send(answer, None) {
                // An event says when there is room again, or that the owner is gone.
                if e.kind() == io::ErrorKind::WouldBlock {
                    self.device.put_answer_back(answer);
                }
                break;
            }
        }
    }

    fn handle(&mut self, event: u16, vrings: &[VringRwLock]) -> io::Result<()> {
        if event == OTHERS {
            self.others(Duration::ZERO)?;
        }
        if self.transmitting.is_none() {
            self.transmitting = vrings.get(TX).cloned();
        }
        // A packet that was put off has no event of its own.
        if event != u16::try_from(RX).unwrap_or_default() {
            self.serve(vrings.get(TX), "transmit", Self::transmit);
        }
        self.serve(vrings.get(RX), "receive", Self::receive);
        self.answer_owner();
        Ok(())
    }

    /// Serves a queue. If the guest has put the queue outside of its memory, or lies about its content, the queue is not
    /// served again until the guest sets it up anew: otherwise every notification would fail and add a line to the log.
    fn serve(
        &mut self,
        vring: Option<&VringRwLock>,
        name: &str,
        serve: fn(&mut Self, &mut VringState) -> io::Result<()>,
    ) {
        let Some(vring) = vring else { return };
        let mut state = vring.get_mut();
        // Not set up yet, or taken away again by a guest that resets its driver.
        if state.is_enabled()
            && state.get_queue().ready()
            && let Err(e) = serve(self, &mut state)
        {
            state.get_queue_mut().set_ready(false);
            log::error!("the guest's {name} queue is not served any more: {e}");
        }
    }
}

fn notify(vring: &mut VringState) -> io::Result<()> {
    match vring.needs_notification() {
        Ok(true) => vring.signal_used_queue(),
        Ok(false) => Ok(()),
        Err(e) => Err(io::Error::other(e)),
    }
}

impl VhostUserBackendMut for Queues {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        VERSION_1 | EVENT_IDX | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ
    }

    fn set_event_idx(&mut self, _enabled: bool) {
        // The queues know, and all that depends on it is theirs.
    }

    /// The guest's context id is all there is.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = GUEST_CID.to_le_bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        config.get(from..to).map(<[u8]>::to_vec).unwrap_or_default()
    }

    fn update_memory(&mut self, _memory: Memory) -> io::Result<()> {
        // It is the one that was given at the start, with other regions in it.
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::CLOEXEC | EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        // An error would end the event loop and leave a device that hangs.
        if let Err(e) = self.handle(event, vrings) {
            log::error!("the device's events: {e}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
