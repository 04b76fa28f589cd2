//! Writing a tar archive in one dialect: POSIX, with extended headers where a field does not fit, but GNU's where that is
//! the target of a symbolic link.

use std::io::{self, Write};

use crate::meta::{Device, Meta, Node};

/// Every path is below this directory, whose inode becomes the image's root: the tools' own root takes neither owner,
/// time nor attributes from an archive.
pub(super) const ROOT_DIR: &str = "r";
const ROOT_PREFIX: &[u8] = b"r/";

const BLOCK: usize = 512;
/// Largest number in an eight-byte octal field.
const OCTAL_7_MAX: u32 = 0o777_7777;
/// Largest size in a twelve-byte octal field.
const OCTAL_11_MAX: u64 = 0o777_7777_7777;
/// Length of the name and link name fields.
const NAME_FIELD: usize = 100;
/// GNU tar's name for an entry that holds a long target.
const LONG_LINK: &[u8] = b"././@LongLink";

/// Paths are relative to the root, without a leading `/`; the root itself is empty.
pub(crate) struct CleanTar<W> {
    out: W,
    /// Before every path.
    below: &'static [u8],
}

impl<W: Write> CleanTar<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, below: ROOT_PREFIX }
    }

    /// With paths as they are, as any archive has them.
    #[cfg(test)]
    pub(crate) fn without_root(out: W) -> Self {
        Self { out, below: b"" }
    }

    /// Starts a regular file, whose `size` bytes follow by [`data`](Self::data), and then [`end_file`](Self::end_file).
    pub(crate) fn begin_file(&mut self, path: &[u8], meta: &Meta, size: u64) -> io::Result<()> {
        self.header(tar::EntryType::Regular, path, meta, size, None, None)
    }

    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// `len` zero bytes of a file's content.
    pub(crate) fn zeros(&mut self, mut len: u64) -> io::Result<()> {
        const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
        while len > 0 {
            let now = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
            self.out.write_all(&ZEROS[..now])?;
            len -= now as u64;
        }
        Ok(())
    }

    pub(crate) fn end_file(&mut self, size: u64) -> io::Result<()> {
        self.zeros(size.next_multiple_of(BLOCK as u64) - size)
    }

    pub(crate) fn file(&mut self, path: &[u8], meta: &Meta, content: &[u8]) -> io::Result<()> {
        let size = content.len() as u64;
        self.begin_file(path, meta, size)?;
        self.data(content)?;
        self.end_file(size)
    }

    pub(crate) fn dir(&mut self, path: &[u8], meta: &Meta) -> io::Result<()> {
        self.header(tar::EntryType::Directory, path, meta, 0, None, None)
    }

    pub(crate) fn node(&mut self, path: &[u8], meta: &Meta, node: Node<'_>) -> io::Result<()> {
        match node {
            Node::Symlink(target) => self.header(tar::EntryType::Symlink, path, meta, 0, Some(target), None),
            Node::HardLink(target) => {
                let target = [self.below, target].concat();
                self.header(tar::EntryType::Link, path, meta, 0, Some(&target), None)
            }
            Node::Char(device) => self.header(tar::EntryType::Char, path, meta, 0, None, Some(device)),
            Node::Block(device) => self.header(tar::EntryType::Block, path, meta, 0, None, Some(device)),
            Node::Fifo => self.header(tar::EntryType::Fifo, path, meta, 0, None, None),
        }
    }

    /// The end mark; gives the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.zeros(2 * BLOCK as u64)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(
        &mut self,
        kind: tar::EntryType,
        path: &[u8],
        meta: &Meta,
        size: u64,
        link: Option<&[u8]>,
        device: Option<Device>,
    ) -> io::Result<()> {
        let path = [self.below, path].concat();
        let mut records = Vec::new();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        header.set_mtime(meta.mtime.into());
        header.set_uid(fit(&mut records, "uid", meta.uid));
        header.set_gid(fit(&mut records, "gid", meta.gid));
        if size > OCTAL_11_MAX {
            record(&mut records, b"size", size.to_string().as_bytes());
            header.set_size(0);
        } else {
            header.set_size(size);
        }
        if let Some(device) = device {
            header.set_device_major(device.major)?;
            header.set_device_minor(device.minor)?;
        }
        fit_name(&mut records, b"path", &path, &mut header.as_old_mut().name);
        if let Some(link) = link {
            let field = &mut header.as_old_mut().linkname;
            // mksquashfs takes a leading `/`, `./` or `../` off a `linkpath`: right for a name in the archive, as a hard
            // link's, and another target for a symbolic link.
            if kind == tar::EntryType::Symlink && link.len() > NAME_FIELD {
                field.copy_from_slice(&link[..NAME_FIELD]);
                self.ahead(tar::EntryType::GNULongLink, LONG_LINK, &[link, b"\0"].concat())?;
            } else {
                fit_name(&mut records, b"linkpath", link, field);
            }
        }
        for (name, value) in &meta.xattrs {
            record(&mut records, &[b"SCHILY.xattr.".as_slice(), name].concat(), value);
        }
        if !records.is_empty() {
            self.ahead(tar::EntryType::XHeader, b"pax", &records)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Writes a field that does not fit in the header that comes next.
    fn ahead(&mut self, kind: tar::EntryType, name: &[u8], content: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.data(content)?;
        self.end_file(content.len() as u64)
    }
}

/// The number for the header's field; one that does not fit goes into the records.
fn fit(records: &mut Vec<u8>, key: &str, number: u32) -> u64 {
    if number <= OCTAL_7_MAX {
        return number.into();
    }
    record(records, key.as_bytes(), number.to_string().as_bytes());
    0
}

fn fit_name(records: &mut Vec<u8>, key: &[u8], name: &[u8], field: &mut [u8; NAME_FIELD]) {
    if name.len() > field.len() {
        record(records, key, name);
    }
    let shown = name.len().min(field.len());
    field[..shown].copy_from_slice(&name[..shown]);
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for len in 0..1100 {
            let mut records = Vec::new();
            record(&mut records, b"k", &vec![b'v'; len]);
            let digits = records.iter().position(|&byte| byte == b' ').unwrap();
            let declared: usize = std::str::from_utf8(&records[..digits]).unwrap().parse().unwrap();
            assert_eq!(declared, records.len());
        }
    }
}
