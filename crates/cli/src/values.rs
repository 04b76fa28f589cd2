//! Values on the command line: each parser says what it wants.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TypedValueParser};
use vmette::{VsockConnect, VsockForward};

/// A number, or the words that the original used.
pub(crate) fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expects a number".to_owned())
}

/// A size in MiB: `512`, `512M`, `2G`.
pub(crate) fn mib(text: &str) -> Result<u64, String> {
    match scaled(text, &[('m', 0), ('g', 10)], "expects a number of MiB, or one with M or G behind it")? {
        0 => Err("expects more than 0".into()),
        mib => Ok(mib),
    }
}

/// A size in bytes: `512`, `4K`, `512M`, `2G`, `1T`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let units = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];
    scaled(text, &units, "expects a number of bytes, or one with K, M, G or T behind it")
}

/// A number, with a unit behind it if need be: its letter, and by how many bits it shifts the number.
fn scaled(text: &str, units: &[(char, u32)], expects: &str) -> Result<u64, String> {
    let text = text.trim();
    let last = text.chars().last().unwrap_or_default().to_ascii_lowercase();
    let (digits, shift) = match units.iter().find(|(letter, _)| *letter == last) {
        Some((_, shift)) => (&text[..text.len() - 1], *shift),
        None => (text, 0),
    };
    let number: u64 = digits.trim().parse().map_err(|_| expects.to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "is too large".to_owned())
}

/// A parser of values that need not be UTF-8.
pub(crate) fn os<T: Clone + Send + Sync + 'static>(
    parse: fn(&OsStr) -> Result<T, String>,
) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(move |text| parse(&text))
}

/// `KEY=VALUE`, or `KEY` for the caller's own value.
pub(crate) fn env(text: &OsStr) -> Result<(OsString, OsString), String> {
    let bytes = text.as_bytes();
    let (key, value) = match bytes.iter().position(|b| *b == b'=') {
        Some(at) => (OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
        None => (
            text,
            std::env::var_os(text)
                .ok_or_else(|| format!("expects KEY=VALUE; there is no variable {text:?} to pass on"))?,
        ),
    };
    if !vmette::is_valid_env_key(key) {
        return Err("expects KEY=VALUE; the name of the variable is empty".to_owned());
    }
    Ok((key.to_owned(), value))
}

/// A host, with a port if need be: what is compared with the host of a URL.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if text.is_empty() || !text.bytes().all(plain) {
        return Err("expects HOST or HOST:PORT, without a scheme and without a path".into());
    }
    Ok(text.to_ascii_lowercase())
}

/// The replacement of an image's entrypoint: nothing, a program, or a program and its first arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entrypoint(pub(crate) Vec<String>);

/// A program; `["a","b"]` with arguments; nothing for none.
pub(crate) fn entrypoint(text: &str) -> Result<Entrypoint, String> {
    if text.is_empty() {
        return Ok(Entrypoint(Vec::new()));
    }
    if text.starts_with('[') {
        return serde_json::from_str(text)
            .map(Entrypoint)
            .map_err(|e| format!("expects a program, or a JSON array of strings: {e}"));
    }
    Ok(Entrypoint(vec![text.to_owned()]))
}

/// `PORT=SOCKET`, a port of the host.
pub(crate) fn vsock(text: &str) -> Result<VsockForward, String> {
    let (port, path) = port_and_socket(text)?;
    Ok(VsockForward { port, path })
}

/// `PORT=SOCKET`, a port of the guest.
pub(crate) fn vsock_connect(text: &str) -> Result<VsockConnect, String> {
    let (port, path) = port_and_socket(text)?;
    Ok(VsockConnect { port, path })
}

fn port_and_socket(text: &str) -> Result<(u32, PathBuf), String> {
    let (port, path) = text.split_once('=').ok_or("expects PORT=SOCKET")?;
    if path.is_empty() {
        return Err("expects PORT=SOCKET; the path is empty".into());
    }
    let port = number::<u32>(port).map_err(|e| format!("{port:?}: {e}"))?;
    Ok((port, path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(mib("512"), Ok(512));
        assert_eq!(mib(" 700M "), Ok(700));
        assert_eq!(mib("2g"), Ok(2048));
        for wrong in ["", "0", "0G", "-1", "1T", "1.5G", "18446744073709551615G", "G"] {
            assert!(mib(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_in_bytes() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("3k"), Ok(3 << 10));
        assert_eq!(bytes("10G"), Ok(10 << 30));
        assert_eq!(bytes(" 1T"), Ok(1 << 40));
        for wrong in ["", "G", "-1", "1.5G", "18446744073709551615K"] {
            assert!(bytes(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn vsock_ports() {
        assert_eq!(vsock("5000=/a=b").unwrap(), VsockForward { port: 5000, path: "/a=b".into() });
        assert_eq!(vsock_connect("80=/a").unwrap(), VsockConnect { port: 80, path: "/a".into() });
        for wrong in ["", "5000", "5000=", "=/a", "x=/a", "-1=/a", "4294967296=/a"] {
            assert!(vsock(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn variables_have_the_names_and_bytes_that_programs_give_them() {
        let of = |text: &[u8]| env(OsStr::from_bytes(text));
        let pair = |key: &str, value: &[u8]| Ok((key.into(), OsStr::from_bytes(value).to_owned()));
        assert_eq!(of(b"A=b=c"), pair("A", b"b=c"));
        assert_eq!(of(b"discovery.type=single-node"), pair("discovery.type", b"single-node"));
        assert_eq!(of(b"1 a-b="), pair("1 a-b", b""));
        assert_eq!(of(b"A=\xff\n"), pair("A", b"\xff\n"));
        assert_eq!(of(b"PATH").unwrap().0, "PATH");
        for wrong in ["=x", "=", "", "VMETTE_SURELY_NOT_SET"] {
            assert!(of(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn hosts() {
        assert_eq!(host("Registry.example:5000"), Ok("registry.example:5000".into()));
        assert_eq!(host("[::1]:5000"), Ok("[::1]:5000".into()));
        for wrong in ["", "http://a", "a/b", "user@a", "a b"] {
            assert!(host(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn entrypoints() {
        assert_eq!(entrypoint("").unwrap().0, Vec::<String>::new());
        assert_eq!(entrypoint("/bin/a b").unwrap().0, ["/bin/a b"]);
        assert_eq!(entrypoint(r#"["a","-b c"]"#).unwrap().0, ["a", "-b c"]);
        assert_eq!(entrypoint("[]").unwrap().0, Vec::<String>::new());
        assert!(entrypoint("[1]").is_err() && entrypoint("[").is_err());
    }

    #[test]
    fn numbers_say_so_in_the_words_of_the_original() {
        assert_eq!(number::<i64>("1234x"), Err("expects a number".into()));
        assert_eq!(number::<i64>("-1"), Ok(-1));
    }
}
