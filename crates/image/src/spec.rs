//! The part of specs that providers share: `SCHEME+file://` URLs.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{self, Path, PathBuf};

use crate::error::{ProviderError, Result};

/// Longest spec, in bytes: a path in which every byte is percent-encoded.
pub(crate) const SPEC_MAX: usize = 3 * 4096 + 64;

/// The file that `<scheme>+file://…` names. Percent-encoding is decoded; `?` and `#` are part of the path.
pub(crate) fn file_url(scheme: &str, spec: &str) -> Result<PathBuf> {
    let invalid = |reason: String| ProviderError::InvalidSpec(format!("{spec:?}: {reason}"));
    let form = format!("{scheme}+file:///PATH with an absolute path");
    let rest = spec
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("+file://"))
        .ok_or_else(|| invalid(format!("the form is {form}")))?;
    let encoded = rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest);
    if encoded.is_empty() || encoded == "localhost" {
        return Err(invalid(format!("names no file; the form is {form}")));
    }
    if !encoded.starts_with('/') {
        let hint = percent_decode(encoded)
            .and_then(|relative| path::absolute(relative).ok())
            .map_or(form, |absolute| format!("{scheme}+file://{}", encode_path(&absolute)));
        return Err(invalid(format!(
            "the path after file:// must be absolute; for a file of this machine use {hint}"
        )));
    }
    percent_decode(encoded).ok_or_else(|| {
        invalid("holds a % that is not followed by two hexadecimal digits, or a NUL".to_owned())
    })
}

/// `%41` becomes `A`. None for a malformed escape, or a NUL, which no path may hold.
fn percent_decode(encoded: &str) -> Option<PathBuf> {
    let mut bytes = encoded.bytes();
    let mut decoded = Vec::with_capacity(encoded.len());
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        };
        if byte == 0 {
            return None;
        }
        decoded.push(byte);
    }
    Some(OsString::from_vec(decoded).into())
}

/// The path as a URL has it, so that a suggested spec can be pasted as it is.
pub(crate) fn encode_path(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().fold(String::new(), |mut url, &byte| {
        if byte.is_ascii_alphanumeric() || b"/._-+~:@,=".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
        url
    })
}

/// Opens a regular file; anything else is an error. Without blocking on a FIFO, whose writer may never come.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(ProviderError::io("cannot open", path))?;
    let metadata = file.metadata().map_err(ProviderError::io("cannot examine", path))?;
    if metadata.is_file() {
        return Ok(file);
    }
    let what = if metadata.is_dir() {
        "a directory: give its path alone as the rootfs"
    } else {
        "not a regular file"
    };
    Err(ProviderError::InvalidSpec(format!("{} is {what}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(spec: &str) -> String {
        file_url("tar", spec).unwrap_err().to_string()
    }

    #[test]
    fn forms_of_a_file_url() {
        for (spec, path) in [
            ("tar+file:///a/b.tar", "/a/b.tar"),
            ("tar+file://localhost/a", "/a"),
            ("tar+file:///a%20b%2fc", "/a b/c"),
            ("tar+file:///a?b#c", "/a?b#c"),
        ] {
            assert_eq!(file_url("tar", spec).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn refusals_name_the_remedy() {
        let cwd = std::env::current_dir().unwrap();
        assert!(message("tar+file://./x.tar").contains(&format!("tar+file://{}/x.tar", cwd.display())));
        assert!(message("tar+file://host/x").contains("must be absolute"));
        assert!(message("tar+file:/x").contains("tar+file:///PATH"));
        assert!(message("tar+file://").contains("names no file"));
        assert!(message("tar+file://localhost").contains("names no file"));
        assert!(message("tar+file:///%zz").contains("hexadecimal"));
        assert!(message("tar+file:///a%00b").contains("NUL"));
        assert!(message("tar+file:///%4").contains("hexadecimal"));
    }

    proptest! {
        #[test]
        fn any_path_survives_encoding(bytes in proptest::collection::vec(1u8..=255, 0..64)) {
            let path = PathBuf::from(OsString::from_vec([b"/".as_slice(), &bytes].concat()));
            prop_assert_eq!(file_url("tar", &format!("tar+file://{}", encode_path(&path))).unwrap(), path);
        }

        #[test]
        fn no_spec_panics(spec in "\\PC*") {
            let _ = file_url("tar", &spec);
            let _ = file_url("tar", &format!("tar+file://{spec}"));
        }
    }
}
