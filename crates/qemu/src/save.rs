//! Saving a paused machine.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use vmette_cache::sparse;
use vmette_vmm::{Error, Result, SavedState};

use crate::ENGINE;
use crate::boot::Running;
use crate::qmp::{self, Qmp, failed};
use crate::snapshot::{MEMORY, STATE};
use crate::transfer::Transfer;

/// Time for QEMU to write its devices' state; the memory is not part of it.
const STATE_LIMIT: Duration = Duration::from_secs(60);

/// Writes the machine into an empty folder.
pub(crate) fn save(running: &Running, folder: &Path) -> Result<SavedState> {
    let unsupported = |reason: String| Error::Unsupported { engine: ENGINE, operation: "save", reason };
    if let Some(id) = running.devices.unsavable() {
        return Err(unsupported(format!("the machine has {id}, whose state QEMU cannot save")));
    }
    let Some(memory) = &running.memory else {
        return Err(unsupported(
            "it was not started to be saved, and its memory is a private copy of that which it was restored from"
                .into(),
        ));
    };
    let status = running.qmp.execute("query-status", Value::Null).map_err(failed)?;
    if status["running"] != false {
        return Err(Error::Machine("a machine must be paused to be saved".into()));
    }
    let error = |source| Error::File { what: "snapshot folder", path: folder.to_owned(), source };
    let create = |name: &str| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).open(folder.join(name)).map_err(error)
    };
    save_devices(&running.qmp, &create(STATE)?)?;
    let copy = create(MEMORY)?;
    copy.set_len(memory.metadata().map_err(error)?.len()).map_err(error)?;
    sparse::copy(memory, &copy, || Ok(())).map_err(error)?;
    Ok(SavedState {
        fingerprint: running.fingerprint.clone(),
        disks: running.devices.disks(),
        identity: Vec::new(),
    })
}

fn save_devices(qmp: &Qmp, state: &File) -> Result<()> {
    qmp.execute("migrate-set-capabilities", qmp::capabilities()).map_err(failed)?;
    qmp.forget("MIGRATION");
    let mut transfer = Transfer::to_file(state).map_err(Error::io("save the devices' state"))?;
    qmp.wait(qmp.send_fd("save", transfer.end()).map_err(failed)?).map_err(failed)?;
    transfer.handed_over();
    // Without a limit on the bandwidth: the default is meant for networks.
    qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 0 })).map_err(failed)?;
    qmp.execute("migrate", json!({ "uri": "fd:save" })).map_err(failed)?;
    let written = qmp
        .wait_event("MIGRATION", STATE_LIMIT, |event| match event["status"].as_str() {
            Some("completed") => Some(true),
            Some("failed" | "cancelled") => Some(false),
            _ => None,
        })
        .map_err(failed)?;
    if written {
        return transfer.finish().map_err(Error::io("save the devices' state"));
    }
    let why = qmp.execute("query-migrate", Value::Null).map_err(failed)?;
    let why = why["error-desc"].as_str().unwrap_or("no space, or a device that cannot be saved").to_owned();
    Err(Error::Machine(format!("QEMU could not save the machine: {why}")))
}
