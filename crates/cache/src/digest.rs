//! The name of content: the SHA-256 of its bytes.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Bytes of a SHA-256.
pub(crate) const LEN: usize = 32;
/// Stands before the hexadecimal digits. It is the one algorithm that every registry has to support, and the one that
/// every image uses.
const ALGORITHM: &str = "sha256:";
/// Bytes hashed at once.
const CHUNK: usize = 256 << 10;

/// The SHA-256 of some content; as text `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; LEN]);

/// Text that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not sha256: and 64 lower-case hexadecimal digits")]
pub struct BadDigest(String);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of everything that the hasher has seen.
    #[must_use]
    pub fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The 64 digits alone, for names of files.
    #[must_use]
    pub fn hex(&self) -> String {
        base16ct::lower::encode_string(&self.0)
    }
}

/// The digest of everything that can be read. `goes_on` is asked before each chunk of 256 KiB.
///
/// # Errors
/// Those of the reader and of `goes_on`.
pub fn hash(mut reader: impl Read, mut goes_on: impl FnMut() -> io::Result<()>) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        goes_on()?;
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(Digest::finish(hasher)),
            Ok(read) => hasher.update(&chunk[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The bytes that these lower-case hexadecimal digits stand for. `None` when they are anything else.
pub(crate) fn from_hex(digits: &str) -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    (digits.len() == 2 * LEN && base16ct::lower::decode(digits, &mut bytes).is_ok()).then_some(bytes)
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let digest = text.strip_prefix(ALGORITHM).and_then(from_hex).map(Self);
        digest.ok_or_else(|| BadDigest(text.chars().take(2 * LEN + ALGORITHM.len()).collect()))
    }
}

impl TryFrom<String> for Digest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn text_and_bytes_are_the_same_digest() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string(), ABC);
        assert_eq!(ABC.parse::<Digest>().unwrap(), digest);
        assert_eq!(hash(&b"abc"[..], || Ok(())).unwrap(), digest);
        assert_eq!(serde_json::from_str::<Digest>(&serde_json::to_string(&digest).unwrap()).unwrap(), digest);
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "",
            "sha256:",
            &ABC[..ABC.len() - 1],
            &format!("{ABC}0"),
            &ABC.to_uppercase(),
            &ABC.replace("ad", "AD"),
            &ABC.replace("sha256:", "sha512:"),
            &ABC.replace('a', "g"),
            &ABC.replace("ba", "é"),
            "sha256:../../../../../../../../../../../../../../../../etc/passwd0000000",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_hash_can_be_given_up() {
        let mut chunks = 0;
        let given_up = hash(io::repeat(0), || {
            chunks += 1;
            if chunks > 3 { Err(io::Error::other("given up")) } else { Ok(()) }
        });
        assert_eq!(given_up.unwrap_err().to_string(), "given up");
    }
}
