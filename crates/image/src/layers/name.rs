//! Names of a tree's directories.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;

/// Longest name that takes no memory of its own: most have no more bytes, and a million small pieces of memory cost
/// more than what is in them.
const INLINE_MAX: usize = 22;

/// One name, ordered by its bytes.
#[derive(Clone)]
pub(super) struct Name(Bytes);

#[derive(Clone)]
enum Bytes {
    /// So many of these.
    Inline(u8, [u8; INLINE_MAX]),
    Boxed(Box<[u8]>),
}

impl Name {
    pub(super) fn new(name: &[u8]) -> Self {
        match (u8::try_from(name.len()), name.len() <= INLINE_MAX) {
            (Ok(len), true) => {
                let mut bytes = [0; INLINE_MAX];
                bytes[..name.len()].copy_from_slice(name);
                Self(Bytes::Inline(len, bytes))
            }
            _ => Self(Bytes::Boxed(name.into())),
        }
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Bytes::Boxed(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_bytes_whatever_its_length() {
        assert_eq!(size_of::<Name>(), INLINE_MAX + 2);
        let given = |len: usize| vec![b'n'; len];
        let names: Vec<_> = (0..=255).map(|len| Name::new(&given(len))).collect();
        assert!(names.iter().enumerate().all(|(len, name)| **name == *given(len)));
        assert!(names.is_sorted());
        assert!(Name::new(b"m\xff") < Name::new(&given(30)) && Name::new(&given(30)) < Name::new(b"o"));
    }
}
