//! The content of a tree, for comparison.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::super::content::Piece;
use super::super::tree::{InodeId, NodeKind, ROOT};
use super::Applied;

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) what: String,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: i64,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    /// The first of its names.
    pub(super) same_as: String,
}

pub(super) type Listing = BTreeMap<String, Fact>;

pub(super) fn of(applied: &Applied) -> Listing {
    let mut listing = Listing::new();
    walk(applied, ROOT, String::new(), &mut HashMap::new(), &mut listing);
    listing
}

fn walk(
    applied: &Applied,
    id: InodeId,
    path: String,
    first: &mut HashMap<InodeId, String>,
    out: &mut Listing,
) {
    let inode = applied.tree.inode(id);
    let same_as = first.entry(id).or_insert_with(|| path.clone()).clone();
    let what = match &inode.what {
        NodeKind::Dir(_) => "dir".to_owned(),
        NodeKind::File(content) => {
            let mut bytes = Vec::new();
            let mut take = |piece: Piece<'_>| {
                match piece {
                    Piece::Data(data) => bytes.extend_from_slice(data),
                    Piece::Hole(len) => bytes.resize(bytes.len() + usize::try_from(len).unwrap(), 0),
                }
                Ok::<(), vmette_oci::FileError>(())
            };
            applied.spills[usize::from(content.layer)].read(content, &mut take, Path::new("")).unwrap();
            format!("file {bytes:?}")
        }
        NodeKind::Symlink(target) => format!("-> {}", String::from_utf8_lossy(target)),
        NodeKind::Char(device) => format!("char {}:{}", device.major, device.minor),
        NodeKind::Block(device) => format!("block {}:{}", device.major, device.minor),
        NodeKind::Fifo => "fifo".to_owned(),
    };
    let xattrs = inode.attrs.meta().xattrs.into_iter();
    out.insert(
        path.clone(),
        Fact {
            what,
            mode: inode.attrs.mode.into(),
            owner: (inode.attrs.uid, inode.attrs.gid),
            mtime: inode.attrs.mtime.into(),
            xattrs: xattrs.map(|(name, value)| (String::from_utf8(name).unwrap(), value)).collect(),
            same_as,
        },
    );
    if let NodeKind::Dir(children) = &inode.what {
        for (name, child) in children {
            let name = std::str::from_utf8(name).unwrap();
            let below = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            walk(applied, child.inode, below, first, out);
        }
    }
}

/// The listing of a directory of the host.
pub(super) fn of_dir(root: &Path) -> Listing {
    let mut listing = Listing::new();
    walk_dir(root, String::new(), &mut HashMap::new(), &mut listing);
    listing
}

fn walk_dir(at: &Path, path: String, first: &mut HashMap<u64, String>, out: &mut Listing) {
    let found = at.symlink_metadata().unwrap();
    let kind = found.file_type();
    let what = if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        format!("-> {}", String::from_utf8_lossy(fs::read_link(at).unwrap().as_os_str().as_bytes()))
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else if kind.is_char_device() || kind.is_block_device() {
        let kind = if kind.is_char_device() { "char" } else { "block" };
        format!("{kind} {}:{}", rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()))
    } else {
        format!("file {:?}", fs::read(at).unwrap())
    };
    let same_as = first.entry(found.ino()).or_insert_with(|| path.clone()).clone();
    let (mode, owner, mtime) = (found.mode() & 0o7777, (found.uid(), found.gid()), found.mtime());
    out.insert(path.clone(), Fact { what, mode, owner, mtime, xattrs: xattrs(at), same_as });
    if kind.is_dir() {
        let mut names: Vec<_> =
            at.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        for name in names {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            walk_dir(&at.join(name), below, first, out);
        }
    }
}

fn xattrs(at: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(at, &mut names).unwrap_or(0);
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = std::str::from_utf8(name).unwrap();
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(at, name, &mut value).unwrap();
            (name.to_owned(), value[..len].to_vec())
        })
        .collect()
}
