//! Entries in the order in which they came. There may be a million of them, so they are spilled to disk.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::content::{Content, SpillFile, SpillWriter};
use super::record::{Action, Attrs, Record, Xattrs};
use crate::meta::Device;
use crate::tar::SparseMap;
use vmette_oci::FileError;

/// Bytes that are spilled at once: a piece ends with the entry that brings it to this size.
const PIECE: usize = 32 << 10;
/// Bits of a number that one byte holds; its highest says that more follow.
const BITS: u32 = 7;
const MORE: u8 = 1 << BITS;

/// A list of paths and of the actions on them, spilled to the same file as the content of files. A path is kept without
/// the beginning that it shares with the one before, a number in as few bytes as it needs.
#[derive(Debug, Default)]
pub(super) struct EntryLog {
    /// Offset and length of the spilled pieces.
    pieces: Vec<(u64, usize)>,
    /// The piece that is being filled.
    piece: Vec<u8>,
    /// The last path.
    last: Vec<u8>,
    /// Different sets of extended attributes.
    xattrs: Vec<Arc<Xattrs>>,
    /// Number of a set in `xattrs`, from 1, by the set's address.
    known: HashMap<usize, u64>,
    /// Maps of the sparse files, in order.
    maps: Vec<SparseMap>,
}

/// The kind of the action that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    Dir,
    File,
    Sparse,
    Symlink,
    HardLink,
    Char,
    Block,
    Fifo,
    Whiteout,
    Opaque,
}

const TAGS: [Tag; 10] = [
    Tag::Dir,
    Tag::File,
    Tag::Sparse,
    Tag::Symlink,
    Tag::HardLink,
    Tag::Char,
    Tag::Block,
    Tag::Fifo,
    Tag::Whiteout,
    Tag::Opaque,
];

impl EntryLog {
    /// Adds an entry. `spill` is the same each time, and not in the middle of a file's content. Returns the bytes of the
    /// path that are kept.
    pub(super) fn push(&mut self, path: &[u8], record: Record, spill: &mut SpillWriter) -> io::Result<usize> {
        let mut entry = std::mem::take(&mut self.piece);
        let kept = self.last.iter().zip(path).take_while(|(one, other)| one == other).count();
        let tail = &path[kept..];
        put(&mut entry, kept as u64);
        put_bytes(&mut entry, tail);
        self.last.truncate(kept);
        self.last.extend_from_slice(tail);
        let Record { attrs: Attrs { mode, uid, gid, mtime, xattrs }, action } = record;
        for number in [mode.into(), uid, gid, mtime] {
            put(&mut entry, number.into());
        }
        let xattrs = xattrs.map_or(0, |set| self.number_of(set));
        put(&mut entry, xattrs);
        self.put_action(&mut entry, action);
        if entry.len() >= PIECE {
            self.pieces.push((spill.position(), entry.len()));
            spill.append(&entry)?;
            entry.clear();
        }
        self.piece = entry;
        Ok(tail.len())
    }

    /// Number of a set of attributes, from 1.
    fn number_of(&mut self, set: Arc<Xattrs>) -> u64 {
        // The address stays the set's own for as long as it is in the list.
        *self.known.entry(Arc::as_ptr(&set).addr()).or_insert_with(|| {
            self.xattrs.push(set);
            self.xattrs.len() as u64
        })
    }

    fn put_action(&mut self, entry: &mut Vec<u8>, action: Action) {
        let mut tag = |tag: Tag| entry.push(tag as u8);
        match action {
            Action::Dir => tag(Tag::Dir),
            Action::Fifo => tag(Tag::Fifo),
            Action::Whiteout => tag(Tag::Whiteout),
            Action::Opaque => tag(Tag::Opaque),
            Action::File(Content { layer, at, size, map }) => {
                tag(if map.is_some() { Tag::Sparse } else { Tag::File });
                self.maps.extend(map.map(|map| *map));
                for number in [layer.into(), at, size] {
                    put(entry, number);
                }
            }
            Action::Symlink(target) => {
                tag(Tag::Symlink);
                put_bytes(entry, &target);
            }
            Action::HardLink(target) => {
                tag(Tag::HardLink);
                put_bytes(entry, &target);
            }
            Action::Char(Device { major, minor }) => {
                tag(Tag::Char);
                put(entry, major.into());
                put(entry, minor.into());
            }
            Action::Block(Device { major, minor }) => {
                tag(Tag::Block);
                put(entry, major.into());
                put(entry, minor.into());
            }
        }
    }

    /// Gives each entry to `to`, in order. `spill` is the file that they were spilled to, in the directory `dir`.
    pub(super) fn into_each<E: From<FileError>>(
        self,
        spill: &SpillFile,
        dir: &Path,
        mut to: impl FnMut(&[u8], Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let (xattrs, mut maps) = (self.xattrs, self.maps.into_iter());
        let (mut path, mut aside) = (Vec::new(), Vec::new());
        for place in self.pieces.into_iter().map(Some).chain([None]) {
            let mut rest = match place {
                Some((at, len)) => {
                    aside.resize(len, 0);
                    spill.read_at(&mut aside, at, dir)?;
                    Rest(&aside)
                }
                None => Rest(&self.piece),
            };
            while !rest.0.is_empty() {
                path.truncate(rest.number());
                path.extend_from_slice(rest.bytes());
                let attrs = Attrs {
                    mode: rest.number(),
                    uid: rest.number(),
                    gid: rest.number(),
                    mtime: rest.number(),
                    xattrs: rest.number::<usize>().checked_sub(1).map(|index| Arc::clone(&xattrs[index])),
                };
                let action = rest.action(&mut maps);
                to(&path, Record { attrs, action })?;
            }
        }
        Ok(())
    }
}

fn put(entry: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= BITS;
        if number == 0 {
            return entry.push(low & !MORE);
        }
        entry.push(low | MORE);
    }
}

fn put_bytes(entry: &mut Vec<u8>, bytes: &[u8]) {
    put(entry, bytes.len() as u64);
    entry.extend_from_slice(bytes);
}

/// The rest of a piece. It was written by the functions above, so everything that is asked for is there.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    /// A number, of the type that it had when it was written.
    fn number<T: TryFrom<u64> + Default>(&mut self) -> T {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(BITS as usize) {
            let byte = self.take(1)[0];
            number |= u64::from(byte & !MORE) << shift;
            if byte & MORE == 0 {
                break;
            }
        }
        T::try_from(number).unwrap_or_default()
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = self.number();
        self.take(len)
    }

    fn device(&mut self) -> Device {
        Device { major: self.number(), minor: self.number() }
    }

    fn action(&mut self, maps: &mut impl Iterator<Item = SparseMap>) -> Action {
        let tag = TAGS[usize::from(self.take(1)[0])];
        match tag {
            Tag::Dir => Action::Dir,
            Tag::File | Tag::Sparse => Action::File(Content {
                layer: self.number(),
                at: self.number(),
                size: self.number(),
                map: if tag == Tag::Sparse { maps.next().map(Box::new) } else { None },
            }),
            Tag::Symlink => Action::Symlink(self.bytes().into()),
            Tag::HardLink => Action::HardLink(self.bytes().into()),
            Tag::Char => Action::Char(self.device()),
            Tag::Block => Action::Block(self.device()),
            Tag::Fifo => Action::Fifo,
            Tag::Whiteout => Action::Whiteout,
            Tag::Opaque => Action::Opaque,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::Segment;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Box<[u8]>> {
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Into::into)
    }

    fn device() -> impl Strategy<Value = Device> {
        any::<(u32, u32)>().prop_map(|(major, minor)| Device { major, minor })
    }

    fn action() -> impl Strategy<Value = Action> {
        let map = proptest::option::of(any::<(u64, u64)>().prop_map(|(offset, len)| {
            Box::new(SparseMap { segments: vec![Segment { offset, len }], size: offset })
        }));
        let content = (any::<(u16, u64, u64)>(), map);
        let simple = [Action::Dir, Action::Fifo, Action::Whiteout, Action::Opaque];
        prop_oneof![
            proptest::sample::select(simple.to_vec()),
            content.prop_map(|((layer, at, size), map)| Action::File(Content { layer, at, size, map })),
            bytes().prop_map(Action::Symlink),
            bytes().prop_map(Action::HardLink),
            device().prop_map(Action::Char),
            device().prop_map(Action::Block),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        let sets = [None, Some("a"), Some("b")].map(|value| {
            value.map(|value| Arc::new(Xattrs::from([(b"user.x".to_vec(), value.as_bytes().to_vec())])))
        });
        (any::<(u16, u32, u32, u32)>(), proptest::sample::select(sets.to_vec()), action()).prop_map(
            |((mode, uid, gid, mtime), xattrs, action)| Record {
                attrs: Attrs { mode, uid, gid, mtime, xattrs },
                action,
            },
        )
    }

    /// The list that comes back for these.
    fn back(given: &[(String, Record)]) -> Vec<(String, Record)> {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = SpillWriter::new(dir.path()).unwrap();
        let mut records = EntryLog::default();
        for (path, record) in given {
            // The place of a file's content, between them.
            spill.append(b"content").unwrap();
            records.push(path.as_bytes(), record.clone(), &mut spill).unwrap();
        }
        let mut back = Vec::new();
        let put = |path: &[u8], record| {
            back.push((String::from_utf8(path.to_vec()).unwrap(), record));
            Ok::<(), FileError>(())
        };
        records.into_each(&spill.finish().unwrap(), dir.path(), put).unwrap();
        back
    }

    proptest! {
        #[test]
        fn what_went_in_comes_out(given in proptest::collection::vec(("[ab/]{0,12}", record()), 0..20)) {
            prop_assert_eq!(back(&given), given);
        }
    }

    #[test]
    fn what_is_put_aside_comes_out() {
        let long = |byte: char| String::from(byte).repeat(PIECE / 3);
        let given: Vec<_> = ('a'..='z')
            .flat_map(|name| [name.to_string(), long(name)])
            .map(|path| {
                let action = Action::Symlink(path.as_bytes().into());
                (path, Record { attrs: Attrs::of_missing_dir(), action })
            })
            .collect();
        assert_eq!(back(&given), given);
    }

    #[test]
    fn memory_does_not_grow_with_the_entries() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = SpillWriter::new(dir.path()).unwrap();
        let mut records = EntryLog::default();
        for number in 0..10_000 {
            let content = Content { layer: 3, at: number * 3000, size: 3000, map: None };
            let attrs = Attrs { mode: 0o644, mtime: 1_700_000_000, ..Attrs::of_missing_dir() };
            let path = format!("usr/lib/python3/dist-packages/{number:04}.py");
            let record = Record { attrs, action: Action::File(content) };
            records.push(path.as_bytes(), record, &mut spill).unwrap();
        }
        assert!(records.piece.capacity() < 3 * PIECE);
        assert!(spill.position() < 32 * 10_000, "{} bytes put aside", spill.position());
    }
}
