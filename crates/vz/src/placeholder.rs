//! The empty disk that stands for a rootfs: every machine has the device, so that a state that was saved without an
//! image can be restored with one.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vmette_vmm::{Error, Result};

/// Its size: more than any image has. The file is sparse and takes no space.
const SIZE: u64 = 1 << 40;

/// Its place in the cache folder.
const FOLDER: &str = "vz";

/// The file, shared by all machines, none of which can write to it.
pub(crate) fn file(cache_dir: &Path) -> Result<PathBuf> {
    let dir = cache_dir.join(FOLDER);
    let path = dir.join("empty.img");
    make(&dir, &path).map_err(|source| Error::File {
        what: "empty disk image",
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

fn make(dir: &Path, path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() == SIZE) {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let new = dir.join(format!("empty.{}.{:?}.new", std::process::id(), std::thread::current().id()));
    let made = (|| {
        let file: File = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&new)?;
        file.set_len(SIZE)?;
        fs::rename(&new, path)
    })();
    match made {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            // Half made: nobody else has its name.
            let _ = fs::remove_file(&new);
            Err(e)
        }
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_takes_no_space_and_a_wrong_one_is_replaced() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path()).unwrap();
        let first = fs::metadata(&path).unwrap();
        assert_eq!((first.len(), first.mode() & 0o222), (SIZE, 0));
        assert!(first.blocks() < 1024);
        file(dir.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), first.ino());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "short").unwrap();
        assert_eq!(fs::metadata(file(dir.path()).unwrap()).unwrap().len(), SIZE);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
