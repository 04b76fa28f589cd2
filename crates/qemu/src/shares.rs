//! The devices of a machine's shares, which have to be gone while it is saved: QEMU cannot write their state.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use vmette_vmm::{Error, Result};

use crate::boot::failed;
use crate::plan::Plugged;
use crate::qmp::Qmp;

/// How long the guest may take to let go of a device.
const UNPLUG_LIMIT: Duration = Duration::from_secs(30);

/// The devices and where they are.
#[derive(Debug)]
pub(crate) struct Shares {
    devices: Vec<Plugged>,
    /// How many of them the machine has, from the first on.
    plugged: Mutex<usize>,
}

impl Shares {
    /// All of them in the machine, or about to be.
    pub(crate) fn new(devices: Vec<Plugged>) -> Self {
        let plugged = Mutex::new(devices.len());
        Self { devices, plugged }
    }

    pub(crate) fn are_plugged(&self) -> bool {
        *self.lock() > 0
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes them out, one after the other, each when the guest has let go of it.
    pub(crate) fn unplug(&self, qmp: &Qmp) -> Result<()> {
        let mut plugged = self.lock();
        while *plugged > 0 {
            let id = &self.devices[*plugged - 1].device["id"];
            qmp.forget("DEVICE_DELETED");
            qmp.execute("device_del", json!({ "id": id })).map_err(failed)?;
            qmp.wait_event("DEVICE_DELETED", UNPLUG_LIMIT, |event| (event["device"] == *id).then_some(()))
                .map_err(|e| Error::Machine(format!("the guest does not let go of its shares: {e}")))?;
            *plugged -= 1;
        }
        Ok(())
    }

    /// Puts them back. Their servers have kept the connections.
    pub(crate) fn plug(&self, qmp: &Qmp) -> Result<()> {
        let mut plugged = self.lock();
        while let Some(part) = self.devices.get(*plugged) {
            qmp.execute("device_add", part.device.clone()).map_err(failed)?;
            *plugged += 1;
        }
        Ok(())
    }
}
