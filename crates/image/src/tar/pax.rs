//! Extended headers: `LENGTH KEY=VALUE\n`, where values may hold any byte.

use std::collections::BTreeMap;

use super::error::{Refusal, shown};

/// Longest extended header, or GNU long name, in bytes: an entry's attributes may take 64 KiB each.
pub(super) const EXTENSION_MAX: u64 = 1 << 20;
/// Longest value of an extended attribute that Linux knows, in bytes.
const XATTR_VALUE_MAX: usize = 65_536;
/// Longest name of one, with its namespace.
const XATTR_NAME_MAX: usize = 255;

const XATTR_KEY: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE_XATTR_KEY: &[u8] = b"LIBARCHIVE.xattr.";

/// The fields of an entry's extended header. The last record of a key counts.
#[derive(Debug, Default)]
pub(super) struct Pax {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Pax {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, Refusal> {
        let mut records = BTreeMap::new();
        while !bytes.is_empty() {
            let (record, rest) =
                split_record(bytes).ok_or(Refusal::Extension("a record's length is wrong"))?;
            let equals = record.iter().position(|&byte| byte == b'=');
            let (key, value) = record.split_at(equals.ok_or(Refusal::Extension("a record has no `=`"))?);
            if key.is_empty() || key.contains(&0) {
                return Err(Refusal::Extension("a record's key is empty or holds a NUL"));
            }
            records.insert(key.to_vec(), value[1..].to_vec());
            bytes = rest;
        }
        Ok(Self { records })
    }

    /// A global header changes all entries after it. Only notes are let through (`git archive` writes one): anything
    /// else would have to be merged into every entry.
    pub(super) fn check_global(&self) -> Result<(), Refusal> {
        match self.records.keys().all(|key| key == b"comment") {
            true => Ok(()),
            false => Err(Refusal::Extension("a global one may hold nothing but comments")),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        // An empty value takes the record back.
        self.records.get(key.as_bytes()).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// An unsigned number.
    pub(super) fn number(&self, key: &'static str) -> Result<Option<u64>, Refusal> {
        self.get(key).map(|value| decimal(value).ok_or(Refusal::Number { field: key })).transpose()
    }

    /// Whole seconds since 1970, as squashfs holds them; before 1970 and after 2106 the nearest that it can hold.
    pub(super) fn mtime(&self) -> Result<Option<u32>, Refusal> {
        let Some(value) = self.get("mtime") else { return Ok(None) };
        let bad = Refusal::Number { field: "mtime" };
        let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
            Some(dot) => (&value[..dot], &value[dot + 1..]),
            None => (value, &b""[..]),
        };
        let (negative, digits) = whole.strip_prefix(b"-").map_or((false, whole), |digits| (true, digits));
        if digits.is_empty() || !digits.iter().chain(fraction).all(u8::is_ascii_digit) {
            return Err(bad);
        }
        let seconds = decimal(digits).map_or(u32::MAX, |seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        Ok(Some(if negative { 0 } else { seconds }))
    }

    /// Attributes that squashfs holds. Those outside of Linux's namespaces (a Mac's `com.apple.…`) are not attributes
    /// on Linux at all and are left out; those it cannot hold are refused, since they decide about access.
    pub(super) fn xattrs(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Refusal> {
        let mut xattrs = BTreeMap::new();
        for (key, value) in &self.records {
            if let Some(name) = key.strip_prefix(LIBARCHIVE_XATTR_KEY) {
                let twin = [XATTR_KEY, name].concat();
                if in_namespace(name) && !self.records.contains_key(&twin) {
                    return Err(xattr_refusal(
                        name,
                        "has no SCHILY.xattr record; pack with GNU tar --xattrs",
                    ));
                }
            } else if key.starts_with(b"SCHILY.acl.") || key.starts_with(b"GNU.acl.") {
                return Err(xattr_refusal(key, "cannot be held by squashfs; pack without --acls"));
            } else if let Some(name) = key.strip_prefix(XATTR_KEY) {
                if name.starts_with(b"system.") {
                    return Err(xattr_refusal(name, "cannot be held by squashfs; pack without ACLs"));
                }
                if name.len() > XATTR_NAME_MAX || value.len() > XATTR_VALUE_MAX {
                    return Err(xattr_refusal(name, "is longer than Linux lets it be"));
                }
                if in_namespace(name) {
                    xattrs.insert(name.to_vec(), value.clone());
                }
            }
        }
        Ok(xattrs)
    }
}

fn in_namespace(name: &[u8]) -> bool {
    [b"user.".as_slice(), b"trusted.", b"security."]
        .iter()
        .any(|space| name.starts_with(space) && name != *space)
}

fn xattr_refusal(name: &[u8], why: &'static str) -> Refusal {
    Refusal::Xattr { name: shown(name), why }
}

/// The first record without its length and newline, and what follows.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(8).position(|&byte| byte == b' ')?;
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
        assert_eq!(pax.xattrs().unwrap()[&b"user.a"[..]], b"b\n=\0");
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
    fn times() {
        let mtime = |value: &str| {
            let pax = Pax { records: [(b"mtime".to_vec(), value.into())].into() };
            pax.mtime().map(Option::unwrap)
        };
        assert_eq!(mtime("12.999"), Ok(12));
        assert_eq!(mtime("-5.5"), Ok(0));
        assert_eq!(mtime("99999999999999999999999"), Ok(u32::MAX));
        for bad in ["x", ".5", "1.x", "1 ", "--1", "-"] {
            assert!(mtime(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_extension_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(pax) = Pax::parse(&bytes) {
                let _ = (pax.mtime(), pax.xattrs(), pax.number("size"), pax.check_global());
            }
        }
    }
}
