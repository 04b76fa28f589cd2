//! A file as it arrives: bounded, verified at its end, told of.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::context::Context;
use crate::digest::Digest;
use crate::error::ProviderError;
use crate::http::{Download, NetworkError};
use crate::oci::ImageError;
use crate::progress::{Item, PROGRESS_STEP, Progress};

/// The end comes only to who has read all of what was promised.
pub(super) struct Body {
    download: Download,
    /// For messages.
    shown: String,
    /// What has to come out, and what has so far.
    pin: Option<(Digest, Sha256)>,
    /// Most bytes, and the variable that raises it.
    limit: (u64, &'static str),
    done: u64,
    told: u64,
    ended: bool,
    ctx: Context,
}

impl Body {
    pub(super) fn new(
        download: Download,
        shown: String,
        pin: Option<Digest>,
        limit: (u64, &'static str),
        ctx: &Context,
    ) -> Result<Self, ProviderError> {
        let total = download.total();
        let body = Self {
            download,
            shown,
            pin: pin.map(|pin| (pin, Sha256::new())),
            limit,
            done: 0,
            told: 0,
            ended: false,
            ctx: ctx.clone(),
        };
        if total.is_some_and(|total| total > limit.0) {
            return Err(body.too_large());
        }
        ctx.progress(&Progress::Started { item: Item::File { name: &body.shown }, done: 0, total });
        Ok(body)
    }

    fn too_large(&self) -> ProviderError {
        let (max, variable) = self.limit;
        let remedy = format!("; raise {variable} if it is to be that large");
        NetworkError::TooLarge { url: self.shown.clone(), max, remedy }.into()
    }

    fn end(&mut self) -> Result<(), ProviderError> {
        if let Some((expected, hasher)) = self.pin.take() {
            let actual = Digest::finish(hasher);
            if actual != expected {
                let source = ImageError::Digest { what: "the file".to_owned(), expected, actual };
                return Err(ProviderError::Image { name: self.shown.clone(), source });
            }
        }
        self.ended = true;
        self.ctx.progress(&Progress::Finished { item: Item::File { name: &self.shown }, cached: false });
        Ok(())
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<(), ProviderError> {
        if let Some((_, hasher)) = &mut self.pin {
            hasher.update(bytes);
        }
        self.done += bytes.len() as u64;
        if self.done > self.limit.0 {
            return Err(self.too_large());
        }
        if self.done >= self.told + PROGRESS_STEP {
            self.told = self.done;
            let (done, total) = (self.done, self.download.total());
            self.ctx.progress(&Progress::Advanced { item: Item::File { name: &self.shown }, done, total });
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
        checked.map_err(io::Error::other)?;
        Ok(read)
    }
}
