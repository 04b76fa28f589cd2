//! `vmette snapshot`.

use vmette::{Snapshot, SnapshotInfo};

use crate::args::{InspectArgs, SnapshotCommand};
use crate::{exit, stdio};

/// Carries a subcommand out; 1 if there is no snapshot, or one that is damaged.
pub(crate) fn snapshot(command: &SnapshotCommand) -> u8 {
    let SnapshotCommand::Inspect(args) = command;
    match inspect(args) {
        Ok(text) => {
            stdio::print_out(&text);
            0
        }
        Err(e) => {
            stdio::say(&format!("error: {}", exit::message(&e)));
            exit::FAILURE
        }
    }
}

fn inspect(args: &InspectArgs) -> anyhow::Result<String> {
    let snapshot = Snapshot::open(&args.path)?;
    if args.verify {
        snapshot.verify()?;
    }
    let info = snapshot.info();
    if args.json {
        return Ok(serde_json::to_string_pretty(&info)? + "\n");
    }
    Ok(text(&info))
}

fn text(info: &SnapshotInfo) -> String {
    let mut lines = vec![
        ("engine", format!("{}, {}", info.engine, info.accelerator)),
        ("machine", format!("{}, {} virtual CPUs, {} MiB", info.arch, info.vcpus, info.mem_mib)),
        ("root", format!("{} ({})", info.rootfs, info.rootfs_digest)),
    ];
    if info.read_only {
        lines.push(("writes", "none: the root is read-only".into()));
    }
    if let Some(mib) = info.scratch_mib {
        lines.push(("writes", format!("a scratch disk of {mib} MiB")));
    }
    if !info.shares.is_empty() {
        lines.push(("shares", format!("{} (not part of it)", info.shares.join(", "))));
    }
    lines.push(("made by", format!("vmette {}", info.vmette)));
    lines.iter().map(|(name, value)| format!("{name:<8} {value}\n")).collect()
}
