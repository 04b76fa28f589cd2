//! The frame codec: lengths are checked against named limits before a byte of the body is kept.

use std::io::{self, Read, Write};

use serde::Serialize;

/// Longest JSON header, in bytes. Large data (arguments, environments, file contents) travels in the payload.
pub const HEADER_MAX: usize = 1 << 20;

/// Longest payload of one frame, in bytes. Streams use [`CHUNK_MAX`]; only whole answers (a screenshot, the output of
/// `exec_capture`) and the argument block of `exec` may be longer.
pub const PAYLOAD_MAX: usize = 64 << 20;

/// Largest payload that a stream (stdin, stdout, stderr, file data) puts into one frame, in bytes: large enough to
/// amortise the header, small enough that one busy stream does not hold up a ping for long.
pub const CHUNK_MAX: usize = 64 << 10;

/// Bytes in front of the header: request id, header length, payload length.
pub const PREFIX_LEN: usize = 12;

/// One frame as it was read: the header is JSON text that nobody has looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The request this frame belongs to.
    pub id: u32,
    /// The header, 1 to [`HEADER_MAX`] bytes.
    pub header: Vec<u8>,
    /// The payload, up to [`PAYLOAD_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// A byte stream that carries no frames. Each of these ends the stream: nobody can tell where the next frame begins.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A header length of 0, or one above [`HEADER_MAX`].
    #[error("frame header of {0} bytes (allowed: 1 to {HEADER_MAX})")]
    HeaderLength(u64),
    /// A payload length above [`PAYLOAD_MAX`].
    #[error("frame payload of {0} bytes (allowed: up to {PAYLOAD_MAX})")]
    PayloadLength(u64),
    /// The header cannot be written as JSON.
    #[error("frame header: {0}")]
    Header(#[source] serde_json::Error),
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame")]
    Truncated,
    /// The transport failed.
    #[error("transport: {0}")]
    Io(#[from] io::Error),
}

/// Encodes one frame.
///
/// # Errors
/// [`FrameError::HeaderLength`] or [`FrameError::PayloadLength`] when a part is over its limit.
pub fn encode<T: Serialize>(id: u32, header: &T, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    encode_raw(id, &serde_json::to_vec(header).map_err(FrameError::Header)?, payload)
}

/// Encodes one frame whose header is already JSON text.
///
/// # Errors
/// See [`encode`].
pub fn encode_raw(id: u32, header: &[u8], payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let prefix = Prefix { id, header: header.len(), payload: payload.len() };
    let mut out = Vec::with_capacity(PREFIX_LEN + header.len() + payload.len());
    out.extend_from_slice(&prefix.encode()?);
    out.extend_from_slice(header);
    out.extend_from_slice(payload);
    Ok(out)
}

/// Writes one frame. See [`encode`].
///
/// # Errors
/// Those of [`encode`], or the writer's.
pub fn write_frame<W: Write, T: Serialize>(
    writer: &mut W,
    id: u32,
    header: &T,
    payload: &[u8],
) -> Result<(), FrameError> {
    writer.write_all(&encode(id, header, payload)?)?;
    Ok(())
}

/// Reads one frame, blocking. `Ok(None)` is an end of stream between two frames.
///
/// # Errors
/// Any [`FrameError`]; the stream is then unusable.
pub fn read_frame<R: Read>(reader: &mut R) -> Result<Option<Frame>, FrameError> {
    let mut bytes = [0u8; PREFIX_LEN];
    let mut have = 0;
    while have < PREFIX_LEN {
        match reader.read(&mut bytes[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Truncated),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let prefix = Prefix::decode(&bytes)?;
    let header = read_exact(reader, prefix.header)?;
    let payload = read_exact(reader, prefix.payload)?;
    Ok(Some(Frame { id: prefix.id, header, payload }))
}

/// The bytes in front of a header, with lengths that are within their limits.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    id: u32,
    header: usize,
    payload: usize,
}

impl Prefix {
    fn check(self) -> Result<Self, FrameError> {
        if !(1..=HEADER_MAX).contains(&self.header) {
            return Err(FrameError::HeaderLength(self.header as u64));
        }
        if self.payload > PAYLOAD_MAX {
            return Err(FrameError::PayloadLength(self.payload as u64));
        }
        Ok(self)
    }

    fn encode(self) -> Result<[u8; PREFIX_LEN], FrameError> {
        let Self { id, header, payload } = self.check()?;
        let header_len = u32::try_from(header).map_err(|_| FrameError::HeaderLength(header as u64))?;
        let payload_len = u32::try_from(payload).map_err(|_| FrameError::PayloadLength(payload as u64))?;
        let mut bytes = [0; PREFIX_LEN];
        for (to, number) in bytes.chunks_exact_mut(4).zip([id, header_len, payload_len]) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        Ok(bytes)
    }

    fn decode(bytes: &[u8; PREFIX_LEN]) -> Result<Self, FrameError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        let length = |bytes| usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        let id = u32::from_le_bytes([a, b, c, d]);
        Self { id, header: length([e, f, g, h]), payload: length([i, j, k, l]) }.check()
    }
}

/// Reads `len` bytes; memory grows with what arrives, not with what was announced.
fn read_exact<R: Read>(reader: &mut R, len: usize) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::with_capacity(len.min(CHUNK_MAX));
    let read = reader.by_ref().take(len as u64).read_to_end(&mut out)?;
    if read < len { Err(FrameError::Truncated) } else { Ok(out) }
}

/// The codec for event loops: bytes go in as they come, whole frames come out.
///
/// Memory is bounded by one frame of the largest size plus what the caller pushes at once.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Start of the first byte that no returned frame has used.
    start: usize,
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the transport.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start >= self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`FrameError::HeaderLength`] or [`FrameError::PayloadLength`]; the stream is then unusable.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((prefix, body)) = rest.split_first_chunk::<PREFIX_LEN>() else { return Ok(None) };
        let Prefix { id, header, payload } = Prefix::decode(prefix)?;
        let Some(body) = body.get(..header + payload) else { return Ok(None) };
        let (header, payload) = body.split_at(header);
        let frame = Frame { id, header: header.to_vec(), payload: payload.to_vec() };
        self.start += PREFIX_LEN + body.len();
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        Ok(Some(frame))
    }

    /// `true` if the stream would be cut inside a frame if it ended here.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn frame(id: u32, payload: &[u8]) -> Vec<u8> {
        encode(id, &json!("ping"), payload).unwrap()
    }

    fn lengths(header: usize, payload: usize) -> Vec<u8> {
        let number = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        [[0; 4], number(header), number(payload)].concat()
    }

    #[test]
    fn layout_is_the_documented_one() {
        let bytes = encode(0x0102_0304, &json!({"a": 1}), b"xy").unwrap();
        let mut expected = vec![4, 3, 2, 1, 7, 0, 0, 0, 2, 0, 0, 0];
        expected.extend_from_slice(br#"{"a":1}"#);
        expected.extend_from_slice(b"xy");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn the_codec_does_not_look_into_headers() {
        for header in [&b"{"[..], b"\xff", br#"{"payload_len":-1}"#] {
            let bytes = encode_raw(1, header, b"xy").unwrap();
            let read = read_frame(&mut &bytes[..]).unwrap().unwrap();
            assert_eq!((&read.header[..], &read.payload[..]), (header, &b"xy"[..]));
        }
    }

    #[test]
    fn end_of_stream_between_frames_is_clean_and_inside_one_is_not() {
        let bytes = frame(1, b"abc");
        assert!(read_frame(&mut &bytes[..0]).unwrap().is_none());
        for cut in 1..bytes.len() {
            assert!(matches!(read_frame(&mut &bytes[..cut]), Err(FrameError::Truncated)), "cut at {cut}");
        }
    }

    #[test]
    fn over_limit_lengths_are_refused_before_the_body_is_read() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::new();
            decoder.push(bytes);
            let (now, later) = (read_frame(&mut &bytes[..]).unwrap_err(), decoder.next_frame().unwrap_err());
            assert_eq!(now.to_string(), later.to_string());
            now
        };
        for header in [0, HEADER_MAX + 1, u32::MAX as usize] {
            assert!(
                matches!(refused(&lengths(header, 0)), FrameError::HeaderLength(n) if n == header as u64)
            );
        }
        for payload in [PAYLOAD_MAX + 1, u32::MAX as usize] {
            assert!(
                matches!(refused(&lengths(1, payload)), FrameError::PayloadLength(n) if n == payload as u64)
            );
        }
        let mut decoder = Decoder::new();
        decoder.push(&lengths(HEADER_MAX, PAYLOAD_MAX));
        assert!(decoder.next_frame().unwrap().is_none(), "the longest frame may come");
    }

    #[test]
    fn encoding_refuses_what_decoding_would() {
        assert!(matches!(encode_raw(0, b"", b""), Err(FrameError::HeaderLength(0))));
        let long = vec![b' '; HEADER_MAX + 1];
        assert!(matches!(encode_raw(0, &long, b""), Err(FrameError::HeaderLength(_))));
        let big = vec![0; PAYLOAD_MAX + 1];
        assert!(matches!(encode_raw(0, b"{}", &big), Err(FrameError::PayloadLength(_))));
    }

    proptest! {
        #[test]
        fn any_split_of_the_stream_yields_the_same_frames(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
            sizes in prop::collection::vec(1usize..97, 1..40),
        ) {
            let mut stream = Vec::new();
            for (i, p) in payloads.iter().enumerate() {
                stream.extend(frame(u32::try_from(i).unwrap(), p));
            }
            let mut reader = &stream[..];
            let mut decoder = Decoder::new();
            let mut rest = &stream[..];
            let mut sizes = sizes.iter().cycle();
            let mut got = Vec::new();
            while !rest.is_empty() {
                let n = (*sizes.next().unwrap()).min(rest.len());
                decoder.push(&rest[..n]);
                rest = &rest[n..];
                while let Some(f) = decoder.next_frame().unwrap() {
                    got.push(f);
                }
            }
            prop_assert!(!decoder.is_mid_frame());
            for (i, p) in payloads.iter().enumerate() {
                let f = read_frame(&mut reader).unwrap().unwrap();
                prop_assert_eq!(&f, &got[i]);
                prop_assert_eq!(&f.payload, p);
            }
            prop_assert_eq!(got.len(), payloads.len());
        }

        /// The two readers agree on every stream, be it frames or not.
        #[test]
        fn both_readers_take_the_same_frames_out_of_anything(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            // Small numbers, so that some lengths are possible ones.
            prefix in prop::collection::vec(0u8..20, 0..PREFIX_LEN),
        ) {
            let bytes = [prefix, bytes].concat();
            let (mut reader, mut decoder) = (&bytes[..], Decoder::new());
            decoder.push(&bytes);
            loop {
                match (read_frame(&mut reader), decoder.next_frame()) {
                    (Ok(Some(one)), Ok(Some(other))) => prop_assert_eq!(one, other),
                    (Ok(None), Ok(None)) => { prop_assert!(!decoder.is_mid_frame()); break }
                    (Err(FrameError::Truncated), Ok(None)) => { prop_assert!(decoder.is_mid_frame()); break }
                    (Err(one), Err(other)) => { prop_assert_eq!(one.to_string(), other.to_string()); break }
                    (one, other) => prop_assert!(false, "{:?} and {:?}", one, other),
                }
            }
        }
    }
}
