//! A run's scratch disk: an empty ext4 file system in a sparse file that is gone with the run.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempPath;

use crate::error::{ProviderError, Result};
use crate::tool::{self, AtOurEnd};

/// Smallest scratch disk in MiB: less holds no useful ext4.
pub const SCRATCH_MIN_MIB: u64 = 16;
/// Largest scratch disk in MiB, 8 TiB: below the largest file of an ext4 host, and formatted within a second.
pub const SCRATCH_MAX_MIB: u64 = 8 << 20;

const TOOL: &str = "mke2fs";
const PACKAGE: &str = "e2fsprogs";
/// Label of the file system.
const LABEL: &str = "vmette-scratch";

/// The file; removed when this is dropped.
#[derive(Debug)]
pub struct ScratchDisk {
    path: TempPath,
    size_mib: u64,
}

impl ScratchDisk {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in MiB.
    #[must_use]
    pub fn size_mib(&self) -> u64 {
        self.size_mib
    }
}

/// Makes a scratch disk in `dir`, for its user alone. It takes space only as it is written to. Without a journal: it
/// does not outlive its machine.
///
/// # Errors
/// The size is not within [`SCRATCH_MIN_MIB`] and [`SCRATCH_MAX_MIB`], `mke2fs` is missing or fails, or `dir` cannot be
/// written to.
pub fn make_scratch(dir: &Path, size_mib: u64) -> Result<ScratchDisk> {
    if !(SCRATCH_MIN_MIB..=SCRATCH_MAX_MIB).contains(&size_mib) {
        return Err(ProviderError::Other(format!(
            "a scratch disk of {size_mib} MiB is not possible: {SCRATCH_MIN_MIB} to {SCRATCH_MAX_MIB} MiB are"
        )));
    }
    let program = tool::require(TOOL, PACKAGE)?;
    let file = tempfile::Builder::new()
        .prefix("scratch-")
        .suffix(".img")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(ProviderError::io("cannot create a scratch disk in", dir))?;
    file.as_file()
        .set_len(size_mib << 20)
        .map_err(ProviderError::io("cannot size the scratch disk", file.path()))?;
    // mke2fs opens the file by its name.
    let path = file.into_temp_path();
    let output = tool::contained(&program, AtOurEnd::Kill)
        .args(["-q", "-t", "ext4", "-F", "-m", "0", "-L", LABEL, "-O", "^has_journal"])
        .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
        .arg(&path)
        .env_clear()
        .env("PATH", tool::CHILD_PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(ProviderError::io("cannot start", &program))?;
    if !output.status.success() {
        return Err(ProviderError::Tool {
            tool: TOOL,
            path: path.to_path_buf(),
            status: output.status.to_string(),
            message: tool::last_words(&output.stderr),
        });
    }
    Ok(ScratchDisk { path, size_mib })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    #[test]
    fn a_sparse_private_ext4_that_goes_with_its_guard() {
        let dir = tempfile::tempdir().unwrap();
        let disk = make_scratch(dir.path(), 1024).unwrap();
        let metadata = disk.path().metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        assert!(metadata.blocks() * 512 < 16 << 20, "it is not sparse");
        let check =
            Command::new(tool::find("e2fsck").unwrap()).args(["-fn"]).arg(disk.path()).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        assert!(String::from_utf8_lossy(&check.stdout).contains(LABEL));
        drop(disk);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn the_smallest_is_possible_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        make_scratch(dir.path(), SCRATCH_MIN_MIB).unwrap();
        for size in [0, SCRATCH_MIN_MIB - 1, SCRATCH_MAX_MIB + 1, u64::MAX] {
            assert!(make_scratch(dir.path(), size).unwrap_err().to_string().contains("MiB"));
        }
        let missing = dir.path().join("missing");
        assert!(make_scratch(&missing, 64).unwrap_err().to_string().contains("missing"));
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
