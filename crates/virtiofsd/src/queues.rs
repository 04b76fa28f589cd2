//! Between the virtqueues of the guest's driver and its [`Requests`].

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VhostUserBackendMut, VringRwLock, VringState, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemory, GuestMemoryAtomic, GuestMemoryRegion};
use vmette_backend::queue::next_chain;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use crate::folder::{Files, Folder};
use crate::requests::{Answer, Attempt, Chain, Memory, Requests, Waiting};

/// The guest's memory.
pub(crate) type AtomicMemory = GuestMemoryAtomic<Memory>;

type Vring = VringRwLock<AtomicMemory>;
type State = VringState<AtomicMemory>;

/// The queues: one for what is urgent (to forget files), one for requests.
const QUEUES: usize = 2;

/// Most descriptors of a queue; QEMU offers 128.
const QUEUE_SIZE: usize = 1024;

/// The event loop's number for the event that says that something was put off: above the queues and its own exit event.
pub(crate) const AGAIN: u16 = 3;

/// Requests of one queue that are served before anything else has its turn: a guest that never stops asking must not keep
/// the machine's own messages waiting.
const TURN: usize = 64;

/// Part of a queue that requests may occupy which wait for a lock. The rest is for those that give one back.
const WAITING_SHARE: usize = 4;

/// Pause between attempts to take a lock that somebody else has. The host has no event for that.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Memory of the guest for each file that it knows. Its kernel needs more.
const BYTES_PER_FILE: u64 = 512;

const VERSION_1: u64 = 1 << 32;
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;

/// The backend, as the vhost-user library drives it: on one thread, except for changes of the memory.
pub(crate) struct Queues<P: Files> {
    memory: AtomicMemory,
    requests: Requests<P>,
    waiting: Vec<Parked>,
    /// For each queue, the request that is to be served next.
    next: [u16; QUEUES],
    clock: Arc<Clock>,
}

/// A request whose answer has to wait.
struct Parked {
    queue: usize,
    chain: Chain,
    waiting: Waiting,
}

/// Wakes the event loop up: at once, and from time to time while requests wait.
pub(crate) struct Clock {
    event: OwnedFd,
    needed: Mutex<bool>,
    changed: Condvar,
}

impl Clock {
    fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, needed: Mutex::new(false), changed: Condvar::new() })
    }

    /// The descriptor whose event is [`AGAIN`].
    pub(crate) fn event(&self) -> &OwnedFd {
        &self.event
    }

    fn ring(&self) {
        // Fails only when it is set already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn need(&self, needed: bool) {
        let mut now = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != needed {
            *now = needed;
            self.changed.notify_all();
        }
    }

    /// Rings while it is needed, for the life of the process.
    pub(crate) fn run(&self) {
        let mut needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            while !*needed {
                needed = self.changed.wait(needed).unwrap_or_else(PoisonError::into_inner);
            }
            needed = self.changed.wait_timeout(needed, LOCK_PAUSE).unwrap_or_else(PoisonError::into_inner).0;
            self.ring();
        }
    }
}

impl<P: Files> Queues<P> {
    pub(crate) fn new(memory: AtomicMemory, folder: Folder<P>) -> io::Result<Self> {
        Ok(Self {
            memory,
            requests: Requests::new(folder),
            waiting: Vec::new(),
            next: [0; QUEUES],
            clock: Arc::new(Clock::new()?),
        })
    }

    pub(crate) fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    fn handle(&mut self, event: u16, vrings: &[Vring]) {
        if event == AGAIN {
            // It is readable, or nobody has written since: both are fine.
            let _ = rustix::io::read(&self.clock.event, &mut [0; 8]);
        }
        for (index, vring) in vrings.iter().enumerate().take(QUEUES) {
            let mut state = vring.get_mut();
            // Not set up yet, or taken away again by a guest that resets its driver.
            if !state.is_enabled() || !state.get_queue().ready() {
                continue;
            }
            if state.get_queue().next_avail() != self.next[index] {
                // The queue was set up anew: nobody waits for answers to what was in it.
                self.waiting.retain(|parked| parked.queue != index);
            }
            if let Err(e) = self.serve(index, &mut state).and_then(|()| self.try_again(index, &mut state)) {
                // The guest has put the queue outside of its memory, or lies about its content. It is served again
                // when the guest has set it up anew: otherwise every notification would fail.
                state.get_queue_mut().set_ready(false);
                log::error!("the guest's queue {index} is not served any more: {e}");
            }
            self.next[index] = state.get_queue().next_avail();
        }
        self.clock.need(!self.waiting.is_empty());
    }

    /// Serves the requests of a queue.
    fn serve(&mut self, index: usize, state: &mut State) -> io::Result<()> {
        for _ in 0..TURN {
            let Some(chain) = next_chain(state, &self.memory)? else { return Ok(()) };
            state.disable_notification().map_err(io::Error::other)?;
            let memory = self.memory.memory();
            if Requests::<P>::is_new_start(&memory, &chain) {
                self.waiting.clear();
            }
            let room = usize::from(state.get_queue().size()) / WAITING_SHARE;
            match self.requests.serve(&memory, &chain, self.waiting.len() < room) {
                Answer::Written(written) => give_back(state, chain.head_index(), written)?,
                Answer::Later(waiting) => self.waiting.push(Parked { queue: index, chain, waiting }),
            }
        }
        self.clock.ring();
        Ok(())
    }

    /// Tries again to take the locks that requests of a queue wait for.
    fn try_again(&mut self, index: usize, state: &mut State) -> io::Result<()> {
        let memory = self.memory.memory();
        for mut parked in std::mem::take(&mut self.waiting) {
            if parked.queue != index {
                self.waiting.push(parked);
                continue;
            }
            match self.requests.attempt(&memory, &parked.chain, &parked.waiting) {
                Attempt::Answered(written) => give_back(state, parked.chain.head_index(), written)?,
                Attempt::NotYet(waiting) => {
                    parked.waiting = waiting;
                    self.waiting.push(parked);
                }
            }
        }
        Ok(())
    }
}

/// Gives the buffers of a request back to the guest and tells it.
fn give_back(state: &mut State, head: u16, written: usize) -> io::Result<()> {
    let written = u32::try_from(written).unwrap_or(u32::MAX);
    state.add_used(head, written).map_err(io::Error::other)?;
    if state.needs_notification().map_err(io::Error::other)? { state.signal_used_queue() } else { Ok(()) }
}

impl<P: Files> VhostUserBackendMut for Queues<P> {
    type Bitmap = BitmapMmapRegion;
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        VERSION_1 | INDIRECT_DESC | EVENT_IDX | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&mut self, _enabled: bool) {
        // The queues know, and all that depends on it is theirs.
    }

    fn update_memory(&mut self, memory: AtomicMemory) -> io::Result<()> {
        let bytes = memory.memory().iter().fold(0u64, |sum, region| sum.saturating_add(region.len()));
        self.requests.set_files_max(usize::try_from(bytes / BYTES_PER_FILE).unwrap_or(usize::MAX));
        self.memory = memory;
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::CLOEXEC | EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        // An error would end the event loop and leave a device that hangs.
        self.handle(event, vrings);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
