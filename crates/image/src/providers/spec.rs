//! The part of specs that providers share: `SCHEME+file://` URLs.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{self, Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::error::{ProviderError, Result};
use crate::sniff::FileKind;

/// Longest spec, in bytes: a path in which every byte is percent-encoded.
pub(crate) const SPEC_MAX: usize = 3 * 4096 + 64;

/// Bytes of a path that a URL has encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'_')
    .remove(b'-')
    .remove(b'+')
    .remove(b'~')
    .remove(b':')
    .remove(b'@')
    .remove(b',')
    .remove(b'=');

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
    let escapes = encoded.split('%').skip(1);
    // The decoder leaves a malformed escape as it is.
    let is_well_formed =
        |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    let decoded: Vec<u8> = percent_decode_str(encoded).collect();
    let is_path = escapes.into_iter().all(is_well_formed) && !decoded.contains(&0);
    is_path.then(|| OsString::from_vec(decoded).into())
}

/// The path as a URL has it, so that a suggested spec can be pasted as it is.
pub(crate) fn encode_path(path: &Path) -> String {
    percent_encode(path.as_os_str().as_bytes(), ENCODED).to_string()
}

/// Opens a regular file; anything else is an error, which says how a directory is named.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    vmette_http::open_regular(path).map_err(|e| match e.kind() {
        io::ErrorKind::IsADirectory => ProviderError::InvalidSpec(format!(
            "{} is a directory: give its path alone as the rootfs",
            path.display()
        )),
        io::ErrorKind::InvalidInput => {
            ProviderError::InvalidSpec(format!("{} is not a regular file", path.display()))
        }
        _ => ProviderError::io("cannot open", path)(e),
    })
}

/// A name for a kind of file, and the spec that takes such a file, if one does.
pub(crate) fn advice(kind: FileKind, path: &Path) -> String {
    let saved = format!("docker-archive:{} if an image was saved in it", path.display());
    let url = |scheme: &str| format!("use {scheme}+file://{}", encode_path(path));
    match kind {
        FileKind::Squashfs => format!("a squashfs image: {}", url("squashfs")),
        FileKind::Tar => format!("a tar archive: {}; {saved}", url("tar")),
        FileKind::Gzip | FileKind::Zstd | FileKind::Xz => {
            format!("a compressed file: if it is a tar archive, {}; {saved}", url("tar"))
        }
        FileKind::Elf => {
            "a program, not a rootfs: name a directory, a squashfs image or a tar archive".to_owned()
        }
        FileKind::Other => "neither a directory, nor a squashfs image, nor a tar archive".to_owned(),
    }
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
