//! A run's scratch disk: an empty ext4 file system in a sparse file that is gone with the run.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::context::Context;
use crate::error::{ProviderError, Result};
use crate::tool::{self, AtOurEnd, Output, Watch};

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

/// Makes the new file `disk` a scratch disk. It takes space only as it is written to. Without a journal: it does not
/// outlive its machine. `path` is where the tool finds the file, which need not have a name of its own; messages speak
/// of `folder`.
///
/// # Errors
/// The size is not within [`SCRATCH_MIN_MIB`] and [`SCRATCH_MAX_MIB`], `mke2fs` is missing or fails, the file cannot be
/// written to, or the context was cancelled.
pub fn format_scratch(disk: &File, path: &Path, size_mib: u64, folder: &Path, ctx: &Context) -> Result<()> {
    if !(SCRATCH_MIN_MIB..=SCRATCH_MAX_MIB).contains(&size_mib) {
        return Err(ProviderError::Other(format!(
            "a scratch disk of {size_mib} MiB is not possible: {SCRATCH_MIN_MIB} to {SCRATCH_MAX_MIB} MiB are"
        )));
    }
    let program = tool::require(TOOL, PACKAGE)?;
    disk.set_len(size_mib << 20).map_err(ProviderError::io("cannot size a scratch disk in", folder))?;
    let mut command = tool::contained(&program, AtOurEnd::Kill);
    command
        .args(["-q", "-t", "ext4", "-F", "-m", "0", "-L", LABEL, "-O", "^has_journal"])
        .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
        .arg(path);
    let watch = Watch {
        tool: TOOL,
        subject: folder.to_owned(),
        time_max: TIME_MAX,
        limits: None,
        is_cause: |_| true,
        on_line: Box::new(|_| {}),
    };
    let mut output = Output::start(&mut command, watch, ctx)?;
    io::copy(&mut output, &mut io::sink()).map(drop).map_err(|e| {
        e.downcast().unwrap_or_else(|e| ProviderError::io("cannot read what is printed by", TOOL)(e))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn format(path: &Path, size_mib: u64, ctx: &Context) -> Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
        format_scratch(&file, path, size_mib, path.parent().unwrap(), ctx)
    }

    #[test]
    fn a_sparse_ext4() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        format(&path, 1024, &Context::new(dir.path())).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 16 << 20, "it is not sparse");
        let check = Command::new(tool::find("e2fsck").unwrap()).arg("-fn").arg(&path).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        assert!(String::from_utf8_lossy(&check.stdout).contains(LABEL));
    }

    #[test]
    fn the_smallest_is_possible_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ctx) = (dir.path().join("disk"), Context::new(dir.path()));
        format(&path, SCRATCH_MIN_MIB, &ctx).unwrap();
        for size in [0, SCRATCH_MIN_MIB - 1, SCRATCH_MAX_MIB + 1, u64::MAX] {
            assert!(format(&path, size, &ctx).unwrap_err().to_string().contains("MiB"));
        }
    }

    #[test]
    fn what_the_tool_says_is_told_and_it_can_be_called_off() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ctx) = (dir.path().join("disk"), Context::new(dir.path()));
        let file = File::create(&path).unwrap();
        let missing = dir.path().join("missing");
        let error = format_scratch(&file, &missing.join("x"), 64, &missing, &ctx).unwrap_err().to_string();
        assert!(error.contains("missing (exit") && error.contains("does not exist"), "{error}");
        let cancelled = ctx.with_cancel_flag(Arc::new(AtomicBool::new(true)));
        assert!(matches!(format(&path, 64, &cancelled), Err(ProviderError::Cancelled)));
    }
}
