//! From blocks to entries: headers, their extensions, and nothing else that an archive may hold.

use std::io::BufRead;

use super::error::{ArchiveError, Refusal};
use super::pax::{EXTENSION_MAX, Pax};
use super::source::{BLOCK, Source};
use super::sparse::SparseMap;
use crate::meta::{Device, Meta};

/// The id that means "no user" to the kernel, and so cannot own a file.
const NO_ID: u64 = u32::MAX as u64;
/// Largest numbers of a device in squashfs.
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

type Result<T> = std::result::Result<T, ArchiveError>;

/// One inode, or one more name of an inode.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The path in the archive, not checked.
    pub(crate) path: Vec<u8>,
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// A number of bytes, which follow.
    File(u64),
    /// The map's bytes follow, and padding after so many bytes of content in all.
    Sparse {
        map: SparseMap,
        content: u64,
    },
    Dir,
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Char(Device),
    Block(Device),
    Fifo,
}

/// The fields of the headers before an entry's own.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extensions {
    fn any(&self) -> bool {
        self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some()
    }
}

/// How an archive may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With the mark of its end: without it nothing tells that it is complete.
    Marked,
    /// After any entry: a digest tells whether it is complete, and there are layers that lack the mark.
    Anywhere,
}

/// The next entry, or None at the archive's end.
pub(crate) fn next<R: BufRead>(source: &mut Source<'_, R>, ends: End) -> Result<Option<Entry>> {
    let mut extensions = Extensions::default();
    loop {
        let offset = source.offset();
        let damaged = |what| ArchiveError::Damaged { offset, what };
        let Some(block) = source.block()? else {
            return match ends {
                End::Anywhere if !extensions.any() => Ok(None),
                _ if offset == 0 => Err(ArchiveError::NotTar),
                _ => Err(source.truncated()),
            };
        };
        if is_zero(&block) {
            if extensions.any() {
                return Err(damaged("an extended header without an entry"));
            }
            return end(source).map(|()| None);
        }
        if !checksum_fits(&block) {
            return Err(if offset == 0 {
                ArchiveError::NotTar
            } else {
                damaged("a header's checksum is wrong")
            });
        }
        let header = tar::Header::from_byte_slice(&block);
        let kind = header.entry_type().as_byte();
        let name = header.path_bytes();
        let mut extension = || {
            let len = header.entry_size().map_err(|_| Refusal::Number { field: "size" }.of(&name))?;
            match usize::try_from(len) {
                Ok(small) if len <= EXTENSION_MAX => source.small(small),
                _ => Err(Refusal::ExtensionTooLong { len, max: EXTENSION_MAX }.of(&name)),
            }
        };
        let once = |seen: bool| {
            if seen { Err(damaged("two extended headers of a kind for one entry")) } else { Ok(()) }
        };
        match kind {
            b'x' => {
                once(extensions.pax.is_some())?;
                extensions.pax = Some(Pax::parse(&extension()?).map_err(|e| e.of(&name))?);
            }
            b'g' => Pax::parse(&extension()?).and_then(|pax| pax.check_global()).map_err(|e| e.of(&name))?,
            b'L' => {
                once(extensions.long_name.is_some())?;
                extensions.long_name = Some(until_nul(extension()?));
            }
            b'K' => {
                once(extensions.long_link.is_some())?;
                extensions.long_link = Some(until_nul(extension()?));
            }
            // A volume's label.
            b'V' => drop(extension()?),
            _ => {
                source.budget().entry()?;
                return entry(header, extensions, source).map(Some);
            }
        }
    }
}

/// An entry of its own header and what came before it.
fn entry<R: BufRead>(
    header: &tar::Header,
    extensions: Extensions,
    source: &mut Source<'_, R>,
) -> Result<Entry> {
    let Extensions { pax, long_name, long_link } = extensions;
    let pax = pax.unwrap_or_default();
    let sparse_name = pax.get("GNU.sparse.name");
    let path = match sparse_name.or(pax.get("path")) {
        Some(path) => path.to_vec(),
        None => long_name.unwrap_or_else(|| header.path_bytes().into_owned()),
    };
    let refuse = |refusal: Refusal| refusal.of(&path);
    let meta = meta(header, &pax).map_err(refuse)?;
    let size = match pax.number("size").map_err(refuse)? {
        Some(size) => size,
        None => header.entry_size().map_err(|_| refuse(Refusal::Number { field: "size" }))?,
    };
    let link = match pax.get("linkpath") {
        Some(link) => Some(link.to_vec()),
        None => long_link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)),
    };
    let link = || link.unwrap_or_default();
    let kind = match header.entry_type().as_byte() {
        b'0' | b'\0' | b'7' if path.ends_with(b"/") => Kind::Dir,
        b'0' | b'\0' | b'7' => match pax.get("GNU.sparse.major") {
            Some(b"1") => {
                let (map, map_len) = SparseMap::pax(&path, &pax, size, source)?;
                sparse(&path, map, size, size - map_len)?
            }
            None if pax.get("GNU.sparse.size").is_none() && pax.get("GNU.sparse.map").is_none() => {
                Kind::File(size)
            }
            _ => return Err(refuse(Refusal::Sparse("format 0.x; pack again with --sparse-version=1.0"))),
        },
        b'S' => {
            let gnu = header.as_gnu().ok_or_else(|| refuse(Refusal::Sparse("it is not GNU's")))?;
            let map = SparseMap::gnu(&path, gnu, source)?;
            sparse(&path, map, size, size)?
        }
        b'1' => Kind::HardLink(link()),
        b'2' => Kind::Symlink(link()),
        b'3' => Kind::Char(device(header).map_err(refuse)?),
        b'4' => Kind::Block(device(header).map_err(refuse)?),
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        other => return Err(refuse(Refusal::Kind(char::from(other)))),
    };
    match kind {
        Kind::File(_) | Kind::Sparse { .. } => {}
        _ if size != 0 => return Err(refuse(Refusal::Content { size })),
        _ => {}
    }
    Ok(Entry { path, meta, kind })
}

fn sparse(path: &[u8], map: SparseMap, content: u64, left: u64) -> Result<Kind> {
    if map.content() != left {
        return Err(Refusal::Sparse("its pieces are not the size of the content").of(path));
    }
    Ok(Kind::Sparse { map, content })
}

fn meta(header: &tar::Header, pax: &Pax) -> std::result::Result<Meta, Refusal> {
    let number = |field, value: std::io::Result<u64>| value.map_err(|_| Refusal::Number { field });
    let id = |field: &'static str, own: std::io::Result<u64>| {
        let value = pax.number(field)?.map_or_else(|| number(field, own), Ok)?;
        u32::try_from(value).ok().filter(|_| value != NO_ID).ok_or(Refusal::Number { field })
    };
    let mtime = match pax.mtime()? {
        Some(mtime) => mtime,
        None => {
            // A time before 1970 is a negative number in base 256, whose low 64 bits the parser gives.
            let seconds = number("mtime", header.mtime())?.cast_signed();
            if seconds < 0 { 0 } else { u32::try_from(seconds).unwrap_or(u32::MAX) }
        }
    };
    Ok(Meta {
        // Some writers put the file's type into the mode as well.
        mode: header.mode().map_err(|_| Refusal::Number { field: "mode" })? & 0o7777,
        uid: id("uid", header.uid())?,
        gid: id("gid", header.gid())?,
        mtime,
        xattrs: pax.xattrs()?,
    })
}

fn device(header: &tar::Header) -> std::result::Result<Device, Refusal> {
    let bad = Refusal::Number { field: "device number" };
    match (header.device_major(), header.device_minor()) {
        (Ok(Some(major)), Ok(Some(minor))) if major <= MAJOR_MAX && minor <= MINOR_MAX => {
            Ok(Device { major, minor })
        }
        _ => Err(bad),
    }
}

/// After one block of zeros there is another, or nothing; after both come at most more zeros. All is read: a compressed
/// stream's checksum is at its very end.
fn end<R: BufRead>(source: &mut Source<'_, R>) -> Result<()> {
    let mut rest = [0; 16 * BLOCK];
    loop {
        match source.read(&mut rest)? {
            0 => return Ok(()),
            read if is_zero(&rest[..read]) => {}
            _ => return Err(ArchiveError::Trailing),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// The sum of all bytes, with the checksum's own field taken as spaces; historic writers summed signed bytes.
fn checksum_fits(block: &[u8; BLOCK]) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let Ok(expected) = tar::Header::from_byte_slice(block).cksum() else { return false };
    let bytes = || block.iter().enumerate().map(|(at, &byte)| if FIELD.contains(&at) { b' ' } else { byte });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    [unsigned, signed].contains(&i64::from(expected))
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}
