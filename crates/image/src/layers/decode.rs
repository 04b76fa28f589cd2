//! Undoing a layer's compression.

use std::io::{self, BufRead, Read};

use super::gzip::Members;
use crate::sniff::FileKind;
use crate::tar::ArchiveError;

/// Most memory that an xz stream may ask for, in bytes: `xz -9` asks for 65 MiB, the format lets it ask for 4 GiB.
const XZ_MEMORY_MAX: u64 = 96 << 20;
/// Largest zstd window, as a power of two: `zstd --ultra -22`, and what other tools take without being told to.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// The same of a stream that is decompressed beside others: `zstd --ultra -20`.
const ZSTD_WINDOW_LOG_SMALL: u32 = 25;

/// Decompresses the one stream at the beginning of `data`, which is gzip, zstd or xz; bytes after its end are ignored.
/// `None` for anything else. Its memory has the limits of layers.
///
/// # Errors
/// The decoder cannot be made.
pub fn first_stream<'a>(data: &'a [u8]) -> io::Result<Option<Box<dyn Read + 'a>>> {
    Ok(Some(match FileKind::of_bytes(data) {
        FileKind::Gzip => Box::new(flate2::bufread::GzDecoder::new(data)),
        FileKind::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(data)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        FileKind::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, 0)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(data, stream))
        }
        _ => return Ok(None),
    }))
}

/// How much memory decompressing a stream may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// At most 32 MiB: several such may go on at once.
    Small,
    /// At most 128 MiB.
    Large,
}

impl Memory {
    /// The memory that a stream asks for at its start; the limit for a zstd stream that does not begin with a frame.
    pub(super) fn of(kind: FileKind, head: &[u8]) -> Self {
        match kind {
            FileKind::Xz => Self::Large,
            FileKind::Zstd if zstd_window(head).is_none_or(|len| len > 1 << ZSTD_WINDOW_LOG_SMALL) => {
                Self::Large
            }
            _ => Self::Small,
        }
    }
}

/// The window of the frame that begins here, in bytes: RFC 8878, 3.1.1.1.
fn zstd_window(head: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let rest = head.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let descriptor = *rest.first()?;
    if descriptor & SINGLE_SEGMENT == 0 {
        let window = *rest.get(1)?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // The window is the content, whose size follows the dictionary's number.
    let content = rest.get(1 + [0, 1, 2, 4][usize::from(descriptor & 3)]..)?;
    let len = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let size = content.get(..len)?.iter().rev().fold(0, |size, &byte| (size << 8) | u64::from(byte));
    Some(if len == 2 { size + 256 } else { size })
}

/// The decompressed bytes; several members or frames are one stream. The input is read to its end.
pub(crate) fn decoder<'a, R: BufRead + Send + 'a>(
    input: R,
    kind: FileKind,
) -> Result<Box<dyn Read + Send + 'a>, ArchiveError> {
    decoder_within(input, kind, Memory::Large)
}

/// Does what [`decoder`] does, and fails where the stream asks for more memory.
pub(super) fn decoder_within<'a, R: BufRead + Send + 'a>(
    input: R,
    kind: FileKind,
    memory: Memory,
) -> Result<Box<dyn Read + Send + 'a>, ArchiveError> {
    Ok(match kind {
        FileKind::Gzip => Box::new(Members::of(input)),
        FileKind::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(ArchiveError::Read)?;
            let window = if memory == Memory::Small { ZSTD_WINDOW_LOG_SMALL } else { ZSTD_WINDOW_LOG_MAX };
            decoder.window_log_max(window).map_err(ArchiveError::Read)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn zstd(window_log: u32, content: &[u8], pledged: bool) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        if pledged {
            encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap();
        }
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn windows_are_known_from_the_start() {
        for (log, memory) in
            [(10, Memory::Small), (25, Memory::Small), (26, Memory::Large), (27, Memory::Large)]
        {
            let stream = zstd(log, &[7; 3000], false);
            assert_eq!(zstd_window(&stream), Some(1 << log));
            assert_eq!(Memory::of(FileKind::Zstd, &stream), memory);
            let mut content = Vec::new();
            decoder_within(&stream[..], FileKind::Zstd, memory).unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(content, [7; 3000]);
        }
        for len in [0, 1, 255, 256, 257, 65_791, 65_792, 1 << 20] {
            let stream = zstd(27, &vec![7; len], true);
            assert!(zstd_window(&stream).is_some_and(|window| window <= (len as u64).max(1 << 10)), "{len}");
        }
        assert_eq!(Memory::of(FileKind::Zstd, &[0x28, 0xb5, 0x2f]), Memory::Large);
        assert_eq!(Memory::of(FileKind::Xz, b""), Memory::Large);
        assert_eq!(Memory::of(FileKind::Gzip, b""), Memory::Small);
    }

    #[test]
    fn more_memory_than_a_stream_may_have_is_refused() {
        let grows = [zstd(10, b"a", false), zstd(27, &[7; 3000], false)].concat();
        let read =
            |memory| decoder_within(&grows[..], FileKind::Zstd, memory).unwrap().read_to_end(&mut Vec::new());
        assert!(read(Memory::Small).is_err());
        assert_eq!(read(Memory::Large).unwrap(), 3001);
        let huge = zstd(28, &[7; 3000], false);
        assert!(decoder(&huge[..], FileKind::Zstd).unwrap().read_to_end(&mut Vec::new()).is_err());
    }
}
