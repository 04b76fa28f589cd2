//! The archive's decompressed bytes, counted.

use std::fs::File;
use std::io::{self, BufReader, Read};

use super::error::ArchiveError;
use crate::sniff::FileKind;

/// Length of a tar block.
pub(super) const BLOCK: usize = 512;
/// Most memory that an xz stream may ask for, in bytes: `xz -9` asks for 65 MiB, the format lets it ask for 4 GiB.
const XZ_MEMORY_MAX: u64 = 256 << 20;
/// Largest zstd window, as a power of two: `zstd --ultra -22`, and what other tools take without being told to.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

type Result<T> = std::result::Result<T, ArchiveError>;

/// Undoes the compression that the file's magic says.
pub(super) fn decoder(file: File, kind: FileKind) -> Result<Box<dyn Read>> {
    let file = BufReader::with_capacity(64 * 1024, file);
    Ok(match kind {
        FileKind::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        FileKind::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(ArchiveError::Read)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(ArchiveError::Read)?;
            Box::new(decoder)
        }
        FileKind::Xz => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, liblzma::stream::CONCATENATED)
                    .map_err(|e| ArchiveError::Read(e.into()))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream))
        }
        FileKind::Tar | FileKind::Other => Box::new(file),
        FileKind::Squashfs | FileKind::Elf => return Err(ArchiveError::NotTar),
    })
}

/// Refuses to give, or to account for, more than a number of bytes: a few kilobytes may decompress to petabytes, and a
/// sparse file may declare as many.
pub(super) struct Source<R> {
    inner: R,
    /// Bytes given so far.
    offset: u64,
    /// Bytes still let through.
    left: u64,
    limit: u64,
}

impl<R: Read> Source<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, offset: 0, left: limit, limit }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Counts bytes that the image will hold though the archive does not.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or(ArchiveError::TooLarge { limit: self.limit })?;
        Ok(())
    }

    /// As many bytes as there are, up to the buffer's length; zero at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Ok(read) => {
                    self.charge(read as u64)?;
                    self.offset += read as u64;
                    return Ok(read);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(self.truncated()),
                Err(e) => return Err(ArchiveError::Read(e)),
            }
        }
    }

    pub(super) fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(self.truncated()),
                read => buffer = &mut buffer[read..],
            }
        }
        Ok(())
    }

    /// The next block.
    pub(super) fn block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.read(&mut block[filled..])? {
                0 if self.offset < BLOCK as u64 => return Err(ArchiveError::NotTar),
                0 => return Err(self.truncated()),
                read => filled += read,
            }
        }
        Ok(block)
    }

    /// Content of `len` bytes and its padding. The caller has bounded `len`.
    pub(super) fn small(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut content = vec![0; len];
        self.read_exact(&mut content)?;
        self.padding(len as u64)?;
        Ok(content)
    }

    /// Passes the padding after content of `len` bytes.
    pub(super) fn padding(&mut self, len: u64) -> Result<()> {
        let mut rest = [0; BLOCK];
        let padding = usize::try_from(len.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.read_exact(&mut rest[..padding])
    }

    pub(super) fn truncated(&self) -> ArchiveError {
        ArchiveError::Truncated { offset: self.offset }
    }
}
