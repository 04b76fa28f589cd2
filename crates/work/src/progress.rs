//! Progress: messages of work that goes on.

use std::fmt;
use std::sync::Arc;

use crate::{Cancel, Cancelled};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A step begins that takes long enough for a person to wonder: one short line.
    Step(&'a str),
    /// Something that the user should know, though the work goes on: one line.
    Warning(&'a str),
    /// A download begins, or resumes at `done` bytes.
    Started {
        /// The thing that is downloaded.
        item: Item<'a>,
        /// Bytes that are there already.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// More of it has arrived. At most every [`PROGRESS_STEP`] bytes.
    Advanced {
        /// The thing that is downloaded.
        item: Item<'a>,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// It is complete and verified.
    Finished {
        /// The thing that was downloaded.
        item: Item<'a>,
        /// True if it was in the cache, so that nothing was downloaded.
        cached: bool,
    },
}

/// Bytes between two [`Progress::Advanced`].
pub const PROGRESS_STEP: u64 = 256 << 10;

/// Something that is downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Item<'a> {
    /// A layer of an image.
    Layer {
        /// The digest of its compressed bytes, as `sha256:…`.
        digest: &'a str,
        /// Its place, from 0, the lowest.
        index: usize,
        /// Layers in all.
        count: usize,
    },
    /// The file that a URL names.
    File {
        /// The URL without its secrets.
        name: &'a str,
    },
}

/// Receives [`Progress`]. Called from several threads at once; must not block for long.
pub type Reporter = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

/// Something that takes time: how its owner ends it, and whom it tells. Cheap to clone; clones are the same work.
#[derive(Clone, Default)]
pub struct Work {
    cancel: Cancel,
    reporter: Option<Reporter>,
}

impl Work {
    /// Work that tells nobody, and that this token ends.
    #[must_use]
    pub fn new(cancel: Cancel) -> Self {
        Self { cancel, reporter: None }
    }

    /// Work that nobody ends and that tells nobody: for what takes no time.
    #[must_use]
    pub fn quiet() -> Self {
        Self::default()
    }

    /// Tells `reporter`.
    #[must_use]
    pub fn reporting(self, reporter: Reporter) -> Self {
        Self { reporter: Some(reporter), ..self }
    }

    /// A part of this work that may be cancelled by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { cancel: self.cancel.child(), reporter: self.reporter.clone() }
    }

    /// The token that ends it.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// For loops over data.
    ///
    /// # Errors
    /// [`Cancelled`] once its owner has given it up.
    pub fn check(&self) -> Result<(), Cancelled> {
        self.cancel.check()
    }

    /// Tells that a step begins.
    pub fn step(&self, line: &str) {
        self.tell(&Progress::Step(line));
    }

    /// Tells something that the user should know.
    pub fn warn(&self, line: &str) {
        self.tell(&Progress::Warning(line));
    }

    /// Tells the reporter.
    pub fn tell(&self, progress: &Progress<'_>) {
        if let Some(reporter) = &self.reporter {
            reporter(progress);
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_part_tells_the_same_reporter_and_ends_alone() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = lines.clone();
        let work = Work::quiet()
            .reporting(Arc::new(move |progress| heard.lock().unwrap().push(format!("{progress:?}"))));
        let part = work.child();
        part.step("one");
        part.warn("two");
        part.cancel().cancel();
        assert_eq!(part.check(), Err(Cancelled));
        assert_eq!(work.check(), Ok(()));
        assert_eq!(*lines.lock().unwrap(), ["Step(\"one\")", "Warning(\"two\")"]);
    }
}
