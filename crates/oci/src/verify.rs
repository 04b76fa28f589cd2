//! Content is what its descriptor says, or an error.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::error::ImageError;
use super::error::{Error, Result};
use super::source::{Blob, Source};
use vmette_cache::Digest;

/// Reads content, and fails at its end unless size and digest are the promised ones. Nothing past the promised size is
/// ever given.
pub struct Verified<R> {
    inner: R,
    /// The image, and its part, for messages.
    image: String,
    what: String,
    expected: Blob,
    read: u64,
    /// `None` once the content has been verified.
    hasher: Option<Sha256>,
}

impl<R: Read> Verified<R> {
    /// A reader of `what`, a part of `image`.
    pub fn new(inner: R, image: &str, what: &str, expected: Blob) -> Self {
        Self {
            inner,
            image: image.to_owned(),
            what: what.to_owned(),
            expected,
            read: 0,
            hasher: Some(Sha256::new()),
        }
    }

    /// The reader below.
    pub fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    fn refuse(&self, source: ImageError) -> io::Error {
        Error::Image { name: self.image.clone(), source }.into()
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(hasher) = &self.hasher else { return Ok(()) };
        let actual = Digest::finish(hasher.clone());
        if self.read != self.expected.size {
            return Err(self.refuse(ImageError::Size {
                what: self.what.clone(),
                expected: self.expected.size,
                actual: self.read,
            }));
        }
        if actual != self.expected.digest {
            return Err(self.refuse(ImageError::Digest {
                what: self.what.clone(),
                expected: self.expected.digest,
                actual,
            }));
        }
        // Only now: whoever reads on after an error gets the error again, not an end.
        self.hasher = None;
        Ok(())
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(hasher) = self.hasher.as_mut().filter(|_| !buffer.is_empty()) else { return Ok(0) };
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        if read == 0 || self.read > self.expected.size {
            self.finish()?;
            return Ok(0);
        }
        hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Reads a whole document of at most `max` bytes.
///
/// # Errors
/// It is longer, or not the promised one; its source's.
pub fn read_small(source: &dyn Source, blob: &Blob, max: u64, image: &str, what: &str) -> Result<Vec<u8>> {
    if blob.size > max {
        let what = what.to_owned();
        let source = ImageError::TooLarge { what, size: blob.size, limit: max };
        return Err(Error::Image { name: image.to_owned(), source });
    }
    let mut content = Vec::new();
    Verified::new(source.open(blob, 0)?, image, what, blob.clone())
        .read_to_end(&mut content)
        .map_err(|e| cause(e, image, what))?;
    Ok(content)
}

/// The failure of a reader of `what`.
fn cause(error: io::Error, image: &str, what: &str) -> Error {
    Error::of_reader(error)
        .unwrap_or_else(|source| Error::image(image)(ImageError::Read { what: what.to_owned(), source }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8], promised: &[u8], size: u64) -> io::Result<Vec<u8>> {
        let expected = Blob { digest: Digest::of(promised), size };
        let mut read = Vec::new();
        Verified::new(content, "name", "its layer", expected).read_to_end(&mut read).map(|_| read)
    }

    #[test]
    fn what_was_promised_passes() {
        assert_eq!(read(b"content", b"content", 7).unwrap(), b"content");
        assert_eq!(read(b"", b"", 0).unwrap(), b"");
    }

    #[test]
    fn anything_else_is_an_error() {
        for (content, size, reason) in [
            (&b"Content"[..], 7, "digest"),
            (b"conten", 7, "6 bytes, where 7"),
            (b"contents", 7, "8 bytes, where 7"),
            (b"content", 8, "7 bytes, where 8"),
            (b"content", 0, "bytes, where 0"),
        ] {
            let error = read(content, b"content", size).unwrap_err();
            let error = Error::of_reader(error).unwrap().to_string();
            assert!(error.starts_with("image name: its layer has ") && error.contains(reason), "{error}");
        }
    }
}
