//! A file as it arrives: bounded, verified at its end, reported.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use vmette_cache::Digest;
use vmette_http::{Download, NetworkError};
use vmette_oci::ImageError;
use vmette_work::{Item, PROGRESS_STEP, Progress, Work};

use crate::read_error::ReadError;

/// Reads a file. Its end is verified.
pub(super) struct Body {
    download: Download,
    /// The spec, for messages.
    shown: String,
    /// The promised digest, and the hash of the bytes so far.
    pin: Option<(Digest, Sha256)>,
    /// Most bytes, and the variable that raises it.
    limit: (u64, &'static str),
    done: u64,
    told: u64,
    ended: bool,
    work: Work,
}

impl Body {
    pub(super) fn new(
        download: Download,
        shown: String,
        pin: Option<Digest>,
        limit: (u64, &'static str),
        work: &Work,
    ) -> Result<Self, NetworkError> {
        let total = download.total();
        let body = Self {
            download,
            shown,
            pin: pin.map(|pin| (pin, Sha256::new())),
            limit,
            done: 0,
            told: 0,
            ended: false,
            work: work.clone(),
        };
        if total.is_some_and(|total| total > limit.0) {
            return Err(body.too_large());
        }
        work.tell(&Progress::Started { item: Item::File { name: &body.shown }, done: 0, total });
        Ok(body)
    }

    fn too_large(&self) -> NetworkError {
        let (max, variable) = self.limit;
        let remedy = format!("; raise {variable} if it is to be that large");
        NetworkError::TooLarge { url: self.shown.clone(), max, remedy }
    }

    fn end(&mut self) -> Result<(), ReadError> {
        if let Some((expected, hasher)) = self.pin.take() {
            let actual = Digest::finish(hasher);
            if actual != expected {
                let source = ImageError::Digest { what: "the file".to_owned(), expected, actual };
                return Err(vmette_oci::Error::image(&self.shown)(source).into());
            }
        }
        self.ended = true;
        self.work.tell(&Progress::Finished { item: Item::File { name: &self.shown }, cached: false });
        Ok(())
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        if let Some((_, hasher)) = &mut self.pin {
            hasher.update(bytes);
        }
        self.done += bytes.len() as u64;
        if self.done > self.limit.0 {
            return Err(vmette_http::Error::from(self.too_large()).into());
        }
        if self.done >= self.told + PROGRESS_STEP {
            self.told = self.done;
            let (done, total) = (self.done, self.download.total());
            self.work.tell(&Progress::Advanced { item: Item::File { name: &self.shown }, done, total });
        }
        Ok(())
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ended || buf.is_empty() {
            return Ok(0);
        }
        let read = self.download.read(buf)?;
        let checked = if read == 0 { self.end() } else { self.advance(&buf[..read]) };
        checked?;
        Ok(read)
    }
}
