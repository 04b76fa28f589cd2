//! From blocks to entries: headers, and the extended headers before them. Read as Go's `archive/tar` reads them, so as
//! containerd, docker and podman do; besides, what GNU tar and bsdtar write and these refuse.

use std::io::BufRead;

use super::error::{ArchiveError, Refusal};
use super::pax::{EXTENSION_MAX, Pax};
use super::source::Source;
use super::sparse::SparseMap;
use crate::header::{BLOCK, Header, text};
use crate::meta::{Device, Meta};
use crate::notes::{Note, Notes};

/// The id that means "leave it" to the kernel, and so cannot own a file.
const NO_ID: u32 = u32::MAX;
/// Bits of a device's major and of its minor number.
const MAJOR_BITS: u32 = 12;
const MINOR_BITS: u32 = 20;

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

/// The fields of the headers before an entry's own. Of two headers of a kind the last one counts.
#[derive(Default)]
struct Extensions {
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    access_list: bool,
}

/// The next entry, or `None` at the archive's end. An archive may lack the mark of its end, as some layers do.
pub(crate) fn next<R: BufRead>(source: &mut Source<'_, R>) -> Result<Option<Entry>> {
    let mut extensions = Extensions::default();
    loop {
        let offset = source.offset();
        let Some(block) = source.block()? else { return Ok(None) };
        if is_zero(&block) {
            return end(source, offset).map(|()| None);
        }
        let header = Header::of(&block).ok_or(match offset {
            0 => ArchiveError::NotTar,
            _ => ArchiveError::Damaged { offset, what: "a header's checksum is wrong" },
        })?;
        let name = || header.name();
        let size = || header.size().ok_or_else(|| Refusal::Number { field: "size" }.of(&name()));
        let extension = |source: &mut Source<'_, R>| {
            let len = size()?;
            match usize::try_from(len) {
                Ok(small) if len <= EXTENSION_MAX => source.small(small),
                _ => Err(Refusal::ExtensionTooLong { len, max: EXTENSION_MAX }.of(&name())),
            }
        };
        match header.kind() {
            // Solaris has a letter of its own for it.
            b'x' | b'X' => extensions.pax = Pax::parse(&extension(source)?).map_err(|e| e.of(&name()))?,
            b'g' => {
                let pax = Pax::parse(&extension(source)?).map_err(|e| e.of(&name()))?;
                // None of the three merges it into the entries.
                if pax.says_something() {
                    source.notes().add(Note::GlobalHeaders);
                }
            }
            b'L' => extensions.long_name = Some(text(&extension(source)?).to_vec()),
            b'K' => extensions.long_link = Some(text(&extension(source)?).to_vec()),
            // A volume's label.
            b'V' => source.skip(size()?)?,
            // Solaris's form of an access control list.
            b'A' => {
                source.skip(size()?)?;
                extensions.access_list = true;
            }
            _ => {
                source.budget().entry()?;
                return entry(&header, extensions, source).map(Some);
            }
        }
    }
}

/// An entry of its own header and what came before it.
fn entry<R: BufRead>(
    header: &Header<'_>,
    extensions: Extensions,
    source: &mut Source<'_, R>,
) -> Result<Entry> {
    let Extensions { pax, long_name, long_link, access_list } = extensions;
    let path = long_name.or_else(|| pax.get("path").map(<[u8]>::to_vec)).unwrap_or_else(|| header.name());
    let path = match pax.get("GNU.sparse.name") {
        Some(name) if pax.is_sparse() => name.to_vec(),
        _ => path,
    };
    let refuse = |refusal: Refusal| refusal.of(&path);
    let meta = meta(header, &pax, source.notes()).map_err(refuse)?;
    if access_list || pax.has_access_list() {
        source.notes().add(Note::AccessLists);
    }
    let size = || match pax.size().map_err(refuse)? {
        Some(size) => Ok(size),
        None => header.size().ok_or_else(|| refuse(Refusal::Number { field: "size" })),
    };
    let link = || {
        long_link
            .or_else(|| pax.get("linkpath").map(<[u8]>::to_vec))
            .unwrap_or_else(|| header.link().to_vec())
    };
    // Kinds without content have none whatever size they declare.
    let kind = match header.kind() {
        // How the oldest writers mark a directory.
        b'\0' if path.ends_with(b"/") => Kind::Dir,
        b'0' | b'\0' | b'7' => match size()? {
            0 if path.ends_with(b"/") => Kind::Dir,
            size if pax.is_sparse() => {
                let (map, map_len) = SparseMap::pax(&path, &pax, size, source)?;
                sparse(&path, map, size, size - map_len)?
            }
            size => Kind::File(size),
        },
        b'S' => {
            let size = size()?;
            sparse(&path, SparseMap::gnu(&path, header, source)?, size, size)?
        }
        b'1' => Kind::HardLink(link()),
        b'2' => Kind::Symlink(link()),
        b'3' => Kind::Char(device(header, source.notes()).map_err(refuse)?),
        b'4' => Kind::Block(device(header, source.notes()).map_err(refuse)?),
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        // Of an incremental dump, with a list of the directory's names.
        b'D' => {
            source.skip(size()?)?;
            Kind::Dir
        }
        other => return Err(refuse(Refusal::Kind(char::from(other)))),
    };
    Ok(Entry { path, meta, kind })
}

fn sparse(path: &[u8], map: SparseMap, content: u64, left: u64) -> Result<Kind> {
    if map.content() != left {
        return Err(Refusal::Sparse("its pieces are not the size of the content").of(path));
    }
    Ok(Kind::Sparse { map, content })
}

fn meta(header: &Header<'_>, pax: &Pax, notes: &Notes) -> std::result::Result<Meta, Refusal> {
    let id = |field: &'static str, own: Option<i64>| {
        let value = pax.integer(field)?.or(own).ok_or(Refusal::Number { field })?;
        Ok(owner(value, notes))
    };
    let mtime = match pax.mtime()? {
        Some(mtime) => mtime,
        None => {
            let seconds = header.mtime().ok_or(Refusal::Number { field: "mtime" })?;
            if seconds < 0 { 0 } else { u32::try_from(seconds).unwrap_or(u32::MAX) }
        }
    };
    // Some writers put the file's type into the mode as well.
    let mode = low_bits(header.mode().ok_or(Refusal::Number { field: "mode" })?, 12);
    let (uid, gid) = (id("uid", header.uid())?, id("gid", header.gid())?);
    Ok(Meta { mode, uid, gid, mtime, xattrs: pax.xattrs(notes)? })
}

/// An owner as the kernel takes it: cut to its 32 bits. The id that means "leave it" leaves root.
fn owner(value: i64, notes: &Notes) -> u32 {
    let id = Some(low_bits(value, u32::BITS)).filter(|&id| id != NO_ID);
    if id.is_none_or(|id| i64::from(id) != value) {
        notes.add(Note::Numbers);
    }
    id.unwrap_or(0)
}

/// A device's numbers, as the kernel takes them: cut to the bits that it has for them.
fn device(header: &Header<'_>, notes: &Notes) -> std::result::Result<Device, Refusal> {
    let (major, minor) = header.device().ok_or(Refusal::Number { field: "device number" })?;
    let device = Device { major: low_bits(major, MAJOR_BITS), minor: low_bits(minor, MINOR_BITS) };
    if (i64::from(device.major), i64::from(device.minor)) != (major, minor) {
        notes.add(Note::Numbers);
    }
    Ok(device)
}

/// At most 32 of the lowest bits.
fn low_bits(value: i64, bits: u32) -> u32 {
    u32::try_from(value & ((1 << bits) - 1)).unwrap_or_default()
}

/// After one block of zeros there is another, or nothing. Whatever follows is passed over, and all of it is read: a
/// compressed stream's checksum is at its very end.
fn end<R: BufRead>(source: &mut Source<'_, R>, offset: u64) -> Result<()> {
    source.end_marked();
    let mut rest = [0; 16 * BLOCK];
    let mut more = false;
    loop {
        let at = source.offset() - offset;
        let read = source.read(&mut rest)?;
        if read == 0 {
            break;
        }
        // Of the second block.
        let mark = usize::try_from((2 * BLOCK as u64).saturating_sub(at)).unwrap_or(0).min(read);
        if !is_zero(&rest[..mark]) {
            return Err(ArchiveError::Damaged { offset, what: "a block of zeros is not its end" });
        }
        more |= !is_zero(&rest[mark..read]);
    }
    if more {
        source.notes().add(Note::Trailing);
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}
