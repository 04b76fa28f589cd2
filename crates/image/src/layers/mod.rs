//! Layers, lowest first, become one squashfs image.
//!
//! Each layer is decompressed, verified and parsed by threads of its own; the content of its files goes into a nameless
//! file beside the image, and its entries are applied, in order, to a tree in memory. The tree equals the directory that
//! extracting the layers one after the other as root would give. It is then packed in the order of its names, so that
//! equal trees make equal images however their layers were cut. Nothing is ever extracted onto the host's file system.

mod apply;
mod content;
mod decode;
mod emit;
mod entry_log;
mod error;
mod name;
mod path;
mod read;
mod record;
mod resolve;
mod shape;
mod steps;
mod stream;
mod tree;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use vmette_cache::Digest;
use vmette_work::{Cancelled, Work};

use crate::read_error::ReadError;
use crate::sniff::FileKind;
use crate::tar::{ArchiveError, Budget};
use apply::Applier;
use content::SpillFile;
pub(crate) use decode::decoder;
pub use decode::first_stream;
pub(crate) use error::ConvertError;
use read::ReadLayer;
pub use shape::Unpackable;
use tree::Tree;

/// Layers that are downloaded and read at once: enough to keep a network and two processors busy.
const AT_ONCE: usize = 3;

type Result<T> = std::result::Result<T, ConvertError>;

/// Opens a layer's bytes as they are stored. Called once, on another thread.
pub(crate) type Open<'a> =
    Box<dyn FnOnce() -> std::result::Result<Box<dyn Read + Send + 'a>, ReadError> + Send + 'a>;

/// One layer, or an archive that is all of an image.
pub(crate) struct Layer<'a> {
    /// For messages: the archive's path, or the image and which layer of it.
    pub(crate) name: String,
    /// Its bytes. They are read to their end, also if the archive in them ends earlier: the last `read` may verify a
    /// digest. A [`ReadError`] in an error of the reader is the conversion's failure.
    pub(crate) open: Open<'a>,
    /// Its compression; `None` to tell it by its magic.
    pub(crate) compression: Option<FileKind>,
    /// Digest of its decompressed bytes. Only with it is an archive without the mark of its end let through.
    pub(crate) diff_id: Option<Digest>,
}

/// Rules for reading layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Names that begin with `.wh.` remove names of lower layers: these are layers of an image, and not an archive.
    pub(crate) whiteouts: bool,
    /// Most bytes of all layers, decompressed, with holes of sparse files.
    pub(crate) max_bytes: u64,
    /// The variable that raises it, for messages.
    pub(crate) max_bytes_variable: &'static str,
}

/// Facts about a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Converted {
    /// Bytes of the files' content, each file once.
    pub(crate) unpacked: u64,
    /// Digests of the layers' decompressed bytes.
    pub(crate) diff_ids: Vec<Digest>,
}

/// Writes an image of the layers to `staging`, which does not exist yet. Spills the content of their files to the same
/// directory, in files without names. On an error `staging` may exist and is worthless.
///
/// `work` is this conversion's own: a layer that fails cancels it, which ends the waits of all readers of layers that
/// belong to it.
///
/// # Errors
/// The first cause: [`ConvertError::Archive`], or [`ConvertError::Layer`] with whiteouts, of the layer that is at fault;
/// the failure of a layer's reader; the image cannot be written.
pub(crate) fn convert(
    layers: Vec<Layer<'_>>,
    rules: Rules,
    work: &Work,
    staging: &Path,
) -> Result<Converted> {
    let Applied { tree, spills, diff_ids } = apply(layers, rules, work, staging.parent().unwrap_or(staging))?;
    let unpacked = emit::emit(tree, spills, rules, work, staging)?;
    Ok(Converted { unpacked, diff_ids })
}

/// The result of all layers.
#[derive(Debug)]
struct Applied {
    tree: Tree,
    /// The content of each layer's files.
    spills: Vec<SpillFile>,
    diff_ids: Vec<Digest>,
}

/// Reads all layers and applies them. Spills content to `dir`.
fn apply(layers: Vec<Layer<'_>>, rules: Rules, work: &Work, dir: &Path) -> Result<Applied> {
    let shared = Shared {
        rules,
        work,
        dir,
        budget: Budget::new(rules.max_bytes, rules.max_bytes_variable),
        large: Mutex::new(()),
        cause: Mutex::new(None),
    };
    let mut applier = Applier::new();
    let (mut spills, mut diff_ids) = (Vec::new(), Vec::new());
    let read = shared.read_all(layers, |name, layer| {
        let index = u16::try_from(spills.len()).map_err(|_| {
            shared.layer_error(&name, ArchiveError::TooMany { what: "layers", limit: u16::MAX.into() })
        })?;
        let ReadLayer { entries, spill, diff_id } = layer;
        diff_ids.push(diff_id);
        entries.into_each(&spill, dir, |path, record| {
            work.check()?;
            applier.apply(index, path, record).map_err(|e| shared.layer_error(&name, e))
        })?;
        spills.push(spill);
        Ok(())
    });
    let cause = shared.cause.into_inner().unwrap_or_else(PoisonError::into_inner);
    read.map_err(|e| cause.unwrap_or(e))?;
    Ok(Applied { tree: applier.into_tree(), spills, diff_ids })
}

/// The state that the threads of one conversion share.
struct Shared<'a> {
    rules: Rules,
    /// Cancelled when any of them fails.
    work: &'a Work,
    /// The directory that content is spilled to.
    dir: &'a Path,
    budget: Budget,
    /// Held while a stream is decompressed that takes much memory: one at a time, so that layers cannot add it up.
    large: Mutex<()>,
    /// The first failure.
    cause: Mutex<Option<ConvertError>>,
}

impl Shared<'_> {
    /// Reads the layers, several at once, and gives them to `take` in order.
    fn read_all(
        &self,
        layers: Vec<Layer<'_>>,
        mut take: impl FnMut(String, ReadLayer) -> Result<()>,
    ) -> Result<()> {
        let count = layers.len();
        let queue = Mutex::new(layers.into_iter().enumerate());
        let (done, results) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..count.min(AT_ONCE) {
                let (queue, done) = (&queue, done.clone());
                scope.spawn(move || {
                    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    while let Some((index, layer)) = next() {
                        let name = layer.name.clone();
                        let read = read::read(layer, self);
                        let failed = read.is_err();
                        // Nobody listens any more when another layer has failed.
                        if done.send((index, name, read)).is_err() || failed {
                            return;
                        }
                    }
                });
            }
            drop(done);
            let mut early = BTreeMap::new();
            for next in 0..count {
                let taken = loop {
                    if let Some(layer) = early.remove(&next) {
                        break layer;
                    }
                    match results.recv() {
                        Ok((index, name, Ok(layer))) => drop(early.insert(index, (name, layer))),
                        Ok((.., Err(e))) => return Err(self.give_up(e)),
                        // A thread has panicked, which the scope passes on.
                        Err(_) => return Err(ConvertError::ReaderEnded),
                    }
                };
                take(taken.0, taken.1).map_err(|e| self.give_up(e))?;
            }
            Ok(())
        })
    }

    /// Ends the waits of all threads, at once. The conversion's failure is the first one that comes here.
    fn give_up(&self, error: ConvertError) -> ConvertError {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.work.cancel().cancel();
        Cancelled.into()
    }

    /// The failure of this layer: its reader's, or a defect of its archive.
    fn layer_error(&self, name: &str, error: ArchiveError) -> ConvertError {
        match error {
            ArchiveError::Read(e) => match ReadError::of(e) {
                ReadError::System(e) => self.named(name, ArchiveError::Read(e)),
                ReadError::Archive(defect) => self.named(name, defect),
                failure => failure.into(),
            },
            ArchiveError::Spill(e) => emit::unwritable(self.dir)(e).into(),
            defect => self.named(name, defect),
        }
    }

    fn named(&self, name: &str, source: ArchiveError) -> ConvertError {
        let name = name.to_owned();
        if self.rules.whiteouts {
            ConvertError::Layer { name, source }
        } else {
            ConvertError::Archive { name, source }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
