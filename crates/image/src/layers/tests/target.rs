//! Fuzz targets of archives and layers, beyond stacks of random headers.

use std::collections::{HashMap, HashSet};

use super::super::tree::ROOT;
use super::fuzz::{check, has_no_whiteouts, listing_is_whole};
use super::*;
use crate::meta::Device;

pub(crate) fn archive(input: &[u8]) -> String {
    of(input, ARCHIVE)
}

/// On one that has something to remove and to replace.
pub(crate) fn layer(input: &[u8]) -> String {
    of(input, LAYERS)
}

fn of(input: &[u8], rules: Rules) -> String {
    let below = sample();
    let mut layers = vec![super::layer(input)];
    if rules.whiteouts {
        layers.insert(0, super::layer(&below));
    }
    match applied(layers, rules) {
        Ok(applied) => {
            let mut links = HashMap::new();
            check(&applied, ROOT, b"", 0, &mut links);
            if rules.whiteouts {
                has_no_whiteouts(&applied);
            }
            listing_is_whole(&applied);
            let kinds: HashSet<_> =
                applied.tree.inodes().map(|inode| std::mem::discriminant(&inode.what)).collect();
            let linked = links.values().filter(|count| **count > 1).count();
            format!("names {}, kinds {}, linked {}", letter(links.len()), letter(kinds.len()), letter(linked))
        }
        Err(e) => {
            let message = e.to_string();
            assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
            message
        }
    }
}

/// A number as what tells outcomes apart, which digits do not.
fn letter(number: usize) -> char {
    char::from(b'a' + u8::try_from(number.min(25)).unwrap_or(25))
}

/// Something of every kind.
fn sample() -> Vec<u8> {
    let mut tar = CleanTar::without_root(Vec::new());
    let plain = Meta::root_owned(0o644);
    let meta = Meta { xattrs: [(b"user.a".to_vec(), b"1".to_vec())].into(), uid: 3_000_000, ..plain.clone() };
    tar.dir(b"d", &Meta::root_owned(0o755)).unwrap();
    tar.file(b"d/f", &meta, &[7; 700]).unwrap();
    tar.node(b"d/l", &plain, Node::HardLink(b"d/f")).unwrap();
    tar.node(b"s", &plain, Node::Symlink(b"d")).unwrap();
    tar.node(b"c", &plain, Node::Char(Device { major: 1, minor: 3 })).unwrap();
    tar.node(b"p", &plain, Node::Fifo).unwrap();
    tar.file(&[b'n'; 200], &plain, b"").unwrap();
    tar.finish().unwrap()
}

/// Long names and sparse files as GNU tar writes them, and the other forms that layers have.
fn others() -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let header = |kind: u8, size: u64| {
        let mut header = ::tar::Header::new_gnu();
        header.as_old_mut().linkflag = [kind];
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    builder.append_data(&mut header(b'0', 3), "g".repeat(150), &b"abc"[..]).unwrap();
    builder.append_data(&mut header(b'0', 0), "d/.wh.f", &b""[..]).unwrap();
    builder.append_data(&mut header(b'0', 0), "d/.wh..wh..opq", &b""[..]).unwrap();
    let mut map = b"1\n0\n3\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"abc");
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"9000"),
        ("GNU.sparse.name", b"sparse"),
    ];
    builder.append_pax_extensions(records).unwrap();
    builder.append_data(&mut header(b'0', map.len() as u64), "GNUSparseFile.0/s", &map[..]).unwrap();
    let mut sparse = header(b'S', 512);
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.realsize = *b"00000004000\0";
    gnu.sparse[0].offset = *b"00000000000\0";
    gnu.sparse[0].numbytes = *b"00000001000\0";
    builder.append_data(&mut sparse, "old-sparse", &[1; 512][..]).unwrap();
    builder.into_inner().unwrap()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![sample(), others()]
}

pub(crate) fn compressed_seeds() -> Vec<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &sample()).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    std::io::Write::write_all(&mut xz, &sample()).unwrap();
    vec![gzip.finish().unwrap(), zstd::encode_all(&sample()[..], 1).unwrap(), xz.finish().unwrap(), sample()]
}
