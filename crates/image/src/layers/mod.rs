//! Layers, lowest first, become one squashfs image.
//!
//! Each layer is decompressed, verified and parsed by threads of its own; what its files hold goes into a nameless file
//! beside the image, and its entries are applied, in order, to a tree in memory. The tree is what extracting the layers
//! one after the other into an empty directory as root would give. It is then packed in the order of its names, so that
//! equal trees make equal images however their layers were cut. Nothing is ever extracted onto the host's file system.

mod apply;
mod content;
mod decode;
mod emit;
mod name;
mod path;
mod read;
mod record;
mod records;
mod resolve;
mod shape;
mod stream;
mod tree;
mod work;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use crate::context::Attempt;
use crate::digest::Digest;
use crate::error::{ProviderError, Result};
use crate::oci::ImageError;
use crate::sniff::FileKind;
use crate::tar::{ArchiveError, Budget};
use apply::Applier;
use content::Spill;
pub(crate) use decode::decoder;
use read::ReadLayer;
use tree::Tree;

/// Layers that are downloaded and read at once: enough to keep a network and two processors busy.
const AT_ONCE: usize = 3;

/// What opens a layer's bytes as they are stored. Called once, on another thread.
pub(crate) type Open<'a> = Box<dyn FnOnce() -> Result<Box<dyn Read + Send + 'a>> + Send + 'a>;

/// One layer, or an archive that is all of an image.
pub(crate) struct Layer<'a> {
    /// For messages: the archive's path, or the image and which layer of it.
    pub(crate) name: String,
    /// Is read to its end, also when the archive in it ends earlier: its last `read` may be where a digest is verified.
    /// When an error of the reader holds a [`ProviderError`], that is what the conversion fails with.
    pub(crate) open: Open<'a>,
    /// What it was compressed with; by its magic if None.
    pub(crate) compression: Option<FileKind>,
    /// Of its decompressed bytes. An archive without the mark of its end is let through only with it.
    pub(crate) diff_id: Option<Digest>,
}

/// How layers are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Whether names that begin with `.wh.` remove what lower layers have; and so whether these are layers of an image,
    /// for messages, or an archive.
    pub(crate) whiteouts: bool,
    /// Most bytes of all layers, decompressed, with holes of sparse files.
    pub(crate) max_bytes: u64,
    /// The variable that raises it, for messages.
    pub(crate) max_bytes_variable: &'static str,
}

/// What was converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Converted {
    /// Bytes of the files' content, each file once.
    pub(crate) unpacked: u64,
    /// Of the layers' decompressed bytes.
    pub(crate) diff_ids: Vec<Digest>,
}

/// Writes an image of the layers, whose readers should belong to the same attempt, to `staging`, which does not exist yet. Puts their files' content aside in the same
/// directory, in files without names. On an error `staging` may exist and is worthless.
///
/// # Errors
/// [`ProviderError::Archive`], or [`ProviderError::Image`] with whiteouts, of the layer that is at fault;
/// [`ProviderError::Cancelled`] within a piece of data or a file; what the layers' readers say; or the image cannot be
/// written.
pub(crate) fn convert(
    layers: Vec<Layer<'_>>,
    rules: Rules,
    ctx: &Attempt,
    staging: &Path,
) -> Result<Converted> {
    let Applied { tree, spills, diff_ids } = apply(layers, rules, ctx, staging.parent().unwrap_or(staging))?;
    let unpacked = emit::emit(tree, spills, rules, ctx, staging)?;
    Ok(Converted { unpacked, diff_ids })
}

/// What layers come to.
#[derive(Debug)]
struct Applied {
    tree: Tree,
    /// Of each layer.
    spills: Vec<Spill>,
    diff_ids: Vec<Digest>,
}

/// Reads all layers and applies them. Puts content aside in `dir`.
fn apply(layers: Vec<Layer<'_>>, rules: Rules, ctx: &Attempt, dir: &Path) -> Result<Applied> {
    let shared = Shared {
        rules,
        ctx,
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
        let ReadLayer { records, spill, diff_id } = layer;
        diff_ids.push(diff_id);
        records.into_each(&spill, dir, |path, record| {
            ctx.check_cancelled()?;
            applier.apply(index, path, record).map_err(|e| shared.layer_error(&name, e))
        })?;
        spills.push(spill);
        Ok(())
    });
    ctx.renew();
    let cause = shared.cause.into_inner().unwrap_or_else(PoisonError::into_inner);
    read.map_err(|e| cause.unwrap_or(e))?;
    Ok(Applied { tree: applier.into_tree(), spills, diff_ids })
}

/// What the threads of one conversion share.
struct Shared<'a> {
    rules: Rules,
    /// Fails when any of them does.
    ctx: &'a Attempt,
    /// Where content is put aside.
    dir: &'a Path,
    budget: Budget,
    /// Held while a stream is decompressed that takes much memory: one at a time, so that layers cannot add it up.
    large: Mutex<()>,
    /// What went wrong first.
    cause: Mutex<Option<ProviderError>>,
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
                        Err(_) => return Err(ProviderError::Other("a layer's reader has ended".to_owned())),
                    }
                };
                take(taken.0, taken.1).map_err(|e| self.give_up(e))?;
            }
            Ok(())
        })
    }

    /// Ends what all threads wait for, at once. They fail with what is returned here, whose cause is the first one's.
    fn give_up(&self, error: ProviderError) -> ProviderError {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.ctx.fail();
        ProviderError::Cancelled
    }

    /// What is said of this layer: the cause that its reader gave, or what is wrong with it.
    fn layer_error(&self, name: &str, error: ArchiveError) -> ProviderError {
        match error {
            ArchiveError::Read(e) => match e.downcast::<ProviderError>() {
                Ok(cause) => cause,
                Err(e) => match e.downcast::<ArchiveError>() {
                    Ok(cause) => self.named(name, cause),
                    Err(e) => self.named(name, ArchiveError::Read(e)),
                },
            },
            ArchiveError::Spill(e) => ProviderError::write(self.dir, emit::ASIDE)(e),
            other => self.named(name, other),
        }
    }

    fn named(&self, name: &str, source: ArchiveError) -> ProviderError {
        if self.rules.whiteouts {
            ProviderError::Image { name: name.to_owned(), source: ImageError::Layer(source) }
        } else {
            ProviderError::Archive { path: name.into(), source }
        }
    }
}

/// An error of a reader, with its cause in it.
fn reader_error(cause: ProviderError) -> io::Error {
    io::Error::other(cause)
}

#[cfg(test)]
pub(crate) mod tests;
