//! Why an image cannot be used.

use crate::digest::Digest;
use crate::image_config::Platform;
use crate::tar::ArchiveError;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Content is not what its digest says.
    #[error(
        "{what} has the digest {actual}, where {expected} was promised; it was damaged or exchanged on its way"
    )]
    Digest {
        /// Of what.
        what: String,
        /// As promised.
        expected: Digest,
        /// As it came.
        actual: Digest,
    },
    /// One of its layers is damaged, hostile, or holds something that an image cannot hold.
    #[error("a layer of it {0}")]
    Layer(#[source] ArchiveError),
    /// Content is longer or shorter than its descriptor says.
    #[error(
        "{what} has {actual} bytes, where {expected} were promised; it was damaged or exchanged on its way"
    )]
    Size {
        /// Of what.
        what: String,
        /// As promised.
        expected: u64,
        /// As it came, or as far as it was read.
        actual: u64,
    },
    /// Larger than is let through.
    #[error("{what} has {size} bytes, and {limit} is the most that is let through")]
    TooLarge {
        /// What.
        what: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// All layers together are larger than is let through.
    #[error("its layers have {size} bytes; if you trust it, {variable}=BYTES raises the limit of {limit}")]
    LayersTooLarge {
        /// Their compressed size.
        size: u64,
        /// The limit.
        limit: u64,
        /// The variable that sets it.
        variable: &'static str,
    },
    /// The system or a server does not give what it has.
    #[error("{what} cannot be read: {source}")]
    Read {
        /// What.
        what: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A manifest, index or configuration makes no sense.
    #[error("{what} is malformed: {problem}")]
    Malformed {
        /// Which.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// A manifest of the format before 2016.
    #[error(
        "it is kept as Docker schema 1, a format from before 2016 whose layers cannot be verified; push it again with a \
         present-day tool"
    )]
    Schema1,
    /// A media type that cannot be part of an image that is run here.
    #[error("{what} is of the type {media_type:?}, {why}")]
    MediaType {
        /// What.
        what: String,
        /// As it says itself.
        media_type: String,
        /// Why that does not do.
        why: &'static str,
    },
    /// For another machine.
    #[error(
        "it is for {image}, and the guest of this machine is {guest}; choose an image for {guest}, a tag that has one, or a \
         machine of the other kind"
    )]
    Platform {
        /// What the image says.
        image: Box<Platform>,
        /// What it would run on.
        guest: Box<Platform>,
    },
    /// No image of an index is for this machine.
    #[error("it has nothing for {guest}, which the guest of this machine is; it has {has}")]
    NothingFits {
        /// What it would run on.
        guest: Platform,
        /// What there is.
        has: String,
    },
    /// A layout or archive has no image of that name, or several and no name was given.
    #[error("{problem}; it has {has}")]
    Choose {
        /// What was asked for, and why that does not say which one.
        problem: String,
        /// The names that there are.
        has: String,
    },
    /// Something that the image refers to is not there.
    #[error("{what} is missing: {problem}")]
    Missing {
        /// What.
        what: String,
        /// Where it was looked for.
        problem: String,
    },
}

/// Characters of a text from outside that a message shows.
const SHOWN_MAX: usize = 200;

/// A text from an image or a server as a message may have it: cut, and without escape sequences for the terminal.
pub(super) fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_default).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        cut.push('…');
    }
    cut
}

/// A list as a message may have it.
pub(super) fn listed(items: impl IntoIterator<Item = String>) -> String {
    /// More would not be read.
    const ITEMS_MAX: usize = 20;
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort();
    items.dedup();
    let more = items.len().saturating_sub(ITEMS_MAX);
    items.truncate(ITEMS_MAX);
    match (items.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (_, 0) => items.join(", "),
        (_, more) => format!("{} and {more} more", items.join(", ")),
    }
}
