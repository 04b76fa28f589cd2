//! The process that waits for the machine's devices, so that the agent need not.

use std::fs::File;
use std::os::fd::OwnedFd;

use vmette_wire::Boot;

use crate::devices::{DeviceError, Uevents};
use crate::{net, report, sys};

/// A device that the machine was to have.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("the network: {0}")]
    Network(String),
}

/// Its whole life: waits for the devices of `boot`, and reports the name servers of a network, whose process reports to
/// `lease`.
pub(super) fn run(to: OwnedFd, lease: Option<OwnedFd>, boot: &Boot) -> ! {
    let ready = wait(lease, boot);
    // Nobody reads it when the agent is gone.
    let _ = report::send(&File::from(to), &ready);
    sys::exit_now(0)
}

fn wait(lease: Option<OwnedFd>, boot: &Boot) -> Result<String, SetupError> {
    let uevents = Uevents::of_kernel()?;
    for serial in &boot.disks {
        uevents.disk(serial)?;
    }
    if boot.vsock {
        uevents.vsock()?;
    }
    lease.map_or_else(|| Ok(String::new()), |lease| net::wait_for(lease).map_err(SetupError::Network))
}
