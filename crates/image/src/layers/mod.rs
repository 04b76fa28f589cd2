//! Layers, lowest first, become one squashfs image.
//!
//! Each layer is decompressed, verified and parsed by threads of its own; the content of its files goes into a nameless
//! file beside the image, and its entries are applied, in order, to a tree in memory. The tree equals the directory that
//! extracting the layers one after the other as root would give. It is then packed in the order of its names, so that
//! equal trees make equal images however their layers were cut. Nothing is ever extracted onto the host's file system.

mod apply;
mod content;
mod conversion;
mod decode;
mod emit;
mod entry_log;
mod error;
mod gzip;
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
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use vmette_cache::Digest;
use vmette_work::Work;

use crate::notes::Notes;
use crate::store::{Description, ImageKind};
use crate::tar::ArchiveError;
use apply::Applier;
use content::SpillFile;
use conversion::Shared;
pub(crate) use conversion::{Layer, Rules};
pub(crate) use decode::decoder;
pub use decode::first_stream;
pub(crate) use error::ConvertError;
use read::ReadLayer;
pub use shape::Unpackable;
use tree::Tree;

/// Layers that are downloaded and read at once: enough to keep a network and two processors busy.
const AT_ONCE: usize = 3;

type Result<T> = std::result::Result<T, ConvertError>;

/// Facts about a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Converted {
    /// Bytes of the files' content, each file once.
    pub(crate) unpacked: u64,
    /// Digests of the layers' decompressed bytes.
    pub(crate) diff_ids: Vec<Digest>,
    /// Lines on what was mended or left out.
    pub(crate) notes: Vec<String>,
}

impl Converted {
    /// The description of a root file system that declares nothing.
    pub(crate) fn describe(self, kind: ImageKind, source: String) -> Description {
        Description { notes: self.notes, ..Description::of_rootfs(kind, source, self.unpacked) }
    }
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
    let Applied { tree, spills, diff_ids, notes } =
        apply(layers, rules, work, staging.parent().unwrap_or(staging))?;
    let unpacked = emit::emit(tree, spills, rules, work, staging)?;
    Ok(Converted { unpacked, diff_ids, notes: notes.lines() })
}

/// The result of all layers.
#[derive(Debug)]
struct Applied {
    tree: Tree,
    /// The content of each layer's files.
    spills: Vec<SpillFile>,
    diff_ids: Vec<Digest>,
    notes: Notes,
}

/// Reads all layers and applies them. Spills content to `dir`.
fn apply(layers: Vec<Layer<'_>>, rules: Rules, work: &Work, dir: &Path) -> Result<Applied> {
    let shared = Shared::new(rules, work, dir);
    let mut applier = Applier::new(&shared.notes);
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
    let tree = applier.into_tree();
    let cause = shared.cause.into_inner().unwrap_or_else(PoisonError::into_inner);
    read.map_err(|e| cause.unwrap_or(e))?;
    Ok(Applied { tree, spills, diff_ids, notes: shared.notes })
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
}

#[cfg(test)]
pub(crate) mod tests;
