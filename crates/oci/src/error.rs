//! Failures of images and of their sources.

use std::io;
use std::path::PathBuf;

use vmette_cache::Digest;
use vmette_http::NetworkError;
use vmette_work::Cancelled;

use crate::image_config::Platform;
use crate::reference::BadReference;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image cannot be had. A reader of content carries it inside of an `io::Error`, from which
/// [`of_reader`](Self::of_reader) takes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller has given up.
    #[error("cancelled")]
    Cancelled(#[from] Cancelled),
    /// The registry cannot be asked.
    #[error(transparent)]
    Http(vmette_http::Error),
    /// An image is damaged, hostile, or not one that can be run here.
    #[error("image {name}: {source}")]
    Image {
        /// The image, as the caller named it.
        name: String,
        /// The defect.
        #[source]
        source: ImageError,
    },
    /// A name that no image can have.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// A file of an image cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A file or folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {source}", path = .path.display())]
pub struct FileError {
    /// The action that failed: `cannot open`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: names the action, and its file.
    pub fn new(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { what, path, source }
    }
}

impl Error {
    /// For `map_err`: names the image.
    pub fn image(name: &str) -> impl FnOnce(ImageError) -> Self {
        move |source| Self::Image { name: name.to_owned(), source }
    }

    /// The failure that an error of reading carries, or the error as it is.
    ///
    /// # Errors
    /// The error carries none: it is the system's.
    pub fn of_reader(error: io::Error) -> std::result::Result<Self, io::Error> {
        error.downcast().or_else(|error| vmette_http::Error::of_reader(error).map(Self::from))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

impl From<vmette_http::Error> for Error {
    fn from(error: vmette_http::Error) -> Self {
        match error {
            vmette_http::Error::Cancelled(cancelled) => Self::Cancelled(cancelled),
            error => Self::Http(error),
        }
    }
}

impl From<NetworkError> for Error {
    fn from(error: NetworkError) -> Self {
        Self::Http(error.into())
    }
}

/// A defect of an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Content is not what its digest says.
    #[error(
        "{what} has the digest {actual}, where {expected} was promised; it was damaged or exchanged on its way"
    )]
    Digest {
        /// The content.
        what: String,
        /// The promised digest.
        expected: Digest,
        /// The digest of the bytes that came.
        actual: Digest,
    },
    /// Content is longer or shorter than its descriptor says.
    #[error(
        "{what} has {actual} bytes, where {expected} were promised; it was damaged or exchanged on its way"
    )]
    Size {
        /// The content.
        what: String,
        /// The promised size in bytes.
        expected: u64,
        /// The bytes that came, or as many as were read.
        actual: u64,
    },
    /// Larger than is let through.
    #[error("{what} has {size} bytes, and {limit} is the most that is let through")]
    TooLarge {
        /// The content.
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
        /// The content.
        what: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A manifest, index or configuration makes no sense.
    #[error("{what} is malformed: {problem}")]
    Malformed {
        /// The document.
        what: String,
        /// The defect.
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
        /// The content.
        what: String,
        /// The type that it names.
        media_type: String,
        /// The reason for refusing it.
        why: &'static str,
    },
    /// For another machine.
    #[error(
        "it is for {image}, and the guest of this machine is {guest}; choose an image for {guest}, a tag that has one, or a \
         machine of the other kind"
    )]
    Platform {
        /// The image's platform.
        image: Box<Platform>,
        /// The platform of this machine's guests.
        guest: Box<Platform>,
    },
    /// No image of an index is for this machine.
    #[error("it has nothing for {guest}, which the guest of this machine is; it has {has}")]
    NothingFits {
        /// The platform of this machine's guests.
        guest: Platform,
        /// The platforms that there are.
        has: String,
    },
    /// A layout or archive has no image of that name, or several and no name was given.
    #[error("{problem}; it has {has}")]
    Choose {
        /// The request, and why it does not say which image is meant.
        problem: String,
        /// The names that there are.
        has: String,
    },
    /// Something that the image refers to is not there.
    #[error("{what} is missing: {problem}")]
    Missing {
        /// The content.
        what: String,
        /// The place where it is not.
        problem: String,
    },
}

/// Characters of a text from outside that a message shows.
const SHOWN_MAX: usize = 200;

/// A text from an image or a server, made fit for a message.
#[must_use]
pub fn shown(text: &str) -> String {
    vmette_work::printable(text, SHOWN_MAX)
}

/// A list, made fit for a message.
pub fn listed(items: impl IntoIterator<Item = String>) -> String {
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
