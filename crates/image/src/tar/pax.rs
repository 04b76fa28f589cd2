//! Extended headers: `LENGTH KEY=VALUE\n`, where values may hold any byte.

use std::collections::BTreeMap;

use super::error::{Refusal, shown};
use crate::notes::{Note, Notes};

/// Longest extended header, or GNU long name, in bytes: an entry's attributes may take 64 KiB each.
pub(super) const EXTENSION_MAX: u64 = 1 << 20;
/// Longest value of an extended attribute that Linux knows, in bytes.
const XATTR_VALUE_MAX: usize = 65_536;
/// Longest name of one, with its namespace.
const XATTR_NAME_MAX: usize = 255;

/// Most digits of a record's length, with leading zeros.
const DIGITS_MAX: usize = 20;

const XATTR_KEY: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE_XATTR_KEY: &[u8] = b"LIBARCHIVE.xattr.";

/// Keys of the pieces of a sparse file, format 0.0: they come once for each piece.
const PIECE_KEYS: [&[u8]; 2] = [b"GNU.sparse.offset", b"GNU.sparse.numbytes"];
/// Key of the list of pieces, format 0.1.
const MAP_KEY: &[u8] = b"GNU.sparse.map";

/// The fields of an entry's extended header. The last record of a key counts.
#[derive(Debug, Default)]
pub(super) struct Pax {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Pax {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, Refusal> {
        let mut records = BTreeMap::new();
        let mut pieces: Vec<&[u8]> = Vec::new();
        while !bytes.is_empty() {
            let (record, rest) =
                split_record(bytes).ok_or(Refusal::Extension("a record's length is wrong"))?;
            let equals = record.iter().position(|&byte| byte == b'=');
            let (key, value) = record.split_at(equals.ok_or(Refusal::Extension("a record has no `=`"))?);
            let value = &value[1..];
            if key.is_empty() || key.contains(&0) {
                return Err(Refusal::Extension("a record's key is empty or holds a NUL"));
            }
            if PIECE_KEYS.contains(&key) {
                if PIECE_KEYS[pieces.len() % 2] != key {
                    return Err(Refusal::Sparse("offsets and lengths do not take turns"));
                }
                pieces.push(value);
            } else {
                records.insert(key.to_vec(), value.to_vec());
            }
            bytes = rest;
        }
        if !pieces.is_empty() {
            records.insert(MAP_KEY.to_vec(), pieces.join(&b','));
        }
        Ok(Self { records })
    }

    /// Returns whether it says anything that an image keeps of an entry, and not a comment or a label.
    pub(super) fn says_something(&self) -> bool {
        let fields: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid"];
        self.records.keys().any(|key| fields.contains(&&**key) || key.starts_with(XATTR_KEY))
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        // An empty value takes the record back.
        self.records.get(key.as_bytes()).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// Returns whether the file has a map of its pieces, in whatever format.
    pub(super) fn is_sparse(&self) -> bool {
        ["GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.map", "GNU.sparse.numblocks"]
            .iter()
            .any(|key| self.get(key).is_some())
    }

    /// A number with or without a sign.
    pub(super) fn integer(&self, key: &'static str) -> Result<Option<i64>, Refusal> {
        let parse = |value| std::str::from_utf8(value).ok()?.parse().ok();
        self.get(key).map(|value| parse(value).ok_or(Refusal::Number { field: key })).transpose()
    }

    /// A number of bytes.
    pub(super) fn bytes(&self, key: &'static str) -> Result<Option<u64>, Refusal> {
        let unsigned = |value: i64| value.try_into().map_err(|_| Refusal::Number { field: key });
        self.integer(key)?.map(unsigned).transpose()
    }

    pub(super) fn size(&self) -> Result<Option<u64>, Refusal> {
        self.bytes("size")
    }

    /// Whole seconds since 1970, as squashfs holds them; before 1970 and after 2106 the nearest that it can hold.
    pub(super) fn mtime(&self) -> Result<Option<u32>, Refusal> {
        let Some(value) = self.get("mtime") else { return Ok(None) };
        let bad = Refusal::Number { field: "mtime" };
        let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
            Some(dot) => (&value[..dot], &value[dot + 1..]),
            None => (value, &b""[..]),
        };
        let (negative, digits) = match whole {
            [b'-', digits @ ..] => (true, digits),
            [b'+', digits @ ..] => (false, digits),
            digits => (false, digits),
        };
        if digits.is_empty() || !digits.iter().chain(fraction).all(u8::is_ascii_digit) {
            return Err(bad);
        }
        let seconds = decimal(digits).map_or(u32::MAX, |seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        Ok(Some(if negative { 0 } else { seconds }))
    }

    /// Returns whether there is an access control list, in any of its forms.
    pub(super) fn has_access_list(&self) -> bool {
        self.records.keys().any(|key| is_access_list(key))
    }

    /// Attributes that squashfs holds. The others are left out: access control lists, those outside of Linux's
    /// namespaces (a Mac's `com.apple.…`), and those that only libarchive's own records have, which nobody else reads.
    pub(super) fn xattrs(&self, notes: &Notes) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Refusal> {
        let mut xattrs = BTreeMap::new();
        let mut left_out = false;
        for (key, value) in &self.records {
            if let Some(name) = key.strip_prefix(LIBARCHIVE_XATTR_KEY) {
                left_out |= !self.records.contains_key(&[XATTR_KEY, name].concat());
            } else if let Some(name) = key.strip_prefix(XATTR_KEY).filter(|_| !is_access_list(key)) {
                if name.len() > XATTR_NAME_MAX || value.len() > XATTR_VALUE_MAX {
                    return Err(Refusal::Xattr { name: shown(name), why: "is longer than Linux lets it be" });
                }
                if in_namespace(name) {
                    xattrs.insert(name.to_vec(), value.clone());
                } else {
                    left_out = true;
                }
            }
        }
        if left_out {
            notes.add(Note::Attributes);
        }
        Ok(xattrs)
    }
}

fn is_access_list(key: &[u8]) -> bool {
    const FORMS: [&[u8]; 4] = [
        b"SCHILY.acl.",
        b"GNU.acl.",
        b"SCHILY.xattr.system.posix_acl_",
        b"LIBARCHIVE.xattr.system.posix_acl_",
    ];
    FORMS.iter().any(|form| key.starts_with(form))
}

fn in_namespace(name: &[u8]) -> bool {
    [b"user.".as_slice(), b"trusted.", b"security."]
        .iter()
        .any(|space| name.starts_with(space) && name != *space)
}

/// The first record without its length and newline, and what follows.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(DIGITS_MAX).position(|&byte| byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..len)?;
    Some((record.strip_suffix(b"\n")?, &bytes[len..]))
}

/// Decimal digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_may_hold_any_byte() {
        let pax = Pax::parse(b"28 SCHILY.xattr.user.a=b\n=\0\n12 path=a b\n").unwrap();
        assert_eq!(pax.get("path"), Some(&b"a b"[..]));
        assert_eq!(pax.xattrs(&Notes::default()).unwrap()[&b"user.a"[..]], b"b\n=\0");
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"99 a=b\n"[..],
            b"6 a=b",
            b"0 ",
            b" a=b\n",
            b"7 a=b\n",
            b"6 abc\n",
            b"5 =b\n",
            b"-6 a=b\n",
            b"\0",
        ] {
            assert!(matches!(Pax::parse(bad), Err(Refusal::Extension(_))), "{bad:?}");
        }
    }

    #[test]
    fn numbers_may_have_a_sign() {
        let pax = |value: &str| Pax { records: [(b"uid".to_vec(), value.into())].into() };
        for (value, expected) in [("0012", 12), ("-2", -2), ("+5", 5)] {
            assert_eq!(pax(value).integer("uid"), Ok(Some(expected)));
        }
        for bad in ["1e3", "0x1", " 1", "9223372036854775808"] {
            assert!(pax(bad).integer("uid").is_err(), "{bad}");
        }
        assert!(pax("-1").bytes("uid").is_err());
        assert_eq!(pax("").integer("uid"), Ok(None));
    }

    /// As bsdtar and GNU tar write them, and as a file system gives them.
    #[test]
    fn attributes_that_cannot_be_held_are_left_out() {
        let of = |records: &[(&str, &str)]| {
            let records = records.iter().map(|(key, value)| (key.as_bytes().to_vec(), (*value).into()));
            let (pax, notes) = (Pax { records: records.collect() }, Notes::default());
            let names: Vec<_> = pax.xattrs(&notes).unwrap().into_keys().collect();
            (names.concat(), notes.count(Note::Attributes), pax.has_access_list())
        };
        let held = ("SCHILY.xattr.user.a", "1");
        assert_eq!(of(&[held, ("LIBARCHIVE.xattr.user.a", "MQ")]), (b"user.a".to_vec(), 0, false));
        assert_eq!(of(&[held, ("LIBARCHIVE.xattr.user.b", "MQ")]), (b"user.a".to_vec(), 1, false));
        for foreign in ["com.apple.provenance", "system.nfs4_acl", "user.", "btrfs.compression"] {
            assert_eq!(
                of(&[held, (&format!("SCHILY.xattr.{foreign}"), "1")]),
                (b"user.a".to_vec(), 1, false)
            );
        }
        for list in [
            "SCHILY.acl.access",
            "SCHILY.acl.default",
            "SCHILY.acl.ace",
            "GNU.acl.access",
            "SCHILY.xattr.system.posix_acl_default",
        ] {
            assert_eq!(of(&[held, (list, "user::rwx")]), (b"user.a".to_vec(), 0, true), "{list}");
        }
    }

    #[test]
    fn pieces_become_a_map() {
        let record = |key: &str, value: &str| {
            let rest = key.len() + value.len() + 3;
            format!("{} {key}={value}\n", rest + if rest < 98 { 2 } else { 3 })
        };
        let (offset, len) = ("GNU.sparse.offset", "GNU.sparse.numbytes");
        let all = [(offset, "0"), (len, "3"), (offset, "10"), (len, "0")];
        let text: String = all.iter().map(|(key, value)| record(key, value)).collect();
        let pax = Pax::parse(text.as_bytes()).unwrap();
        assert!(pax.is_sparse() && pax.get("GNU.sparse.map") == Some(b"0,3,10,0"), "{pax:?}");
        for wrong in [record(len, "3"), record(offset, "0") + &record(offset, "1")] {
            assert!(matches!(Pax::parse(wrong.as_bytes()), Err(Refusal::Sparse(_))), "{wrong}");
        }
    }

    #[test]
    fn times() {
        let mtime = |value: &str| {
            let pax = Pax { records: [(b"mtime".to_vec(), value.into())].into() };
            pax.mtime().map(Option::unwrap)
        };
        assert_eq!(mtime("12.999"), Ok(12));
        assert_eq!(mtime("-5.5"), Ok(0));
        assert_eq!(mtime("+5."), Ok(5));
        assert_eq!(mtime("99999999999999999999999"), Ok(u32::MAX));
        for bad in ["x", ".5", "1.x", "1 ", "--1", "-", "+-1"] {
            assert!(mtime(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_extension_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(pax) = Pax::parse(&bytes) {
                let _ = (pax.mtime(), pax.xattrs(&Notes::default()), pax.size(), pax.is_sparse());
            }
        }
    }
}
