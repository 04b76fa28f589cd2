//! One conversion: its layers, its rules, and the state that its threads share.

use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use vmette_cache::Digest;
use vmette_work::{Cancelled, Work};

use super::content::unwritable;
use super::error::ConvertError;
use crate::notes::Notes;
use crate::read_error::ReadError;
use crate::sniff::FileKind;
use crate::tar::{ArchiveError, Budget};

/// Opens a layer's bytes as they are stored. Called once, on another thread.
pub(crate) type Open<'a> = Box<dyn FnOnce() -> Result<Box<dyn Read + Send + 'a>, ReadError> + Send + 'a>;

/// One layer, or an archive that is all of an image.
pub(crate) struct Layer<'a> {
    /// For messages: the archive's path, or the image and which layer of it.
    pub(crate) name: String,
    /// Its bytes. They are read to their end, also if the archive in them ends earlier: the last `read` may verify a
    /// digest. A [`ReadError`] in an error of the reader is the conversion's failure.
    pub(crate) open: Open<'a>,
    /// Its compression; `None` to tell it by its magic.
    pub(crate) compression: Option<FileKind>,
    /// Digest of its decompressed bytes.
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

/// The state that the threads of one conversion share.
pub(super) struct Shared<'a> {
    pub(super) rules: Rules,
    /// Cancelled when any of them fails.
    pub(super) work: &'a Work,
    /// The directory that content is spilled to.
    pub(super) dir: &'a Path,
    pub(super) budget: Budget,
    pub(super) notes: Notes,
    /// Held while a stream is decompressed that takes much memory: one at a time, so that layers cannot add it up.
    pub(super) large: Mutex<()>,
    /// The first failure.
    pub(super) cause: Mutex<Option<ConvertError>>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(rules: Rules, work: &'a Work, dir: &'a Path) -> Self {
        let budget = Budget::new(rules.max_bytes, rules.max_bytes_variable);
        let notes = Notes::default();
        Self { rules, work, dir, budget, notes, large: Mutex::new(()), cause: Mutex::new(None) }
    }

    /// Ends the waits of all threads, at once. The conversion's failure is the first one that comes here.
    pub(super) fn give_up(&self, error: ConvertError) -> ConvertError {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.work.cancel().cancel();
        Cancelled.into()
    }

    /// The failure of this layer: its reader's, or a defect of its archive.
    pub(super) fn layer_error(&self, name: &str, error: ArchiveError) -> ConvertError {
        match error {
            ArchiveError::Read(e) => match ReadError::of(e) {
                ReadError::System(e) => self.named(name, ArchiveError::Read(e)),
                ReadError::Archive(defect) => self.named(name, defect),
                failure => failure.into(),
            },
            ArchiveError::Spill(e) => unwritable(self.dir)(e).into(),
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
