//! The next request of a virtqueue, whatever the guest says about it.

use std::io;

use vhost_user_backend::VringState;
use virtio_queue::{DescriptorChain, QueueOwnedT};
use vm_memory::GuestAddressSpace;

/// The next buffers of a queue. `None` if there are none: the guest then notifies the device of the next ones.
///
/// # Errors
/// The guest claims more buffers than the queue holds, or fewer than it announced. The library would take both for an empty
/// queue and report it as not empty for ever.
pub fn next_chain<M: GuestAddressSpace>(
    state: &mut VringState<M>,
    memory: &M,
) -> io::Result<Option<DescriptorChain<M::T>>> {
    let next = |state: &mut VringState<M>| -> io::Result<Option<DescriptorChain<M::T>>> {
        Ok(state.get_queue_mut().iter(memory.memory()).map_err(io::Error::other)?.next())
    };
    if let Some(chain) = next(state)? {
        return Ok(Some(chain));
    }
    // It may have added some before it could know that this is to be told.
    if !state.enable_notification().map_err(io::Error::other)? {
        return Ok(None);
    }
    next(state)?.map(Some).ok_or_else(|| io::Error::other("there are fewer buffers than the guest says"))
}
