//! Tar archives: owners by number, modes, times to the second, hard links, extended attributes, device nodes. What the
//! engines of containers take is taken; what an image cannot keep of it is noted.

mod budget;
mod entry;
mod error;
mod pax;
mod source;
mod sparse;

pub(crate) use budget::{Budget, ENTRIES_MAX};
pub(crate) use entry::{Entry, Kind, next};
pub(crate) use error::shown;
pub use error::{ArchiveError, Refusal};
pub(crate) use source::Source;
pub(crate) use sparse::{Segment, SparseMap};
