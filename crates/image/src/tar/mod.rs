//! Tar archives, read strictly: owners by number, modes, times to the second, hard links, extended attributes, device
//! nodes. Everything that an image could not keep exactly as it is is refused.

mod budget;
mod entry;
mod error;
mod pax;
mod source;
mod sparse;

pub(crate) use budget::{Budget, ENTRIES_MAX};
pub(crate) use entry::{End, Entry, Kind, next};
pub(crate) use error::shown;
pub use error::{ArchiveError, Refusal};
pub(crate) use source::Source;
pub(crate) use sparse::{Segment, SparseMap};
