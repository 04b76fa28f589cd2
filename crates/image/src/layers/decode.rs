//! Undoing a layer's compression.

use std::io::{self, BufRead, Read};

use crate::sniff::FileKind;
use crate::tar::ArchiveError;

/// Most memory that an xz stream may ask for, in bytes: `xz -9` asks for 65 MiB, the format lets it ask for 4 GiB.
const XZ_MEMORY_MAX: u64 = 96 << 20;
/// Largest zstd window, as a power of two: `zstd --ultra -22`, and what other tools take without being told to.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The decompressed bytes; several members or frames are one stream. The input is read to its end.
pub(crate) fn decoder<'a, R: BufRead + Send + 'a>(
    input: R,
    kind: FileKind,
) -> Result<Box<dyn Read + Send + 'a>, ArchiveError> {
    Ok(match kind {
        FileKind::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        FileKind::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(ArchiveError::Read)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(ArchiveError::Read)?;
            Box::new(decoder)
        }
        FileKind::Xz => {
            let stream =
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, liblzma::stream::CONCATENATED)
                    .map_err(|e| ArchiveError::Read(io::Error::from(e)))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        FileKind::Tar | FileKind::Other => Box::new(input),
        FileKind::Squashfs | FileKind::Elf => return Err(ArchiveError::NotTar),
    })
}
