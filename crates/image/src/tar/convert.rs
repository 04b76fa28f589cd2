//! A stranger's archive, entry by entry, into an image's clean one.

use std::io::{Read, Write};

use super::entry::{self, Entry, Kind};
use super::error::ArchiveError;
use super::source::Source;
use super::sparse::SparseMap;
use super::tree::{Taken, Tree, check_symlink, normal};
use crate::meta::{Meta, Node};
use crate::pack::CleanTar;

/// Bytes of content moved at once.
const CHUNK: usize = 64 * 1024;

type Result<T> = std::result::Result<T, ArchiveError>;

/// Writes all of the archive's inodes. On an error what was written so far is worthless.
pub(super) fn convert<R: Read, W: Write>(source: &mut Source<R>, out: &mut CleanTar<W>) -> Result<()> {
    let mut tree = Tree::new();
    let mut any = false;
    while let Some(entry) = entry::next(source)? {
        any = true;
        place(entry, &mut tree, source, out)?;
    }
    if !any {
        return Err(ArchiveError::Empty);
    }
    for (path, meta) in tree.into_dirs() {
        out.dir(&path, &meta).map_err(ArchiveError::Output)?;
    }
    Ok(())
}

fn place<R: Read, W: Write>(
    entry: Entry,
    tree: &mut Tree,
    source: &mut Source<R>,
    out: &mut CleanTar<W>,
) -> Result<()> {
    let Entry { path, meta, kind } = entry;
    let path = normal(&path).map_err(|e| e.of(&path))?;
    let mut node = |tree: &mut Tree, node: Node<'_>, taken: Taken| {
        tree.place(&path, taken, &meta)?;
        out.node(&path, &meta, node).map_err(ArchiveError::Output)
    };
    match kind {
        Kind::Dir => tree.place_dir(&path, meta),
        Kind::Symlink(target) => {
            check_symlink(&target).map_err(|e| e.of(&path))?;
            node(tree, Node::Symlink(&target), Taken::Symlink)
        }
        Kind::HardLink(target) => {
            let (target, taken) = tree.link_target(&path, &target)?;
            node(tree, Node::HardLink(&target), taken)
        }
        Kind::Char(device) => node(tree, Node::Char(device), Taken::File),
        Kind::Block(device) => node(tree, Node::Block(device), Taken::File),
        Kind::Fifo => node(tree, Node::Fifo, Taken::File),
        Kind::File(size) => {
            tree.place(&path, Taken::File, &meta)?;
            file(&path, &meta, size, source, out)
        }
        Kind::Sparse { map, content } => {
            tree.place(&path, Taken::File, &meta)?;
            sparse(&path, &meta, &map, content, source, out)
        }
    }
}

fn file<R: Read, W: Write>(
    path: &[u8],
    meta: &Meta,
    size: u64,
    source: &mut Source<R>,
    out: &mut CleanTar<W>,
) -> Result<()> {
    out.begin_file(path, meta, size).map_err(ArchiveError::Output)?;
    copy(size, source, out)?;
    source.padding(size)?;
    out.end_file(size).map_err(ArchiveError::Output)
}

/// Holes are written out as zeros, which `mksquashfs` makes holes again.
fn sparse<R: Read, W: Write>(
    path: &[u8],
    meta: &Meta,
    map: &SparseMap,
    content: u64,
    source: &mut Source<R>,
    out: &mut CleanTar<W>,
) -> Result<()> {
    source.charge(map.size - map.content())?;
    out.begin_file(path, meta, map.size).map_err(ArchiveError::Output)?;
    let mut at = 0;
    for segment in &map.segments {
        out.zeros(segment.offset - at).map_err(ArchiveError::Output)?;
        copy(segment.len, source, out)?;
        at = segment.offset + segment.len;
    }
    out.zeros(map.size - at).map_err(ArchiveError::Output)?;
    source.padding(content)?;
    out.end_file(map.size).map_err(ArchiveError::Output)
}

fn copy<R: Read, W: Write>(mut len: u64, source: &mut Source<R>, out: &mut CleanTar<W>) -> Result<()> {
    let at_most = |len: u64| usize::try_from(len).unwrap_or(usize::MAX).min(CHUNK);
    let mut chunk = vec![0; at_most(len)];
    while len > 0 {
        let now = at_most(len);
        let read = source.read(&mut chunk[..now])?;
        if read == 0 {
            return Err(source.truncated());
        }
        out.data(&chunk[..read]).map_err(ArchiveError::Output)?;
        len -= read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u64 = 1 << 20;

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

    fn run(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut out = CleanTar::new(Vec::new());
        convert(&mut Source::new(bytes, LIMIT), &mut out)?;
        Ok(out.finish().unwrap())
    }

    #[test]
    fn what_was_made_clean_is_taken() {
        let once = run(&sample()).unwrap();
        run(&once).unwrap();
    }

    #[test]
    fn every_cut_is_refused() {
        let sample = sample();
        let end = sample.len() - 1024;
        for len in 0..end {
            let refused = match run(&sample[..len]) {
                Err(ArchiveError::NotTar) => len < 512,
                Err(ArchiveError::Truncated { offset }) => offset == len as u64,
                _ => false,
            };
            assert!(refused, "cut at {len}");
        }
        assert!(run(&sample[..end + 512]).is_ok());
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
}
