//! A run's scratch disk: an empty ext4 file system in a sparse file that is gone with the run.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use vmette_spawn::{Command, Tool};

use vmette_work::Work;

use crate::error::{ProviderError, Result};
use crate::tool::{self, ToolError};

/// Smallest scratch disk in MiB: less holds no useful ext4.
pub const SCRATCH_MIN_MIB: u64 = 16;
/// Largest scratch disk in MiB, 8 TiB: below the largest file of an ext4 host, and formatted within a second.
pub const SCRATCH_MAX_MIB: u64 = 8 << 20;

const TOOL: &str = "mke2fs";
const PACKAGE: &str = "e2fsprogs";
/// Label of the file system.
const LABEL: &str = "vmette-scratch";

/// How long the tool may take: it writes a few MiB, to a disk that may be busy.
const TIME_MAX: Duration = Duration::from_secs(10 * 60);

/// Makes the new file `disk` a scratch disk, which takes space only as it is written to. It has no journal, since it does
/// not outlive its machine. `path` is the tool's way to the file, which need not have a name of its own; messages name
/// `folder`.
///
/// # Errors
/// The size is not within [`SCRATCH_MIN_MIB`] and [`SCRATCH_MAX_MIB`], `mke2fs` is missing or fails, the file cannot be
/// written to, or the work is cancelled.
pub fn format_scratch(disk: &File, path: &Path, size_mib: u64, folder: &Path, work: &Work) -> Result<()> {
    if !(SCRATCH_MIN_MIB..=SCRATCH_MAX_MIB).contains(&size_mib) {
        return Err(ProviderError::Other(format!(
            "a scratch disk of {size_mib} MiB is not possible: {SCRATCH_MIN_MIB} to {SCRATCH_MAX_MIB} MiB are"
        )));
    }
    let program = tool::require(TOOL, PACKAGE)?;
    disk.set_len(size_mib << 20).map_err(ProviderError::io("cannot size a scratch disk in", folder))?;
    let command = Command::new(program)
        .args(["-q", "-t", "ext4", "-F", "-m", "0", "-L", LABEL, "-O", "^has_journal"])
        .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
        .arg(path);
    let output = Tool::new(TOOL, command, TIME_MAX).output(0, work);
    Ok(output.map(drop).map_err(ToolError::on(folder))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    fn format(path: &Path, size_mib: u64, work: &Work) -> Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        format_scratch(&file, path, size_mib, path.parent().unwrap(), work)
    }

    #[test]
    fn a_sparse_ext4() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        format(&path, 1024, &Work::quiet()).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 16 << 20, "it is not sparse");
        let check =
            Command::new(vmette_spawn::find("e2fsck").unwrap()).arg("-fn").arg(&path).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        assert!(String::from_utf8_lossy(&check.stdout).contains(LABEL));
    }

    #[test]
    fn the_smallest_is_possible_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, work) = (dir.path().join("disk"), Work::quiet());
        format(&path, SCRATCH_MIN_MIB, &work).unwrap();
        for size in [0, SCRATCH_MIN_MIB - 1, SCRATCH_MAX_MIB + 1, u64::MAX] {
            assert!(format(&path, size, &work).unwrap_err().to_string().contains("MiB"));
        }
    }

    #[test]
    fn what_the_tool_says_is_told_and_it_can_be_called_off() {
        let dir = tempfile::tempdir().unwrap();
        let (path, work) = (dir.path().join("disk"), Work::quiet());
        let file = File::create(&path).unwrap();
        let missing = dir.path().join("missing");
        let error = format_scratch(&file, &missing.join("x"), 64, &missing, &work).unwrap_err().to_string();
        assert!(
            error.contains("missing: mke2fs failed (exit") && error.contains("does not exist"),
            "{error}"
        );
        work.cancel().cancel();
        assert!(matches!(format(&path, 64, &work), Err(ProviderError::Cancelled)));
    }
}
