//! JSON from outside, parsed into no more memory than its limits allow.
//!
//! A document's bytes are bounded before it is parsed. Nesting costs no stack: what is asked for is flat, and the parser
//! skips the rest without recursion. Counts are bounded here, while they are read: an element of three bytes can take a
//! hundred in memory.
//!
//! Documents are read as Go reads them, in which all other tools are written: `null` is as good as absent, a key counts
//! in whatever case, of a key that comes twice the last one counts, and what is no UTF-8 is replaced.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ImageError;

/// Parses a document. `what` names it in the error.
pub(super) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_str(&String::from_utf8_lossy(bytes)).map_err(|e| ImageError::Malformed {
        what: what.to_owned(),
        // The parser quotes what it stumbled over.
        problem: super::error::shown(&e.to_string()),
    })
}

/// A list of at most `MAX` elements. `null`, which Go writes for an empty one, is empty; as an element it is left out.
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

/// The members of an object that a type asks for, each as its text.
pub(super) struct Object {
    names: &'static [&'static str],
    /// In the order of the names; with `true` if the key was the name to the letter.
    values: Vec<Option<(bool, Box<RawValue>)>>,
}

impl Object {
    /// Reads an object's members of these names. `null` has none.
    pub(super) fn of<'de, D: Deserializer<'de>>(
        deserializer: D,
        names: &'static [&'static str],
    ) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(names))
    }

    /// The member's value, or the default if it is absent. An error names the member.
    pub(super) fn take<T: DeserializeOwned + Default, E: Error>(&mut self, name: &str) -> Result<T, E> {
        let value = self.names.iter().position(|known| *known == name).and_then(|at| self.values[at].take());
        match value {
            Some((_, value)) if value.get() != "null" => serde_json::from_str(value.get()).map_err(|e| {
                // Its place in the member's text is nobody's concern.
                let text = e.to_string();
                let place = format!(" at line {} column {}", e.line(), e.column());
                E::custom(format_args!("{name}: {}", text.strip_suffix(&place).unwrap_or(&text)))
            }),
            _ => Ok(T::default()),
        }
    }
}

struct ObjectVisitor(&'static [&'static str]);

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Object { names: self.0, values: self.0.iter().map(|_| None).collect() })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut object = self.visit_unit()?;
        while let Some(key) = members.next_key::<String>()? {
            let exact = object.names.iter().position(|name| *name == key);
            let found =
                exact.or_else(|| object.names.iter().position(|name| name.eq_ignore_ascii_case(&key)));
            match found {
                // A key to the letter comes before others, wherever they stand.
                Some(at) if exact.is_some() || object.values[at].as_ref().is_none_or(|(exact, _)| !exact) => {
                    object.values[at] = Some((exact.is_some(), members.next_value()?));
                }
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(object)
    }
}

/// Reads a type as an object of members with these names.
macro_rules! object {
    ($type:ident { $($field:ident: $name:literal),* $(,)? }) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D>(deserializer: D) -> std::result::Result<Self, D::Error>
            where
                D: serde::Deserializer<'de>,
            {
                let mut object = $crate::bounded::Object::of(deserializer, &[$($name),*])?;
                Ok(Self { $($field: object.take::<_, D::Error>($name)?),* })
            }
        }
    };
}
pub(super) use object;

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
        let mut count = 0;
        while let Some(element) = elements.next_element()? {
            if count == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            count += 1;
            list.extend::<Option<T>>(element);
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

    #[derive(Debug, Default, PartialEq)]
    struct Document {
        list: List<u8, 2>,
        text: String,
        inner: Option<Inner>,
    }
    object!(Document { list: "list", text: "someText", inner: "inner" });

    #[derive(Debug, Default, PartialEq)]
    struct Inner {
        size: u64,
    }
    object!(Inner { size: "Size" });

    fn document(text: &str) -> Document {
        parse("x", text.as_bytes()).unwrap()
    }

    #[test]
    fn keys_count_in_whatever_case() {
        let expected =
            Document { text: "a".to_owned(), inner: Some(Inner { size: 7 }), ..Document::default() };
        for text in [
            r#"{"someText":"a","inner":{"Size":7}}"#,
            r#"{"SOMETEXT":"a","Inner":{"size":7}}"#,
            r#"{"sometext":"b","someText":"a","INNER":{"SIZE":7}}"#,
            r#"{"someText":"a","sometext":"b","inner":{"Size":7,"size":8}}"#,
            r#"{"someText":"b","someText":"a","inner":{},"inner":{"sizE":8,"sIze":7}}"#,
        ] {
            assert_eq!(document(text), expected, "{text}");
        }
    }

    #[test]
    fn null_is_absent() {
        let nothing = Document::default();
        for text in ["null", "{}", r#"{"list":null,"someText":null,"inner":null}"#, r#"{"list":[null]}"#] {
            assert_eq!(document(text), nothing, "{text}");
        }
        assert_eq!(document(r#"{"inner":{"Size":null},"list":[null,3]}"#).list.0, [3]);
        assert!(parse::<List<u8, 2>>("x", b"[null,null,1]").is_err(), "they count");
    }

    #[test]
    fn errors_name_the_member() {
        let message = parse::<Document>("it", br#"{"inner":{"Size":"7"}}"#).unwrap_err().to_string();
        assert_eq!(message, "it is malformed: inner: Size: invalid type: string \"7\", expected u64");
    }

    #[test]
    fn what_is_no_utf_8_is_replaced() {
        let text: Document = parse("x", b"{\"someText\":\"a\xffb\"}").unwrap();
        assert_eq!(text.text, "a\u{fffd}b");
    }

    #[test]
    fn nesting_costs_no_stack() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let skipped = format!(r#"{{"other":{}}}"#, nested(4 << 20));
        assert!(parse::<Document>("x", skipped.as_bytes()).unwrap().list.0.is_empty());
        let asked_for = format!(r#"{{"list":{}}}"#, nested(4 << 20));
        assert!(parse::<Document>("x", asked_for.as_bytes()).is_err());
    }
}
