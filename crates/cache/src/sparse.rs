//! Files with holes: memory of machines, disks.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Unit of a file's holes in bytes: parts begin on its boundary.
pub const BLOCK: usize = 4096;

/// Bytes read at once, a multiple of [`BLOCK`]: small enough to stay in the processor's cache between reading and
/// writing.
const CHUNK: usize = 256 << 10;

/// Calls `each` for the parts of a file that hold data: the part's place, a multiple of [`BLOCK`], and its bytes, at most
/// 256 KiB.
///
/// # Errors
/// Those of the file and of `each`.
pub fn for_data(file: &File, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let size = file.metadata()?.len();
    let block = BLOCK as u64;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data up to the end.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let hole = rustix::fs::seek(file.as_fd(), SeekFrom::Hole(data))?;
        let mut position = (data / block * block).max(at);
        let end = hole.div_ceil(block).saturating_mul(block).min(size);
        while position < end {
            let left = usize::try_from(end - position).unwrap_or(usize::MAX).min(CHUNK);
            let part = &mut buffer[..left];
            file.read_exact_at(part, position)?;
            each(position, part)?;
            position += left as u64;
        }
        at = end;
    }
    Ok(())
}

/// Copies the data of `from` to the same places in `to`, which must be new: where `from` has holes `to` is left alone.
/// `goes_on` is asked before each chunk.
///
/// # Errors
/// Those of the files and of `goes_on`.
pub fn copy(from: &File, to: &File, mut goes_on: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for_data(from, |place, part| {
        goes_on()?;
        to.write_all_at(part, place)
    })
}

/// Makes the new file `to` the same as `from`. Where the file system can, they share what neither has changed; else the
/// data is copied, without holes.
///
/// # Errors
/// Those of the files and of `goes_on`.
pub fn duplicate(from: &File, to: &File, goes_on: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    copy(from, to, goes_on)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn data_is_copied_and_holes_stay_holes() {
        const SIZE: u64 = 64 << 20;
        let from = tempfile::tempfile().unwrap();
        from.set_len(SIZE).unwrap();
        from.write_all_at(b"first", 0).unwrap();
        from.write_all_at(b"across two chunks", 20 << 20).unwrap();
        from.write_all_at(&vec![7; CHUNK * 2 + 1], 40 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        to.set_len(SIZE).unwrap();
        copy(&from, &to, || Ok(())).unwrap();
        let mut text = [0; 17];
        to.read_exact_at(&mut text, 20 << 20).unwrap();
        assert_eq!(&text, b"across two chunks");
        let mut last = [0; 2];
        to.read_exact_at(&mut last, (40 << 20) + CHUNK as u64 * 2).unwrap();
        assert_eq!(last, [7, 0]);
        assert_eq!(to.metadata().unwrap().len(), SIZE);
        assert!(to.metadata().unwrap().blocks() * 512 < SIZE / 8);
    }

    #[test]
    fn an_odd_end_and_an_empty_file_are_copied_too() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        copy(&from, &to, || Ok(())).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 0);
        from.write_all_at(b"odd", BLOCK as u64).unwrap();
        copy(&from, &to, || Ok(())).unwrap();
        assert_eq!(to.metadata().unwrap().len(), BLOCK as u64 + 3);
    }

    #[test]
    fn a_duplicate_has_the_same_content_and_holes() {
        const SIZE: u64 = 64 << 20;
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(SIZE).unwrap();
        for at in [0, 5000, (40 << 20) - 3, SIZE - 7] {
            from.write_all_at(b"content", at).unwrap();
        }
        duplicate(&from, &to, || Ok(())).unwrap();
        let digest = |mut file: &File| {
            io::Seek::rewind(&mut file).unwrap();
            crate::hash(file, || Ok(())).unwrap()
        };
        assert_eq!(digest(&from), digest(&to));
        assert_eq!(to.metadata().unwrap().len(), SIZE);
        assert!(to.metadata().unwrap().blocks() * 512 < SIZE / 8);
    }

    #[test]
    fn a_copy_can_be_given_up() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all_at(&[1], 0).unwrap();
        let error = copy(&from, &to, || Err(io::Error::other("given up"))).unwrap_err();
        assert_eq!(error.to_string(), "given up");
    }
}
