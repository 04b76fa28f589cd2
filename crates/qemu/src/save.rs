//! Saving a paused machine.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use vmette_vmm::{Error, Result};

use crate::ENGINE;
use crate::boot::{Running, capabilities, failed};
use crate::memory;
use crate::runtime_dir::RuntimeDir;
use crate::snapshot::Writer;

/// How long QEMU may take to write its devices' state; the memory is not part of it.
const STATE_LIMIT: Duration = Duration::from_secs(60);

/// Writes the state into a new folder, which appears when it is complete.
pub(crate) fn save(running: &Running, dir: &Path) -> Result<()> {
    let unsupported =
        |reason: &str| Error::Unsupported { engine: ENGINE, operation: "save", reason: reason.into() };
    if running.shares.are_plugged() {
        return Err(unsupported("the machine has shares, whose state QEMU cannot save"));
    }
    if running.vsock.is_some() {
        return Err(unsupported("the machine has a vsock device, whose state QEMU cannot save"));
    }
    let Some(memory) = &running.memory else {
        return Err(unsupported(
            "it was not started to be saved, and its memory is a private copy of that which it was restored from",
        ));
    };
    let status = running.qmp.execute("query-status", Value::Null).map_err(failed)?;
    if status["running"] != false {
        return Err(Error::Machine("a machine must be paused to be saved".into()));
    }
    let error = |source| Error::File { what: "snapshot folder", path: dir.to_owned(), source };
    if dir.symlink_metadata().is_ok() {
        return Err(error(io::ErrorKind::AlreadyExists.into()));
    }
    let dir = std::path::absolute(dir).map_err(error)?;
    let parent = dir.parent().ok_or_else(|| error(io::ErrorKind::InvalidInput.into()))?;
    // Named after this process: what it leaves when it is killed is removed by the next one that saves here.
    let staging = RuntimeDir::new_in(parent).map_err(error)?;
    let writer = Writer::create(staging.path()).map_err(error)?;
    devices(running, &writer)?;
    writer.memory.set_len(memory.metadata().map_err(error)?.len()).map_err(error)?;
    memory::copy_data(memory, &writer.memory).map_err(error)?;
    writer.finish(&running.fingerprint, &running.disks).map_err(error)?;
    fs::rename(staging.path(), &dir).map_err(error)?;
    // The new name, too, should survive a power failure; without it the folder is merely not there.
    let _ = fs::File::open(parent).and_then(|parent| parent.sync_all());
    Ok(())
}

fn devices(running: &Running, writer: &Writer) -> Result<()> {
    let qmp = &running.qmp;
    qmp.execute("migrate-set-capabilities", capabilities()).map_err(failed)?;
    qmp.forget("MIGRATION");
    qmp.wait(qmp.send_fd("save", writer.state.as_fd()).map_err(failed)?).map_err(failed)?;
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
        return Ok(());
    }
    let why = qmp.execute("query-migrate", Value::Null).map_err(failed)?;
    let why = why["error-desc"].as_str().unwrap_or("no space, or a device that cannot be saved").to_owned();
    Err(Error::Machine(format!("QEMU could not save the machine: {why}")))
}
