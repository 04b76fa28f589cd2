//! What layers remove, what they must not, and whose fault it is.

use std::io::{self, Read};

use super::*;
use crate::sniff::FileKind;

/// A layer of these names: `d/` is a directory, `a -> b` a symbolic link, `a = b` a hard link, anything else a file
/// that holds its own name.
fn pack(names: &[&str]) -> Vec<u8> {
    let mut tar = CleanTar::without_root(Vec::new());
    for name in names {
        let (file, dir) = (Meta::root_owned(0o644), Meta::root_owned(0o750));
        if let Some((name, target)) = name.split_once(" -> ") {
            tar.node(name.as_bytes(), &file, Node::Symlink(target.as_bytes())).unwrap();
        } else if let Some((name, target)) = name.split_once(" = ") {
            tar.node(name.as_bytes(), &file, Node::HardLink(target.as_bytes())).unwrap();
        } else if name.ends_with('/') {
            tar.dir(name.as_bytes(), &dir).unwrap();
        } else {
            let content = if name.contains(".wh.") { b"" } else { name.as_bytes() };
            tar.file(name.as_bytes(), &file, content).unwrap();
        }
    }
    tar.finish().unwrap()
}

fn of(stack: &[&[&str]]) -> Result<Vec<String>> {
    let packed: Vec<_> = stack.iter().map(|names| pack(names)).collect();
    let applied = applied(packed.iter().map(|bytes| layer(bytes)).collect(), LAYERS)?;
    Ok(listing::of(&applied).into_keys().skip(1).collect())
}

fn refused(stack: &[&[&str]], reason: &str) {
    let message = of(stack).unwrap_err().to_string();
    assert!(
        message.contains(reason) && message.contains("image, layer"),
        "expected {reason:?} in {message:?}"
    );
}

#[test]
fn a_whiteout_removes_what_is_below() {
    assert_eq!(of(&[&["a", "b/c", "b/d"], &[".wh.a", "b/.wh.c"]]).unwrap(), ["b", "b/d"]);
    assert_eq!(of(&[&["d/e/f", "g"], &[".wh.d"]]).unwrap(), ["g"]);
    assert_eq!(of(&[&["d/e", "d/f/g"], &["d/.wh..wh..opq"]]).unwrap(), ["d"]);
    assert_eq!(of(&[&["a", "d/e"], &[".wh..wh..opq", "b"]]).unwrap(), ["b"]);
    assert_eq!(of(&[&["a", "b = a"], &[".wh.a"]]).unwrap(), ["b"]);
    assert_eq!(of(&[&["a -> b", "b"], &[".wh.a"]]).unwrap(), ["b"]);
    assert_eq!(of(&[&["a"], &[".wh.a"], &["a"]]).unwrap(), ["a"]);
}

/// As ko names its program, and Kaniko the targets of hard links.
#[test]
fn absolute_paths_begin_at_the_images_root() {
    assert_eq!(of(&[&["/", "/ko-app/a", "//b = /ko-app/a"]]).unwrap(), ["b", "ko-app", "ko-app/a"]);
    assert_eq!(of(&[&["d/e", "f"], &["/d/.wh.e", "/.wh.f"]]).unwrap(), ["d"]);
    refused(&[&["/../a"]], "`..`");
    refused(&[&["a = /../b"]], "not an earlier file");
}

#[test]
fn a_whiteout_leaves_its_own_layer_alone() {
    for names in [&[".wh.a", "a"], &["a", ".wh.a"]] {
        assert_eq!(of(&[&["a"], names]).unwrap(), ["a"]);
    }
    for names in [&["d/.wh..wh..opq", "d/new/x"], &["d/new/x", "d/.wh..wh..opq"]] {
        assert_eq!(of(&[&["d/old", "d/new/old"], names]).unwrap(), ["d", "d/new", "d/new/x"]);
    }
    assert_eq!(of(&[&["d/old"], &["d/new", ".wh.d"]]).unwrap(), ["d", "d/new"]);
    assert_eq!(of(&[&["d/old", "l -> d"], &["l/new", ".wh.d"]]).unwrap(), ["d", "d/new", "l"]);
}

#[test]
fn a_whiteout_of_nothing_is_nothing() {
    assert_eq!(of(&[&[".wh.a", "b/.wh.c", "x/y/.wh..wh..opq"]]).unwrap(), Vec::<String>::new());
    assert_eq!(of(&[&["f"], &["f/.wh.c", "f/.wh..wh..opq"]]).unwrap(), ["f"]);
}

#[test]
fn a_whiteout_that_cannot_be_meant_is_refused() {
    for bad in [".wh.", ".wh..", ".wh...", "d/.wh..", ".wh..wh.", ".wh..wh.plnk", ".wh.a/b", ".wh.a/"] {
        refused(&[&["d/"], &[bad]], "whiteout");
    }
    refused(&[&[".wh.a -> b"]], "whiteout");
    refused(&[&["a", ".wh.b = a"]], "whiteout");
    for through in ["l/.wh.x", "l/.wh..wh..opq", "l/e/.wh.x"] {
        refused(&[&["d/x", "d/e/x", "l -> d"], &[through]], "which is a symbolic link");
    }
    // In an archive that is no layer such names are like any other.
    let bytes = pack(&[".wh.", ".wh.a/b", ".wh..wh..opq"]);
    let names = listing::of(&applied(vec![layer(&bytes)], ARCHIVE).unwrap());
    assert_eq!(names.len(), 5);
}

#[test]
fn content_outlives_its_first_name_and_layer() {
    let (below, above) = (pack(&["a"]), pack(&["b = a", "a"]));
    let applied = applied(vec![layer(&below), layer(&above)], LAYERS).unwrap();
    let listing = listing::of(&applied);
    assert_eq!(listing["b"].what, format!("file {:?}", b"a"));
    assert_ne!(listing["a"].same_as, listing["b"].same_as);
}

#[test]
fn hard_links_to_what_is_not_there_are_refused() {
    for bad in
        [&["a = a"][..], &["a = missing"], &["d/", "a = d"], &["d/f", "d = d/f"], &["a = ../a"], &["a = /a"]]
    {
        refused(&[&["x"], bad], "not an earlier file");
    }
    refused(&[&["x"], &[".wh.x", "a = x"]], "not an earlier file");
}

/// One directory of the layer's own, emptied again and again: each time all of it is looked at.
#[test]
fn emptying_is_bounded() {
    let mut names: Vec<String> = (0..9000).map(|n| format!("d/{n}")).collect();
    names.extend((0..9000).map(|_| "d/.wh..wh..opq".to_owned()));
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let bytes = pack(&names);
    let rules = Rules { max_bytes: 1 << 30, ..LAYERS };
    let error = refusal(applied(vec![layer(&bytes)], rules).unwrap_err());
    assert!(matches!(error, ArchiveError::TooMuchWork { .. }), "{error}");
}

#[test]
fn layers_share_one_limit() {
    let bytes = pack(&["a", "b"]);
    let rules = Rules { max_bytes: bytes.len() as u64 * 2, ..LAYERS };
    applied(vec![layer(&bytes), layer(&bytes)], rules).unwrap();
    let error = applied(vec![layer(&bytes), layer(&bytes), layer(&bytes)], rules).unwrap_err();
    assert!(error.to_string().contains("LIMIT=BYTES"), "{error}");
}

#[test]
fn diff_ids_are_verified_to_the_last_byte() {
    let mut bytes = pack(&["a"]);
    bytes.extend([0; 4096]);
    let diff_id = Digest::of(&bytes);
    let compressed = zstd::encode_all(&bytes[..], 1).unwrap();
    let with = |expected| Layer { diff_id: Some(expected), ..layer(&compressed) };
    assert_eq!(applied(vec![with(diff_id)], LAYERS).unwrap().diff_ids, [diff_id]);
    let error = applied(vec![with(Digest::of(b"other"))], LAYERS).unwrap_err().to_string();
    assert!(
        error.contains(&diff_id.to_string()) && error.contains(&Digest::of(b"other").to_string()),
        "{error}"
    );
    // A digest tells that an archive is complete; without one it has to say so itself.
    let cut = &bytes[..1024];
    applied(vec![Layer { diff_id: Some(Digest::of(cut)), ..layer(cut) }], LAYERS).unwrap();
    assert!(matches!(
        refusal(applied(vec![layer(cut)], LAYERS).unwrap_err()),
        ArchiveError::Truncated { .. }
    ));
    applied(vec![Layer { diff_id: Some(Digest::of(b"")), ..layer(b"") }], LAYERS).unwrap();
    applied(vec![layer(&[0; 1024])], LAYERS).unwrap();
}

#[test]
fn compression_that_is_not_what_was_said() {
    let bytes = zstd::encode_all(&pack(&["a"])[..], 1).unwrap();
    let said = Layer { compression: Some(FileKind::Gzip), ..layer(&bytes) };
    let error = applied(vec![said], LAYERS).unwrap_err().to_string();
    assert!(error.contains("decompressed"), "{error}");
}

/// Gives some bytes, and then fails or ends.
struct Failing {
    bytes: io::Cursor<Vec<u8>>,
    error: Option<ReadError>,
}

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (self.bytes.read(buffer)?, self.error.take()) {
            (0, Some(error)) => Err(error.into()),
            (read, error) => {
                self.error = error;
                Ok(read)
            }
        }
    }
}

fn lies() -> ReadError {
    ReadError::TooLong { path: "x".into(), limit: 1, variable: "LIMIT" }
}

/// Also when the archive was complete by then: a reader's last word is whether its digest was right.
#[test]
fn the_reader_has_the_last_word() {
    let good = pack(&["a"]);
    for bytes in [good.clone(), zstd::encode_all(&good[..], 1).unwrap(), good[..700].to_vec()] {
        let reader = Failing { bytes: io::Cursor::new(bytes), error: Some(lies()) };
        let failing = Layer { open: Box::new(move || Ok(Box::new(reader))), ..layer(b"") };
        let error = applied(vec![failing], LAYERS).unwrap_err();
        assert!(matches!(&error, ConvertError::Read(ReadError::TooLong { .. })), "{error}");
    }
    let closed: Open<'_> = Box::new(|| Err(lies()));
    let error = applied(vec![Layer { open: closed, ..layer(b"") }], LAYERS).unwrap_err();
    assert!(matches!(&error, ConvertError::Read(ReadError::TooLong { .. })), "{error}");
}

/// The lowest layer's reader goes on for as long as anybody listens.
#[test]
fn one_failure_ends_all() {
    let endless = Layer { open: Box::new(|| Ok(Box::new(io::repeat(0)))), ..layer(b"") };
    let rules = Rules { max_bytes: u64::MAX, ..LAYERS };
    let error = refusal(applied(vec![endless, layer(b"no tar")], rules).unwrap_err());
    assert!(matches!(error, ArchiveError::NotTar), "{error}");
}

#[test]
fn cancelling_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    let work = Work::quiet();
    let cancel = work.cancel().clone();
    let head = pack(&["a"])[..1024].to_vec();
    let open: Open<'_> = Box::new(move || {
        // In the middle of the layer.
        cancel.cancel();
        Ok(Box::new(io::Cursor::new(head).chain(io::repeat(0))))
    });
    let rules = Rules { max_bytes: u64::MAX, ..LAYERS };
    let cancelled = apply(vec![Layer { open, ..layer(b"") }], rules, &work, dir.path());
    assert!(matches!(cancelled, Err(ConvertError::Cancelled(_))), "{:?}", cancelled.map(|_| ()));
}
