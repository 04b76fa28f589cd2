//! Layers of random bytes in the shape of headers: whatever comes is refused or becomes a tree that can be packed.
//!
//! Bytes without any shape never get past a header's checksum, so these are headers of arbitrary fields whose checksum
//! is right, between arbitrary blocks.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::path::{DEPTH_MAX, PATH_MAX};
use super::super::tree::{InodeId, NodeKind, ROOT};
use super::*;

#[derive(Debug, Clone)]
enum Block {
    Header { kind: u8, name: String, link: String, size: u64, mode: u32, device: u32, gnu: bool },
    EntryLog(Vec<(String, Vec<u8>)>),
    Raw(Vec<u8>),
    Zero,
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "(\\./)?[ab](/[ab]){0,3}/?",
        2 => "[ab/]{0,4}\\.wh\\.(\\.wh\\.\\.opq|[ab.]{0,3})",
        1 => "[ab./]{0,12}",
        1 => "/{0,1}(\\.\\./){0,3}[ab]",
    ]
}

fn blocks() -> impl Strategy<Value = Block> {
    let header = |(kind, name, link, size, mode, device, gnu)| Block::Header {
        kind,
        name,
        link,
        size,
        mode,
        device,
        gnu,
    };
    // Such as are let through, mostly: a stack that is refused at its first header tells little.
    let kind = proptest::sample::select(b"0005551234".to_vec());
    let good =
        (kind, "[ab](/[ab]){0,2}", "[ab](/[ab])?", 0..2000_u64, 0..0o10000_u32, any::<u32>(), any::<bool>())
            .prop_map(|(kind, name, link, size, mode, device, gnu)| {
                (kind, name, link, if kind == b'0' { size } else { 0 }, mode, device, gnu)
            })
            .prop_map(header);
    let whiteout = ("([ab]/){0,2}\\.wh\\.(\\.wh\\.\\.opq|[ab])", Just(b'0'))
        .prop_map(move |(name, kind)| header((kind, name, String::new(), 0, 0o644, 0, false)));
    let kind = prop_oneof![proptest::sample::select(b"\x000123456\x37LKgVS".to_vec()), any::<u8>()];
    let size = prop_oneof![4 => Just(0), 2 => 0..2000_u64, 1 => any::<u64>()];
    let bad = (kind, names(), names(), size, any::<u32>(), any::<u32>(), any::<bool>()).prop_map(header);
    let keys = proptest::sample::select(vec![
        "path",
        "linkpath",
        "size",
        "mtime",
        "uid",
        "gid",
        "GNU.sparse.major",
        "GNU.sparse.realsize",
        "GNU.sparse.name",
        "SCHILY.xattr.user.a",
        "SCHILY.xattr.security.capability",
        "SCHILY.xattr.system.a",
        "comment",
        "",
    ]);
    let value = prop_oneof!["[0-9]{1,21}", names(), "[\\x00-\\xff]{0,8}"];
    let record = (keys, value).prop_map(|(key, value)| (key.to_owned(), value.into_bytes()));
    prop_oneof![
        40 => good,
        8 => whiteout,
        4 => bad,
        1 => proptest::collection::vec(record, 0..4).prop_map(Block::EntryLog),
        1 => proptest::collection::vec(any::<u8>(), 512).prop_map(Block::Raw),
        1 => Just(Block::Zero),
    ]
}

fn pack(blocks: &[Block], ended: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let header = |out: &mut Vec<u8>, kind: u8, name: &str, link: &str, size: u64, more: (u32, u32, bool)| {
        let mut header = if more.2 { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
        let old = header.as_old_mut();
        old.name[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
        old.linkname[..link.len().min(100)].copy_from_slice(&link.as_bytes()[..link.len().min(100)]);
        old.linkflag = [kind];
        header.set_size(size);
        header.set_mode(more.0 & 0o7777);
        header.set_uid((more.0 >> 12).into());
        header.set_gid(0);
        header.set_mtime(more.1.into());
        header.set_device_major(more.1 >> 20).unwrap();
        header.set_device_minor(more.1 & 0xf_ffff).unwrap();
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
    };
    for block in blocks {
        match block {
            Block::Header { kind, name, link, size, mode, device, gnu } => {
                header(&mut out, *kind, name, link, *size, (*mode, *device, *gnu));
                let content = usize::try_from(*size).unwrap_or(0).min(4096);
                // A name, for the kinds whose content is one.
                out.extend(name.bytes().chain([0]).cycle().take(content.next_multiple_of(512)));
            }
            Block::EntryLog(records) => {
                let content: Vec<u8> = records
                    .iter()
                    .flat_map(|(key, value)| {
                        let rest = key.len() + value.len() + 3;
                        let len =
                            (rest + 1..rest + 9).find(|len| len - rest == len.to_string().len()).unwrap();
                        [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
                    })
                    .collect();
                header(&mut out, b'x', "pax", "", content.len() as u64, (0o644, 0, false));
                out.extend_from_slice(&content);
                out.resize(out.len().next_multiple_of(512), 0);
            }
            Block::Raw(bytes) => out.extend_from_slice(bytes),
            Block::Zero => out.resize(out.len() + 512, 0),
        }
    }
    if ended {
        out.resize(out.len() + 1024, 0);
    }
    out
}

/// Checks everything that packing relies on.
pub(super) fn check(
    applied: &Applied,
    id: InodeId,
    path: &[u8],
    depth: usize,
    links: &mut HashMap<InodeId, u32>,
) {
    let shown = String::from_utf8_lossy(path);
    assert!(path.len() <= PATH_MAX && depth <= DEPTH_MAX, "{shown:?}");
    let seen = links.entry(id).or_default();
    *seen += 1;
    if let NodeKind::Dir(children) = &applied.tree.inode(id).what {
        assert_eq!(*seen, 1, "a directory has one name: {shown:?}");
        for (name, child) in children {
            assert!(![&b""[..], b".", b".."].contains(&&**name), "{shown:?}");
            assert!(!name.contains(&b'/') && !name.contains(&0), "{shown:?}");
            let below = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            check(applied, child.inode, &below, depth + 1, links);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]
    #[test]
    fn whatever_comes_is_refused_or_can_be_packed(
        stack in proptest::collection::vec((proptest::collection::vec(blocks(), 0..10), any::<bool>()), 1..4),
    ) {
        let packed: Vec<_> = stack.iter().map(|(blocks, ended)| pack(blocks, *ended)).collect();
        let layers = packed.iter().map(|bytes| Layer { diff_id: Some(Digest::of(bytes)), ..layer(bytes) }).collect();
        if let Ok(applied) = applied(layers, LAYERS) {
            let mut links = HashMap::new();
            check(&applied, ROOT, b"", 0, &mut links);
            has_no_whiteouts(&applied);
            for (id, count) in &links {
                prop_assert_eq!(applied.tree.inode(*id).links, *count);
            }
            prop_assert_eq!(applied.tree.inodes().count(), links.len());
            listing_is_whole(&applied);
        }
    }
}

/// None is left in the tree that layers came to, but as a folder for what is below it.
pub(super) fn has_no_whiteouts(applied: &Applied) {
    for inode in applied.tree.inodes() {
        if let NodeKind::Dir(children) = &inode.what {
            let mut marks = children.iter().filter(|(name, _)| name.starts_with(b".wh."));
            assert!(marks.all(|(_, child)| applied.tree.is_dir(child.inode)));
        }
    }
}

/// All content can be read back.
pub(super) fn listing_is_whole(applied: &Applied) {
    for inode in applied.tree.inodes() {
        if let NodeKind::File(content) = &inode.what {
            let mut len = 0;
            let take = |piece: super::super::content::Piece<'_>| {
                len += match piece {
                    super::super::content::Piece::Data(bytes) => bytes.len() as u64,
                    super::super::content::Piece::Hole(len) => len,
                };
                Ok::<(), vmette_oci::FileError>(())
            };
            applied.spills[usize::from(content.layer)].read(content, take, Path::new("")).unwrap();
            assert_eq!(len, content.size);
        }
    }
}
