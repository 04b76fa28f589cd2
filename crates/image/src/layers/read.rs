//! One layer: from its stored bytes to its entries and their content.

use std::io::{self, BufRead, Read};
use std::sync::PoisonError;
use std::thread;

use sha2::{Digest as _, Sha256};
use vmette_cache::Digest;
use vmette_oci::ImageError;

use super::content::{Content, SpillFile, SpillWriter};
use super::conversion::{Layer, Shared};
use super::decode::{Memory, decoder_within};
use super::entry_log::EntryLog;
use super::error::ConvertError;
use super::path::{self, Name};
use super::record::{Action, Attrs, Record, XattrSets};
use super::stream::{Chunks, Pump, read_buffered, stream};

use crate::notes::Note;
use crate::read_error::ReadError;
use crate::sniff::FileKind;
use crate::tar::{self, ArchiveError, Entry, Kind, Refusal, Source};

type Result<T> = std::result::Result<T, ConvertError>;

/// A layer that was read.
pub(super) struct ReadLayer {
    pub(super) entries: EntryLog,
    pub(super) spill: SpillFile,
    pub(super) diff_id: Digest,
}

/// Reads the layer. One thread reads its stored bytes, one decompresses them, and this one does the rest.
pub(super) fn read(layer: Layer<'_>, shared: &Shared<'_>) -> Result<ReadLayer> {
    let Layer { name, open, compression, diff_id: expected } = layer;
    let (entries, spill, diff_id) = thread::scope(|scope| {
        let (pump, stored) = stream();
        scope.spawn(move || match open() {
            Ok(reader) => pump.all(reader),
            Err(e) => pump.fail(e.into()),
        });
        let (pump, plain) = stream();
        scope.spawn(move || decompress(stored, compression, shared, pump));
        let bytes = HashedReader { inner: plain, hasher: Sha256::new(), shared };
        // The scope waits for its threads, of which one may wait for a server that has nothing more to say.
        let mut source = Source::new(bytes, &shared.budget, &shared.notes);
        let parsed = parse(&mut source, shared, &name).map_err(|e| shared.give_up(e))?;
        // With a digest it is known to be complete.
        if expected.is_none() && !source.is_marked() {
            shared.notes.add(Note::NoEnd);
        }
        Ok::<_, ConvertError>(parsed)
    })?;
    match expected {
        Some(expected) if expected != diff_id => {
            let what = "a layer of it, decompressed,".to_owned();
            let source = ImageError::Digest { what, expected, actual: diff_id };
            Err(ConvertError::DiffId { name, source })
        }
        _ => Ok(ReadLayer { entries, spill, diff_id }),
    }
}

/// Sends all of the decompressed bytes, and then the end or an error.
fn decompress(mut stored: Chunks, compression: Option<FileKind>, shared: &Shared<'_>, to: Pump) {
    let head = match stored.fill_buf() {
        Ok(head) => head,
        Err(e) => return to.fail(e),
    };
    let kind = compression.unwrap_or_else(|| FileKind::of_bytes(head));
    let memory = Memory::of(kind, head);
    let _alone = match memory {
        Memory::Small => None,
        Memory::Large => Some(shared.large.lock().unwrap_or_else(PoisonError::into_inner)),
    };
    match decoder_within(stored, kind, memory) {
        Ok(reader) => to.all(reader),
        Err(e) => to.fail(ReadError::from(e).into()),
    }
}

fn parse(
    source: &mut Source<'_, HashedReader<'_>>,
    shared: &Shared<'_>,
    name: &str,
) -> Result<(EntryLog, SpillFile, Digest)> {
    let refused = |e| shared.layer_error(name, e);
    let mut reader = Reader {
        shared,
        entries: EntryLog::default(),
        xattrs: XattrSets::default(),
        spill: SpillWriter::new(shared.dir).map_err(|e| refused(ArchiveError::Spill(e)))?,
    };
    let mut any = false;
    while let Some(entry) = tar::next(source).map_err(refused)? {
        any = true;
        reader.take(entry, source).map_err(refused)?;
    }
    // An image may have a layer that changes nothing.
    if !any && !shared.rules.whiteouts {
        return Err(refused(ArchiveError::Empty));
    }
    let spill = reader.spill.finish().map_err(|e| refused(ArchiveError::Spill(e)))?;
    Ok((reader.entries, spill, source.get_ref().digest()))
}

struct Reader<'a> {
    shared: &'a Shared<'a>,
    entries: EntryLog,
    xattrs: XattrSets,
    spill: SpillWriter,
}

impl Reader<'_> {
    fn take(
        &mut self,
        entry: Entry,
        source: &mut Source<'_, HashedReader<'_>>,
    ) -> std::result::Result<(), ArchiveError> {
        let Entry { path: given, meta, kind } = entry;
        let budget = source.budget();
        let normal = path::normal(&given).map_err(|e| e.of(&given))?;
        let attrs = Attrs {
            // Twelve bits.
            mode: u16::try_from(meta.mode).map_err(|_| Refusal::Number { field: "mode" }.of(&given))?,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            xattrs: self.xattrs.keep(meta.xattrs, budget)?,
        };
        let (path, action) =
            match path::name(&normal, self.shared.rules.whiteouts).map_err(|e| e.of(&given))? {
                // Whatever it is: the name alone counts.
                Name::Whiteout(path) => (path, self.pass_over(kind, Action::Whiteout, source)?),
                Name::Opaque(path) => (path.to_vec(), self.pass_over(kind, Action::Opaque, source)?),
                Name::Ordinary => {
                    let action = self.action(&given, kind, source)?;
                    (normal, action)
                }
            };
        let target = match &action {
            Action::Symlink(target) | Action::HardLink(target) => target.len(),
            _ => 0,
        };
        let record = Record { attrs, action };
        let kept = self.entries.push(&path, record, &mut self.spill).map_err(ArchiveError::Spill)?;
        budget.names(kept + target)
    }

    /// The action of an entry whose content does not matter.
    fn pass_over(
        &self,
        kind: Kind,
        action: Action,
        source: &mut Source<'_, HashedReader<'_>>,
    ) -> std::result::Result<Action, ArchiveError> {
        match kind {
            Kind::File(size) => source.skip(size)?,
            Kind::Sparse { map, content } => {
                source.copy(map.content(), |_| Ok(()))?;
                source.padding(content)?;
            }
            _ => {}
        }
        Ok(action)
    }

    fn action(
        &mut self,
        path: &[u8],
        kind: Kind,
        source: &mut Source<'_, HashedReader<'_>>,
    ) -> std::result::Result<Action, ArchiveError> {
        Ok(match kind {
            Kind::Dir => Action::Dir,
            Kind::Symlink(target) => {
                path::check_symlink(&target).map_err(|e| e.of(path))?;
                Action::Symlink(target.into())
            }
            Kind::HardLink(target) => {
                let refuse = |_| Refusal::HardLink { target: tar::shown(&target) }.of(path);
                Action::HardLink(path::normal(&target).map_err(refuse)?.into())
            }
            Kind::Char(device) => Action::Char(device),
            Kind::Block(device) => Action::Block(device),
            Kind::Fifo => Action::Fifo,
            Kind::File(size) => {
                let at = self.spill.position();
                self.copy(size, source)?;
                source.padding(size)?;
                Action::File(Content { layer: 0, at, size, map: None })
            }
            Kind::Sparse { map, content } => {
                source.budget().bytes(map.size - map.content())?;
                source.budget().pieces(map.segments.len())?;
                let at = self.spill.position();
                self.copy(map.content(), source)?;
                source.padding(content)?;
                Action::File(Content { layer: 0, at, size: map.size, map: Some(Box::new(map)) })
            }
        })
    }

    fn copy(
        &mut self,
        len: u64,
        source: &mut Source<'_, HashedReader<'_>>,
    ) -> std::result::Result<(), ArchiveError> {
        source.copy(len, |bytes| self.spill.append(bytes).map_err(ArchiveError::Spill))
    }
}

/// Decompressed bytes, hashed as they are consumed. Reading them fails once the conversion is cancelled.
struct HashedReader<'a> {
    inner: Chunks,
    hasher: Sha256,
    shared: &'a Shared<'a>,
}

impl HashedReader<'_> {
    fn digest(&self) -> Digest {
        Digest::finish(self.hasher.clone())
    }
}

impl BufRead for HashedReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.shared.work.check()?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // The bytes are in the buffer already.
        if let Ok(there) = self.inner.fill_buf() {
            self.hasher.update(&there[..amount]);
        }
        self.inner.consume(amount);
    }
}

impl Read for HashedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}
