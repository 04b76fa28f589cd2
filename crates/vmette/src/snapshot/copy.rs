//! Copies of disk images that take no more room and time than what is in them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;

use super::content;

/// Makes the new file `to` the same as `from`: with a file system that can, they share what neither has changed.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<()> {
    copy_until(from, to, &AtomicBool::new(false))
}

/// The same, given up once `cancelled` is set.
pub(crate) fn copy_until(from: &File, to: &File, cancelled: &AtomicBool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    content::for_data_until(from, cancelled, |start, part| to.write_all_at(part, start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    #[test]
    fn the_contents_are_the_same_and_holes_stay_holes() {
        const SIZE: u64 = 64 << 20;
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let mut options = File::options();
            options.read(true).write(true).create_new(true).open(dir.path().join(name)).unwrap()
        };
        let (from, to) = (open("from"), open("to"));
        from.set_len(SIZE).unwrap();
        for at in [0, 5000, (40 << 20) - 3, SIZE - 7] {
            from.write_all_at(b"content", at).unwrap();
        }
        copy(&from, &to).unwrap();
        assert_eq!(content::digest_of(&from).unwrap(), content::digest_of(&to).unwrap());
        assert_eq!(to.metadata().unwrap().len(), SIZE);
        assert!(to.metadata().unwrap().blocks() * 512 < SIZE / 8);
    }

    #[test]
    fn copies_and_digests_can_be_called_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let cancelled = Arc::new(AtomicBool::new(true));
        let from = File::open(&path).unwrap();
        assert!(content::for_data_until(&from, &cancelled, |_, _| Ok(())).is_err());
        let digests = content::Digests::in_folder(dir.path().join("digests")).until(cancelled.clone());
        assert!(digests.of(&path).is_err());
        cancelled.store(false, Ordering::Relaxed);
        digests.of(&path).unwrap();
    }
}
