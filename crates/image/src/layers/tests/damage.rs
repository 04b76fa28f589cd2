//! Archives that are cut or damaged.

use proptest::prelude::*;

use super::*;
use crate::notes::Note;

/// A valid archive of several kinds, to be damaged.
fn sample() -> Vec<u8> {
    let mut tar = CleanTar::new(Vec::new());
    let meta = Meta { xattrs: [(b"user.a".to_vec(), b"1".to_vec())].into(), ..Meta::root_owned(0o644) };
    tar.dir(b"a", &Meta::root_owned(0o755)).unwrap();
    tar.file(b"a/f", &meta, &[7; 700]).unwrap();
    tar.node(b"a/l", &meta, Node::HardLink(b"a/f")).unwrap();
    tar.node(b"s", &meta, Node::Symlink(&[b'x'; 300])).unwrap();
    tar.finish().unwrap()
}

fn run(bytes: &[u8]) -> std::result::Result<Applied, ArchiveError> {
    applied(vec![layer(bytes)], ARCHIVE).map_err(refusal)
}

#[test]
fn every_cut_is_refused_or_noted() {
    let sample = sample();
    let end = sample.len() - 1024;
    // After an entry, or after the headers before one: it may have ended there, and that it did is noted.
    let mut whole = 0;
    // Every length up to the first file's content, and then around the bounds of blocks.
    for len in (0..end).filter(|len| *len < 600 || [0, 1, 255, 511].contains(&(len % 512))) {
        match run(&sample[..len]) {
            Err(ArchiveError::Empty) => assert_eq!(len, 0),
            Err(ArchiveError::NotTar) => assert!(len < 512, "cut at {len}"),
            Err(ArchiveError::Truncated { offset }) => assert_eq!(offset, len as u64),
            Ok(applied) => {
                assert_eq!(applied.notes.count(Note::NoEnd), 1, "cut at {len}");
                whole += 1;
            }
            Err(e) => panic!("cut at {len}: {e}"),
        }
    }
    // After the padding of each of four headers and of the one file, and within that.
    assert_eq!(whole, 16);
    assert_eq!(run(&sample[..end + 512]).unwrap().notes.count(Note::NoEnd), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_damage_panics(at in 0..4096usize, byte: u8, fix_checksum: bool) {
        let mut sample = sample();
        let at = at % sample.len();
        sample[at] = byte;
        if fix_checksum {
            let start = at / 512 * 512;
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&sample[start..start + 512]);
            header.set_cksum();
            sample[start..start + 512].copy_from_slice(header.as_bytes());
        }
        let _ = run(&sample);
    }
}
