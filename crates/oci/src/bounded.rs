//! JSON from outside, parsed into no more memory than its limits allow.
//!
//! A document's bytes are bounded before it is parsed. Nesting costs no stack: what is asked for is flat, and the parser
//! skips the rest without recursion. Counts are bounded here, while they are read: an element of three bytes can take a
//! hundred in memory.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::ImageError;

/// Parses a document. `what` names it in the error.
pub(super) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::Malformed {
        what: what.to_owned(),
        // The parser quotes what it stumbled over.
        problem: super::error::shown(&e.to_string()),
    })
}

/// A list of at most `MAX` elements. `null`, which Go writes for an empty one, is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

/// An object of at most `MAX` members, in their order. `null` is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Members<V, const MAX: usize>(pub(super) Vec<(String, V)>);

/// A value that does not matter: the `{}` of a set's members.
pub(super) type Nothing = IgnoredAny;

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V, const MAX: usize> Default for Members<V, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} elements")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(List::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            list.push(element);
        }
        Ok(List(list))
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct MembersVisitor<V, const MAX: usize>(PhantomData<V>);

impl<'de, V: Deserialize<'de>, const MAX: usize> Visitor<'de> for MembersVisitor<V, MAX> {
    type Value = Members<V, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of at most {MAX} members")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Members::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(member) = members.next_entry()? {
            if all.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            all.push(member);
        }
        Ok(Members(all))
    }
}

impl<'de, V: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Members<V, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MembersVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_bounded_while_they_are_read() {
        assert_eq!(parse::<List<u8, 2>>("x", b"[1,2]").unwrap().0, [1, 2]);
        assert!(parse::<List<u8, 2>>("x", b"null").unwrap().0.is_empty());
        let message = parse::<List<u8, 2>>("the list", b"[1,2,3]").unwrap_err().to_string();
        assert!(message.starts_with("the list is malformed") && message.contains("at most 2"), "{message}");
        let members = parse::<Members<u8, 2>>("x", br#"{"b":1,"a":2}"#).unwrap().0;
        assert_eq!(members, [("b".to_owned(), 1), ("a".to_owned(), 2)]);
        assert!(parse::<Members<u8, 1>>("x", br#"{"b":1,"a":2}"#).is_err());
        assert!(parse::<List<u8, 2>>("x", br#""text""#).is_err());
    }

    #[test]
    fn nesting_costs_no_stack() {
        #[derive(Debug, Deserialize)]
        struct Document {
            #[serde(default)]
            list: List<u8, 2>,
        }
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let skipped = format!(r#"{{"other":{}}}"#, nested(4 << 20));
        assert!(parse::<Document>("x", skipped.as_bytes()).unwrap().list.0.is_empty());
        let asked_for = format!(r#"{{"list":{}}}"#, nested(4 << 20));
        assert!(parse::<Document>("x", asked_for.as_bytes()).is_err());
    }
}
