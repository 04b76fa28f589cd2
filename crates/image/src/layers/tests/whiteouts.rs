//! What layers remove, what they must not, and whose fault it is.

use std::io::{self, Read};

use super::super::conversion::Open;
use super::*;
use crate::notes::Note;
use crate::read_error::ReadError;
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

/// A whiteout is one by its name, whatever else it is.
#[test]
fn whiteouts_of_any_kind_remove_their_name() {
    let below: &[&str] = &["a/b/bar", "a/old", "a/c/", "f"];
    for mark in ["a/.wh.b/", "a/.wh.b -> c", "a/.wh.b -> nowhere", "a/.wh.b = f"] {
        assert_eq!(of(&[below, &[mark]]).unwrap(), ["a", "a/c", "a/old", "f"], "{mark}");
    }
    let mut tar = CleanTar::without_root(Vec::new());
    tar.file(b"a/.wh.b", &Meta::root_owned(0o644), &[7; 1000]).unwrap();
    tar.file(b"a/new", &Meta::root_owned(0o644), b"content").unwrap();
    let (below, above) = (pack(below), tar.finish().unwrap());
    let listing = listing::of(&applied(vec![layer(&below), layer(&above)], LAYERS).unwrap());
    assert!(!listing.contains_key("a/b") && listing["a/new"].what == format!("file {:?}", b"content"));
    // What is below such a name is a file like others, and old Docker's own marks remove nothing.
    assert_eq!(of(&[&["a"], &[".wh.a/b"]]).unwrap(), [".wh.a", ".wh.a/b", "a"]);
    assert_eq!(of(&[&["a"], &[".wh..wh.plnk/", ".wh..wh.aufs", ".wh..wh.orph/"]]).unwrap(), ["a"]);
}

#[test]
fn whiteouts_follow_links_as_entries_do() {
    let below: &[&str] = &["d/x", "d/y", "d/e/x", "l -> d", "up -> ../../d"];
    assert_eq!(of(&[below, &["l/.wh.x"]]).unwrap(), ["d", "d/e", "d/e/x", "d/y", "l", "up"]);
    assert_eq!(of(&[below, &["up/e/.wh.x"]]).unwrap(), ["d", "d/e", "d/x", "d/y", "l", "up"]);
    assert_eq!(of(&[below, &["l/.wh..wh..opq", "l/new"]]).unwrap(), ["d", "d/new", "l", "up"]);
}

/// A name through which a layer reaches further down gives way, unless it is the layer's own.
#[test]
fn a_lower_layers_file_gives_way_to_a_folder() {
    for lower in [&["opt"][..], &["f", "opt = f"], &["f", "opt = f", "g = f"]] {
        let packed = [pack(lower), pack(&["opt/tool/run"])];
        let applied = applied(packed.iter().map(|bytes| layer(bytes)).collect(), LAYERS).unwrap();
        let listing = listing::of(&applied);
        let (opt, run) = (&listing["opt"], &listing["opt/tool/run"]);
        assert_eq!((&*opt.what, opt.mode, opt.owner), ("dir", 0o755, (0, 0)));
        assert_eq!(run.what, format!("file {:?}", b"opt/tool/run"));
        assert_eq!(applied.notes.count(Note::GaveWay), 1);
        // Other names of the file keep it.
        assert_eq!(listing.len(), lower.len() + 3);
    }
    for upper in [
        &[".wh.opt", "opt/tool/run"][..],
        &["opt/tool/run", ".wh.opt"],
        &["opt/.wh.x", "opt/tool/run"],
        &["opt/.wh..wh..opq", "opt/tool/run"],
        &["opt/", "opt/tool/run"],
    ] {
        assert_eq!(of(&[&["opt"], upper]).unwrap(), ["opt", "opt/tool", "opt/tool/run"], "{upper:?}");
    }
    assert_eq!(of(&[&["opt"], &["opt/x"], &["opt"]]).unwrap(), ["opt"]);
    assert_eq!(of(&[&["d/f", "l -> d"], &["l/f/x"]]).unwrap(), ["d", "d/f", "d/f/x", "l"]);
    for own in [&["opt", "opt/x"][..], &["f", "opt = f", "opt/x"], &["l -> f", "f", "l/x"]] {
        refused(&[own], "not a directory");
        refused(&[&["opt/", "f"], own], "not a directory");
    }
}

/// A folder that is entered by others than its owner must not depend on who has packed it.
#[test]
fn a_root_that_keeps_others_out_is_passed_over() {
    for root in ["./", ".", "/", "", "a/..", ". -> elsewhere", ". = f"] {
        let packed = pack(&["f", root, "a/f"]);
        let applied = applied(vec![layer(&packed)], LAYERS).unwrap();
        let listing = listing::of(&applied);
        assert_eq!((listing[""].mode, listing[""].owner), (0o755, (0, 0)), "{root}");
        assert_eq!(listing.len(), 4, "{root}");
        assert_eq!(applied.notes.count(Note::Root), 1, "{root}");
    }
    let mut tar = CleanTar::without_root(Vec::new());
    tar.dir(b"./", &Meta { mtime: 7, ..Meta::root_owned(0o755) }).unwrap();
    tar.dir(b".", &Meta { uid: 5, mtime: 8, ..Meta::root_owned(0o711) }).unwrap();
    let applied = applied(vec![layer(&tar.finish().unwrap())], LAYERS).unwrap();
    let root = &listing::of(&applied)[""];
    assert_eq!((root.mode, root.owner, root.mtime), (0o711, (5, 0), 8), "everybody can enter it");
    assert!(applied.notes.lines().is_empty());
}

/// As ko names its program, and Kaniko the targets of hard links.
#[test]
fn absolute_paths_begin_at_the_images_root() {
    assert_eq!(of(&[&["/", "/ko-app/a", "//b = /ko-app/a"]]).unwrap(), ["b", "ko-app", "ko-app/a"]);
    assert_eq!(of(&[&["d/e", "f"], &["/d/.wh.e", "/.wh.f"]]).unwrap(), ["d"]);
    assert_eq!(of(&[&["/../a", "b = /../a"]]).unwrap(), ["a", "b"]);
    refused(&[&["../a"]], "`..`");
    refused(&[&["a", "b = ../a"]], "not an earlier file");
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
    for bad in [".wh.", ".wh..", ".wh...", "d/.wh.."] {
        refused(&[&["d/"], &[bad]], "whiteout");
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
        [&["a = a"][..], &["a = missing"], &["d/", "a = d"], &["d/f", "d = d/f"], &["b = ../b"], &["a = /a"]]
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
    let with = applied(vec![Layer { diff_id: Some(Digest::of(cut)), ..layer(cut) }], LAYERS).unwrap();
    let without = applied(vec![layer(cut)], LAYERS).unwrap();
    assert_eq!([with, without].map(|applied| applied.notes.count(Note::NoEnd)), [0, 1]);
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
