//! The compressions that kernels and their modules come in, undone with a bound on the result.

use std::io::{self, Read};

/// Magic number, as in the kernel's `lib/decompress.c`.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// Every block of the legacy LZ4 format but the last one holds this much.
const LZ4_BLOCK: usize = 8 << 20;
/// The longest a block can get by compression: LZ4's own bound for incompressible data.
const LZ4_BLOCK_PACKED: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;

/// The plain data behind `data`, which may be compressed or not. Bytes after the end of the stream are ignored: the
/// kernel's build appends the plain length. More than `limit` bytes are an error: a small file can unpack to more
/// than the host's memory.
pub(super) fn decompress(data: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    if let Some(stream) = vmette_image::first_stream(data)? {
        bounded(stream, limit)
    } else if data.starts_with(&LZ4_LEGACY) {
        lz4_legacy(data, limit)
    } else if data.len() <= limit {
        Ok(data.to_vec())
    } else {
        Err(too_long(limit))
    }
}

fn bounded(stream: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    stream.take(limit as u64 + 1).read_to_end(&mut plain)?;
    if plain.len() > limit { Err(too_long(limit)) } else { Ok(plain) }
}

/// Blocks of u32 length and data, without an end mark: a number that cannot be a length ends the stream.
fn lz4_legacy(data: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut rest = data;
    let mut plain = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        if *head == LZ4_LEGACY {
            rest = tail;
            continue;
        }
        let packed = u32::from_le_bytes(*head) as usize;
        if packed == 0 || packed > LZ4_BLOCK_PACKED || packed > tail.len() {
            break;
        }
        let length = lz4_flex::block::decompress_into(&tail[..packed], &mut block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if plain.len() + length > limit {
            return Err(too_long(limit));
        }
        plain.extend_from_slice(&block[..length]);
        rest = &tail[packed..];
        if length < LZ4_BLOCK {
            break;
        }
    }
    Ok(plain)
}

fn too_long(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("unpacks to more than {} MiB", limit >> 20))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LIMIT: usize = 32 << 20;

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|i| u8::try_from(i * i / 7 % 251).unwrap()).collect()
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(plain: &[u8]) -> Vec<u8> {
        zstd::encode_all(plain, 1).unwrap()
    }

    fn xz(plain: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4(plain: &[u8]) -> Vec<u8> {
        let mut packed = LZ4_LEGACY.to_vec();
        for chunk in plain.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(chunk);
            packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            packed.extend(block);
        }
        packed
    }

    #[test]
    fn every_format_comes_back_also_with_the_length_behind_it() {
        let plain = text(LZ4_BLOCK + 12345);
        for pack in [gzip, zstd, xz, lz4] {
            let mut packed = pack(&plain);
            assert!(decompress(&packed, LIMIT).unwrap() == plain);
            packed.extend(u32::try_from(plain.len()).unwrap().to_le_bytes());
            assert!(decompress(&packed, LIMIT).unwrap() == plain);
        }
        assert_eq!(decompress(b"plain", LIMIT).unwrap(), b"plain");
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let plain = vec![0; 1 << 20];
        for pack in [gzip, zstd, xz, lz4, <[u8]>::to_vec] {
            let error = decompress(&pack(&plain), plain.len() - 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert_eq!(decompress(&pack(&plain), plain.len()).unwrap().len(), plain.len());
        }
    }

    #[test]
    fn damage_is_an_error_or_short_never_a_panic() {
        let plain = text(100_000);
        for pack in [gzip, zstd, xz, lz4] {
            let packed = pack(&plain);
            for cut in [1, 5, 7, 20, packed.len() / 2] {
                assert!(decompress(&packed[..cut], LIMIT).map_or(true, |data| data.len() < plain.len()));
            }
            let mut flipped = packed.clone();
            for at in (4..packed.len()).step_by(1 + packed.len() / 64) {
                flipped[at] ^= 0x55;
                let _ = decompress(&flipped, LIMIT);
            }
        }
    }
}
