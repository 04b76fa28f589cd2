//! Members of a gzip file.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

/// Decompresses the members of a gzip file one after the other, as one stream. Zeros may follow the last one: tapes and
/// `dd` fill their blocks up so, and gzip passes over them. Anything else that is no member is an error.
pub(super) struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Members<R> {
    pub(super) fn of(input: R) -> Self {
        Self(Some(GzDecoder::new(input)))
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(member) = &mut self.0 else { return Ok(0) };
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(mut rest) = self.0.take().map(GzDecoder::into_inner) else { return Ok(0) };
            match first_byte(&mut rest)? {
                None => {}
                Some(0) => zeros_only(&mut rest)?,
                Some(_) => self.0 = Some(GzDecoder::new(rest)),
            }
        }
    }
}

fn first_byte(rest: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        match rest.fill_buf() {
            Ok(there) => return Ok(there.first().copied()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn zeros_only(rest: &mut impl BufRead) -> io::Result<()> {
    while first_byte(rest)?.is_some() {
        let there = rest.fill_buf()?;
        if there.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something else than zeros follows its end",
            ));
        }
        let len = there.len();
        rest.consume(len);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use super::*;

    fn member(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(stored: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        // In pieces that end anywhere.
        Members::of(BufReader::with_capacity(7, stored)).read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn members_are_one_stream_and_zeros_may_follow() {
        let (one, two) = (member(b"one"), member(b"two"));
        assert_eq!(read(&one).unwrap(), b"one");
        assert_eq!(read(&[&one[..], &member(b""), &two].concat()).unwrap(), b"onetwo");
        for zeros in [1, 6, 7, 8, 10_240] {
            assert_eq!(read(&[&one[..], &two, &vec![0; zeros]].concat()).unwrap(), b"onetwo", "{zeros}");
        }
    }

    #[test]
    fn anything_else_that_follows_is_an_error() {
        let one = member(b"one");
        for rest in
            [&b"garbage"[..], b"\0\0x", &one[..1], &one[..one.len() - 1], &[&[0; 9][..], &one].concat()]
        {
            assert!(read(&[&one[..], rest].concat()).is_err(), "{rest:?}");
        }
        assert!(read(b"").is_err());
    }
}
