//! Ending a session, or calling work off, from another thread.

use std::sync::atomic::{AtomicBool, Ordering};

use library::StopHandle;

use crate::arguments::required;
use crate::entry::{entry, entry_or};
use crate::status::{Failure, VmetteStatus};

/// Ends one session from any thread, from the first moment of its start. Until then it calls off the resolving of a
/// root.
pub struct VmetteStop {
    handle: StopHandle,
    used: AtomicBool,
}

impl VmetteStop {
    pub(crate) fn handle(&self) -> &StopHandle {
        &self.handle
    }

    /// The handle, for the one session that it is for.
    pub(crate) fn take(&self) -> Result<&StopHandle, Failure> {
        if self.used.swap(true, Ordering::AcqRel) {
            let message = "this vmette_stop_t was given to a session before; make a new one for each";
            return Err(Failure::new(VmetteStatus::InvalidConfig, message));
        }
        Ok(&self.handle)
    }
}

/// A handle for one session that is yet to be started. Free it with vmette_stop_free().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_stop_new() -> Option<Box<VmetteStop>> {
    entry_or(None, || {
        Ok(Some(Box::new(VmetteStop { handle: StopHandle::new(), used: AtomicBool::new(false) })))
    })
}

/// Frees the handle; the session goes on. NULL is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_stop_free(stop: Option<Box<VmetteStop>>) {
    entry(|| {
        drop(stop);
        Ok(())
    });
}

/// Ends the session; nothing happens when it has ended. Returns when its machine is gone. A session that is started
/// with the handle later ends at once. May be called from any thread, but not from a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_stop_now(stop: Option<&VmetteStop>) -> VmetteStatus {
    entry(|| {
        required(stop, "stop")?.handle.stop();
        Ok(())
    })
}
