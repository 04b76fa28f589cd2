//! Values on the command line: each parser says what it wants.

use std::path::PathBuf;
use std::str::FromStr;

use vmette::{ShareMount, VsockConnect, VsockForward};

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

/// `KEY=VALUE`, or `KEY` for the caller's own value.
pub(crate) fn env(text: &str) -> Result<(String, String), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, value.to_owned()),
        None => (
            text,
            std::env::var(text)
                .map_err(|_| format!("expects KEY=VALUE; there is no variable {text:?} to pass on"))?,
        ),
    };
    if !vmette::is_valid_env_key(key) {
        return Err(format!(
            "{key:?} is no variable name: letters, digits and _ only, and no digit in front"
        ));
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

/// `TAG=PATH[:ro|:rw]`.
pub(crate) fn share(text: &str) -> Result<ShareMount, String> {
    let (tag, path) = text.split_once('=').ok_or("expects TAG=PATH")?;
    let (path, read_only) = access(path);
    if path.is_empty() {
        return Err("expects TAG=PATH; the path is empty".into());
    }
    Ok(ShareMount { read_only, ..ShareMount::new(tag, path) })
}

/// `HOST:GUEST[:ro|:rw]`. The tag is made when all volumes are known.
pub(crate) fn volume(text: &str) -> Result<Volume, String> {
    let (paths, read_only) = access(text);
    // The last colon: a host path may contain one, a guest path starts with a slash.
    let (host, guest) =
        paths.rsplit_once(":/").ok_or("expects HOST:GUEST[:ro], GUEST being an absolute path")?;
    if host.is_empty() {
        return Err("expects HOST:GUEST[:ro]; the host path is empty".into());
    }
    Ok(Volume { host: host.into(), guest: format!("/{guest}"), read_only })
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

fn access(text: &str) -> (&str, bool) {
    if let Some(path) = text.strip_suffix(":ro") {
        return (path, true);
    }
    (text.strip_suffix(":rw").unwrap_or(text), false)
}

/// The value of `-v`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) read_only: bool,
}

impl Volume {
    /// A share with a tag of its own.
    pub(crate) fn into_share(self, index: usize) -> ShareMount {
        ShareMount {
            tag: format!("volume{index}"),
            path: self.host,
            read_only: self.read_only,
            target: Some(self.guest),
        }
    }
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
    fn shares_and_volumes() {
        let s = share("work=/a=b:ro").unwrap();
        assert_eq!((s.tag.as_str(), s.path.to_str(), s.read_only), ("work", Some("/a=b"), true));
        assert!(!share("w=/a:rw").unwrap().read_only);
        assert!(share("/a").is_err() && share("w=").is_err());
        let v = volume("./a:b:/work/c:ro").unwrap();
        assert_eq!(v, Volume { host: "./a:b".into(), guest: "/work/c".into(), read_only: true });
        assert_eq!(volume("/a:/b").unwrap().into_share(3).tag, "volume3");
        for wrong in ["/a", "/a:b", ":/b", "", ":ro"] {
            assert!(volume(wrong).is_err(), "{wrong:?}");
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
    fn environment() {
        assert_eq!(env("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(env("PATH").unwrap().0, "PATH");
        for wrong in ["1=2", "=x", "A B=c", "VMETTE_SURELY_NOT_SET"] {
            assert!(env(wrong).is_err(), "{wrong:?}");
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
