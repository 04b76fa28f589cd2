//! Environment variables in the written form of a configuration: texts, as far as they are such.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text, or the bytes of something that is not UTF-8: the system demands no encoding of a variable.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Word<T, B> {
    Text(T),
    Bytes(B),
}

impl<'a> Word<&'a str, &'a [u8]> {
    fn of(word: &'a OsStr) -> Self {
        word.to_str().map_or(Self::Bytes(word.as_bytes()), Self::Text)
    }
}

impl Word<String, Vec<u8>> {
    fn into_os(self) -> OsString {
        match self {
            Self::Text(text) => text.into(),
            Self::Bytes(bytes) => OsString::from_vec(bytes),
        }
    }
}

pub(super) fn serialize<S: Serializer>(
    variables: &[(OsString, OsString)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(variables.iter().map(|(key, value)| (Word::of(key), Word::of(value))))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(OsString, OsString)>, D::Error> {
    let words = Vec::<(Word<String, Vec<u8>>, Word<String, Vec<u8>>)>::deserialize(deserializer)?;
    Ok(words.into_iter().map(|(key, value)| (key.into_os(), value.into_os())).collect())
}
