//! The frame codec: lengths are checked against named limits before a byte of the body is kept.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::action::ResponseHeader;

/// Longest JSON header, in bytes. Large data (arguments, environments, file contents) travels in the payload.
pub const HEADER_MAX: usize = 1 << 20;

/// Longest payload of one frame, in bytes. Streams use [`CHUNK_MAX`]; only whole answers (a screenshot, the output of
/// `exec_capture`) and the argument block of `exec` come near this.
pub const PAYLOAD_MAX: usize = 64 << 20;

/// Largest payload that a stream (stdin, stdout, stderr, file data) puts into one frame, in bytes: large enough to
/// amortise the header, small enough that one busy stream does not hold up a ping for long.
pub const CHUNK_MAX: usize = 64 << 10;

/// Bytes in front of the header: request id and header length.
pub const PREFIX_LEN: usize = 8;

/// One frame as it was read: the header is still JSON text, its payload complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The request this frame belongs to.
    pub id: u32,
    /// UTF-8 JSON object.
    pub header: Vec<u8>,
    /// Exactly as many bytes as the header's `payload_len` announced.
    pub payload: Vec<u8>,
}

/// What is wrong with a byte stream that claims to carry frames. Every one of these ends the stream: after it there is
/// no way to tell where the next frame begins.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A header length of 0, or one above [`HEADER_MAX`].
    #[error("frame header of {0} bytes (allowed: 1 to {HEADER_MAX})")]
    HeaderLength(u64),
    /// A payload length above [`PAYLOAD_MAX`].
    #[error("frame payload of {0} bytes (allowed: up to {PAYLOAD_MAX})")]
    PayloadLength(u64),
    /// The header is not a JSON object with a usable `payload_len`.
    #[error("frame header is not valid: {0}")]
    Header(#[source] serde_json::Error),
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame")]
    Truncated,
    /// The transport failed.
    #[error("transport: {0}")]
    Io(#[from] io::Error),
}

#[derive(Deserialize)]
struct PayloadLen {
    #[serde(default)]
    payload_len: u64,
}

#[derive(Serialize)]
struct WithPayloadLen<'a, T> {
    #[serde(flatten)]
    header: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_len: Option<usize>,
}

/// Encodes one frame. `payload_len` is added to the header when there is a payload, so the header type must not
/// serialize one of its own; [`encode_response`] is for the one that does.
///
/// # Errors
/// [`FrameError::HeaderLength`] or [`FrameError::PayloadLength`] when a part is over its limit.
pub fn encode<T: Serialize>(id: u32, header: &T, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let payload_len = (!payload.is_empty()).then_some(payload.len());
    let header = serde_json::to_vec(&WithPayloadLen { header, payload_len }).map_err(FrameError::Header)?;
    encode_raw(id, &header, payload)
}

/// Encodes the answer to a request that has one answer; `header.payload_len` is set here.
///
/// # Errors
/// As [`encode`].
pub fn encode_response(id: u32, header: &ResponseHeader, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let payload_len =
        u32::try_from(payload.len()).map_err(|_| FrameError::PayloadLength(payload.len() as u64))?;
    let header = ResponseHeader { payload_len, ..header.clone() };
    encode_raw(id, &serde_json::to_vec(&header).map_err(FrameError::Header)?, payload)
}

/// Encodes one frame whose header is already JSON text.
///
/// # Errors
/// As [`encode`].
pub fn encode_raw(id: u32, header: &[u8], payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    if header.is_empty() || header.len() > HEADER_MAX {
        return Err(FrameError::HeaderLength(header.len() as u64));
    }
    if payload.len() > PAYLOAD_MAX {
        return Err(FrameError::PayloadLength(payload.len() as u64));
    }
    let header_len =
        u32::try_from(header.len()).map_err(|_| FrameError::HeaderLength(header.len() as u64))?;
    let mut out = Vec::with_capacity(PREFIX_LEN + header.len() + payload.len());
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&header_len.to_le_bytes());
    out.extend_from_slice(header);
    out.extend_from_slice(payload);
    Ok(out)
}

/// Writes one frame. See [`encode`].
///
/// # Errors
/// As [`encode`], or the writer's error.
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
    let mut prefix = [0u8; PREFIX_LEN];
    let mut have = 0;
    while have < PREFIX_LEN {
        match reader.read(&mut prefix[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Truncated),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let (id, header_len) = parse_prefix(&prefix)?;
    let header = read_exact(reader, header_len)?;
    let payload_len = payload_len(&header)?;
    let payload = read_exact(reader, payload_len)?;
    Ok(Some(Frame { id, header, payload }))
}

fn parse_prefix(prefix: &[u8; PREFIX_LEN]) -> Result<(u32, usize), FrameError> {
    let [a, b, c, d, e, f, g, h] = *prefix;
    let len = u32::from_le_bytes([e, f, g, h]);
    match usize::try_from(len) {
        Ok(n) if (1..=HEADER_MAX).contains(&n) => Ok((u32::from_le_bytes([a, b, c, d]), n)),
        _ => Err(FrameError::HeaderLength(len.into())),
    }
}

fn payload_len(header: &[u8]) -> Result<usize, FrameError> {
    let parsed: PayloadLen = serde_json::from_slice(header).map_err(FrameError::Header)?;
    match usize::try_from(parsed.payload_len) {
        Ok(n) if n <= PAYLOAD_MAX => Ok(n),
        _ => Err(FrameError::PayloadLength(parsed.payload_len)),
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
    /// Lengths of the frame at `start`, once they are known: its header needs to be looked at only once.
    lengths: Option<(u32, usize, usize)>,
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
    /// Any [`FrameError`] but `Truncated` and `Io`; the stream is then unusable.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.start..];
        let (id, header_len, payload_len) = match self.lengths {
            Some(lengths) => lengths,
            None => {
                let Some(prefix) = rest.first_chunk::<PREFIX_LEN>() else { return Ok(None) };
                let (id, header_len) = parse_prefix(prefix)?;
                let Some(header) = rest.get(PREFIX_LEN..PREFIX_LEN + header_len) else { return Ok(None) };
                let lengths = (id, header_len, payload_len(header)?);
                self.lengths = Some(lengths);
                lengths
            }
        };
        let body = PREFIX_LEN + header_len;
        let Some(payload) = rest.get(body..body + payload_len) else { return Ok(None) };
        let frame = Frame { id, header: rest[PREFIX_LEN..body].to_vec(), payload: payload.to_vec() };
        self.start += body + payload_len;
        self.lengths = None;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        Ok(Some(frame))
    }

    /// Whether the stream would be cut inside a frame if it ended here.
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
        encode(id, &json!({"op": "ping"}), payload).unwrap()
    }

    #[test]
    fn layout_is_the_documented_one() {
        let bytes = encode(7, &json!({"a": 1}), b"xy").unwrap();
        let header = br#"{"a":1,"payload_len":2}"#;
        let mut expected = vec![7, 0, 0, 0, u8::try_from(header.len()).unwrap(), 0, 0, 0];
        expected.extend_from_slice(header);
        expected.extend_from_slice(b"xy");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_response_announces_its_payload() {
        let bytes = encode_response(1, &ResponseHeader::ok(), b"png").unwrap();
        let frame = read_frame(&mut &bytes[..]).unwrap().unwrap();
        assert_eq!(frame.header, br#"{"ok":true,"payload_len":3}"#);
        assert_eq!(frame.payload, b"png");
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
        for len in [0u32, u32::try_from(HEADER_MAX).unwrap() + 1, u32::MAX] {
            let mut bytes = vec![0; 4];
            bytes.extend_from_slice(&len.to_le_bytes());
            assert!(matches!(read_frame(&mut &bytes[..]), Err(FrameError::HeaderLength(_))));
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            assert!(matches!(decoder.next_frame(), Err(FrameError::HeaderLength(_))));
        }
        let header = format!(r#"{{"payload_len":{}}}"#, PAYLOAD_MAX + 1);
        let bytes = encode_raw(1, header.as_bytes(), b"").unwrap();
        assert!(matches!(read_frame(&mut &bytes[..]), Err(FrameError::PayloadLength(_))));
    }

    #[test]
    fn a_header_that_is_no_object_is_refused() {
        for header in ["[]x", "{", "\u{1}", r#"{"payload_len":-1}"#, r#"{"payload_len":"4"}"#] {
            let bytes = encode_raw(1, header.as_bytes(), b"").unwrap();
            assert!(matches!(read_frame(&mut &bytes[..]), Err(FrameError::Header(_))), "{header}");
        }
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

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
            let _ = read_frame(&mut &bytes[..]);
        }
    }
}
