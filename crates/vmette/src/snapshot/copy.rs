//! Copies of disk images that take no more room and time than what is in them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::content;

/// Makes the new file `to` the same as `from`: with a file system that can, they share what neither has changed.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    content::for_data(from, |start, part| to.write_all_at(part, start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

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
}
