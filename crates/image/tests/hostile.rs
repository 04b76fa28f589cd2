//! Archives that must be refused: each with its reason, and with nothing written anywhere.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::fs;
use std::io::Write;

use support::oci::{Image, write_folder};
use support::{Archive, Fields, Place, listing};
use vmette_image::{ProviderError, TarLimits, default_registry};

/// Refused with a message that holds `reason`, as an archive and as a layer; nothing is left of it.
#[track_caller]
fn refused(bytes: &[u8], reason: &str) {
    refused_as_archive(bytes, reason);
    refused_as_layer(bytes, reason);
}

/// The lowest layer of an image, and one that lies on others: all its digests and sizes are right.
#[track_caller]
fn refused_as_layer(bytes: &[u8], reason: &str) {
    let below = Archive::default().dir("below", 0o755).symlink("to-below", "below").end();
    for layers in [vec![bytes.to_vec()], vec![below.clone(), below, bytes.to_vec()]] {
        refused_image(&Image::new(&layers), layers.len(), reason);
    }
}

/// Refused for the sake of this layer, counted from 1.
#[track_caller]
fn refused_image(image: &Image, layer: usize, reason: &str) {
    let place = Place::new();
    let layout = place.root.path().join("layout");
    write_folder(&layout, &image.layout(&["it"]));
    let spec = format!("oci-layout:{}", layout.display());
    let before = place.names();
    let error = default_registry(None).resolve(&spec, &place.context()).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, ProviderError::Image { .. } | ProviderError::Layer { .. }), "{error:?}");
    assert!(message.contains(&format!("layer {layer} of ")), "it names the layer: {message:?}");
    let reason = reason.replace("VMETTE_TAR", "VMETTE_OCI");
    assert!(message.contains(&reason), "expected {reason:?} in {message:?}");
    assert_eq!(place.names(), before, "nothing is left after {message:?}");
}

#[track_caller]
fn refused_as_archive(bytes: &[u8], reason: &str) {
    let place = Place::new();
    let message = place.convert(bytes).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains(reason), "expected {reason:?} in {message:?}");
    assert!(message.contains("archive"), "it names the archive: {message:?}");
    assert_eq!(place.names(), ["archive"], "nothing is left after {message:?}");
}

fn entry(fields: &Fields<'_>) -> Archive {
    Archive::default().entry(fields, b"")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn paths_that_lead_out() {
    let canary = tempfile::tempdir().unwrap();
    let outside = canary.path().join("escaped");
    // An absolute path begins at the image's own root.
    let place = Place::new();
    let listed =
        listing(&place.convert(&Archive::default().file(outside.to_str().unwrap(), b"x").end()).unwrap());
    assert!(listed.contains_key(&outside.to_str().unwrap()[1..]), "{listed:?}");
    refused(&Archive::default().file("../escaped", b"x").end(), "`..`");
    refused(&Archive::default().file("a/../../escaped", b"x").end(), "`..`");
    refused(&Archive::default().dir("..", 0o777).end(), "`..`");
    refused(&Archive::default().symlink("ok", "x").hard_link("a/../../b", "ok").end(), "`..`");
    refused(&Archive::default().pax(&[("path", b"../x")]).file("ok", b"x").end(), "`..`");
    refused(
        &Archive::default()
            .entry(&Fields { kind: b'L', ..Fields::default() }, b"../x\0")
            .file("ok", b"")
            .end(),
        "`..`",
    );
    refused(&Archive::default().file("f", b"x").file("f/g", b"x").end(), "not a directory");
    assert_eq!(fs::read_dir(canary.path()).unwrap().count(), 0);
}

/// A path through a symbolic link ends where the link points to inside of the rootfs, and nowhere else.
#[test]
fn links_are_followed_inside() {
    let canary = tempfile::tempdir().unwrap();
    let outside = canary.path().to_str().unwrap();
    let archive = Archive::default()
        .symlink("out", outside)
        .file("out/f", b"x")
        .symlink("up", "../../..")
        .file("up/g", b"x")
        .dir("in", 0o755)
        .symlink("alias", "in/.")
        .file("alias/h", b"x")
        .hard_link("i", "alias/h")
        .hard_link("other", "alias")
        .file("other/j", b"x")
        .end();
    let place = Place::new();
    let listed = listing(&place.convert(&archive).unwrap());
    let inside = format!("{}/f", &outside[1..]);
    for name in ["g", "i", "in/h", "in/j", &inside] {
        assert!(listed.contains_key(name), "{name}: {listed:?}");
    }
    assert_eq!(fs::read_dir(canary.path()).unwrap().count(), 0);

    refused(
        &Archive::default().symlink("a", "b").symlink("b", "a").file("a/f", b"x").end(),
        "symbolic links",
    );
    refused(&Archive::default().file("f", b"").symlink("a", "f").file("a/g", b"x").end(), "not a directory");
    let long = format!("{}/{}", "n".repeat(256), "m");
    let to_long = Archive::default().pax(&[("linkpath", long.as_bytes())]).symlink("a", "b");
    refused(&to_long.file("a/f", b"x").end(), "255 is the most");
    let deep = "d/".repeat(200);
    let deeper = Archive::default()
        .pax(&[("path", deep.as_bytes())])
        .dir("d", 0o755)
        .pax(&[("linkpath", deep.as_bytes())])
        .symlink("a", "b")
        .pax(&[("path", format!("a/{deep}").as_bytes())])
        .dir("d", 0o755);
    refused(&deeper.end(), "deeper than 256");
}

/// Each path in the archive leads through forty links of two thousand names.
#[test]
fn work_is_bounded() {
    let target = "d/../".repeat(800);
    let mut archive = Archive::default().dir("d", 0o755).symlink("l0", ".");
    for n in 1..40 {
        let to = format!("{target}l{}", n - 1);
        archive = archive.pax(&[("linkpath", to.as_bytes())]).symlink(&format!("l{n}"), "x");
    }
    for _ in 0..1000 {
        archive = archive.file("l39/f", b"");
    }
    // Long work, whoever asks for it: once is enough.
    refused_as_archive(&archive.end(), "steps");
}

#[test]
fn links_to_what_is_not_there() {
    refused(&Archive::default().hard_link("passwd", "/etc/passwd").end(), "not an earlier file");
    refused(&Archive::default().hard_link("passwd", "../../etc/passwd").end(), "not an earlier file");
    refused(&Archive::default().hard_link("a", "b").file("b", b"").end(), "not an earlier file");
    refused(&Archive::default().hard_link("a", "a").end(), "not an earlier file");
    refused(&Archive::default().dir("d", 0o755).hard_link("a", "d").end(), "not an earlier file");
    refused(&Archive::default().hard_link("a", "").end(), "not an earlier file");
    refused(&Archive::default().symlink("a", "").end(), "link target");
    refused(&Archive::default().pax(&[("linkpath", &[b'x'; 4096])]).symlink("a", "b").end(), "4095 bytes");
    refused(&Archive::default().pax(&[("linkpath", b"a\0b")]).symlink("a", "b").end(), "NUL");
}

#[test]
fn names() {
    let long = |len: usize| Archive::default().pax(&[("path", &vec![b'n'; len])]).file("f", b"").end();
    assert!(Place::new().convert(&long(255)).is_ok());
    refused(&long(256), "255 is the most");
    refused(&long(5000), "4095 is the most");
    refused(
        &Archive::default().pax(&[("path", "d/".repeat(257).as_bytes())]).dir("f", 0o755).end(),
        "deeper than 256",
    );
    refused(&Archive::default().pax(&[("path", b"a\0b")]).file("f", b"").end(), "NUL");
    let escape =
        Place::new().convert(&Archive::default().file("../\x1b[2J", b"").end()).unwrap_err().to_string();
    assert!(!escape.contains('\x1b'), "{escape:?}");
}

#[test]
fn numbers() {
    refused(&Archive::default().pax(&[("uid", b"1e3")]).file("f", b"").end(), "uid");
    refused(&Archive::default().pax(&[("gid", b"9223372036854775808")]).file("f", b"").end(), "gid");
    refused(&Archive::default().pax(&[("size", b"1e3")]).file("f", b"").end(), "size");
    refused(&Archive::default().pax(&[("mtime", b"now")]).file("f", b"").end(), "mtime");
    refused(&Archive::default().pax(&[("size", b"-1")]).file("f", b"").end(), "size");
    let garbage = |field: fn(&mut tar::Header) -> &mut [u8]| {
        let mut header = Fields { kind: b'3', ..Fields::default() }.header();
        field(&mut header).fill(b'x');
        header.set_cksum();
        Archive::default().raw(&header, b"").end()
    };
    refused(&garbage(|header| &mut header.as_old_mut().mode), "mode");
    refused(&garbage(|header| &mut header.as_old_mut().uid), "uid");
    refused(&garbage(|header| &mut header.as_old_mut().gid), "gid");
    refused(&garbage(|header| &mut header.as_old_mut().mtime), "mtime");
    refused(&garbage(|header| &mut header.as_gnu_mut().unwrap().dev_minor), "device number");
}

#[test]
fn kinds_that_no_rootfs_has() {
    for kind in [b'M', b'N', b'E', b'8', b'Z', 0xff] {
        refused(&entry(&Fields { kind, ..Fields::default() }).end(), "cannot be part of a rootfs");
    }
}

#[test]
fn extended_headers() {
    let extension = |content: &[u8]| {
        Archive::default().entry(&Fields { kind: b'x', ..Fields::default() }, content).file("f", b"").end()
    };
    refused(&extension(b"99 path=x\n"), "length is wrong");
    refused(&extension(b"9 path=\n"), "length is wrong");
    refused(&extension(&[b'x'; (1 << 20) + 1]), "1048576 is the most");
    refused(&entry(&Fields { kind: b'L', size: 1 << 40, ..Fields::default() }).0, "1048576 is the most");
    refused(
        &Archive::default().pax(&[("SCHILY.xattr.user.a", &[0; 65_537])]).file("f", b"").end(),
        "longer than Linux",
    );
}

#[test]
fn declared_sizes() {
    refused(&entry(&Fields { size: 1 << 50, ..Fields::default() }).end(), "truncated");
    refused(&Archive::default().pax(&[("size", b"9223372036854775807")]).file("f", b"").end(), "truncated");
    let sparse_1 = |map: &[u8], real: &[u8]| {
        let mut map = map.to_vec();
        map.resize(512, 0);
        Archive::default()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", real),
                ("GNU.sparse.name", b"f"),
            ])
            .file("GNUSparseFile.0/f", &map)
            .end()
    };
    refused(&sparse_1(b"0\n", b"1099511627776"), "VMETTE_TAR_MAX_BYTES");
    refused(&sparse_1(b"0\n", b"9223372036854775807"), "VMETTE_TAR_MAX_BYTES");
    refused(&sparse_1(b"1\n0\n10\n", b"5"), "outside of the file");
    refused(&sparse_1(b"2\n0\n0\n18446744073709551615\n5\n", b"9"), "outside of the file");
    refused(&sparse_1(b"1\n0\n3\n", b"5"), "not the size of the content");
    refused(&sparse_1(b"99999999999999999999999\n", b"5"), "cannot be read");
    refused(&sparse_1(b"9999999\n", b"5"), "too many");
    refused(&sparse_1(&[b'1'; 512], b"5"), "cannot be read");
    let sparse_0 =
        |records: &[(&str, &[u8])], content: &[u8]| Archive::default().pax(records).file("f", content).end();
    refused(&sparse_0(&[("GNU.sparse.map", b"0,2"), ("GNU.sparse.size", b"1")], b"x"), "outside of the file");
    refused(
        &sparse_0(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"9")], b"xy"),
        "size of the content",
    );
    refused(&sparse_0(&[("GNU.sparse.map", b"0,1,2"), ("GNU.sparse.size", b"9")], b"x"), "length is missing");
    refused(&sparse_0(&[("GNU.sparse.map", b"0,x"), ("GNU.sparse.size", b"9")], b"x"), "cannot be read");
    refused(
        &sparse_0(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.numblocks", b"2")], b"x"),
        "number of pieces",
    );
    refused(&sparse_0(&[("GNU.sparse.map", b"5,1,0,1"), ("GNU.sparse.size", b"9")], b"xy"), "overlap");
    refused(&sparse_0(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")], b"x"), "none of 0.0, 0.1");
    let bomb = sparse_0(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"1099511627776")], b"x");
    refused(&bomb, "VMETTE_TAR_MAX_BYTES");
    let mut gnu = Fields { kind: b'S', ..Fields::default() }.header();
    gnu.as_gnu_mut().unwrap().realsize = *b"77777777777\0";
    gnu.set_cksum();
    // Of 8 GiB, which an image may have.
    refused_as_archive(&Archive::default().raw(&gnu, b"").end(), "VMETTE_TAR_MAX_BYTES");
    gnu.as_gnu_mut().unwrap().isextended = [1];
    gnu.set_cksum();
    refused(&Archive::default().raw(&gnu, b"").0, "truncated");
}

#[test]
fn bombs() {
    let zeros = vec![0; 3 << 20];
    let archive = Archive::default().file("f", &zeros).end();
    let limits = TarLimits { max_bytes: 1 << 20 };
    for bytes in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
        let place = Place::new();
        let message = place.convert_with(&bytes, limits).unwrap_err().to_string();
        assert!(message.contains("1048576 bytes") && message.contains("VMETTE_TAR_MAX_BYTES"), "{message}");
        assert_eq!(place.names(), ["archive"]);
    }
    // After the end mark, too.
    let mut tail = Archive::default().file("f", b"x").end();
    tail.resize(tail.len() + (3 << 20), 0);
    assert!(Place::new().convert_with(&gzip(&tail), limits).is_err());
    // An xz stream that asks for a dictionary of 4 GiB.
    let dictionary = liblzma::stream::LzmaOptions::new_preset(0).map(|mut options| {
        options.dict_size(1 << 30);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        filters
    });
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&dictionary.unwrap(), liblzma::stream::Check::Crc32)
            .unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(&Archive::default().file("f", b"x").end()).unwrap();
    let asks_for_much = encoder.finish().unwrap();
    refused_as_archive(&asks_for_much, "cannot be read or decompressed");
    refused_as_stored(
        &Archive::default().file("f", b"x").end(),
        &asks_for_much,
        "cannot be read or decompressed",
    );
}

#[test]
fn damage() {
    refused_as_archive(b"", "no entries");
    refused_as_archive(b"hello", "not a tar archive");
    refused_as_archive(&[b'x'; 2048], "not a tar archive");
    refused_as_archive(&[0; 1024], "no entries");
    let good = Archive::default().file("f", &[1; 2000]).file("g", b"").end();
    let mut flipped = good.clone();
    flipped[512 + 2048] ^= 1;
    refused_as_archive(&flipped, "checksum");
    refused_as_archive(&good[..1000], "truncated");
    refused_as_archive(&[&good[..512 + 2048 + 512], &[0; 512], &good].concat(), "zeros is not its end");
    let compressed = gzip(&good);
    refused_as_archive(&compressed[..compressed.len() - 4], "truncated");
    refused_as_archive(&compressed[..compressed.len() / 2], "truncated");
    let mut checksum = compressed.clone();
    let at = checksum.len() - 8;
    checksum[at] ^= 1;
    refused_as_archive(&checksum, "decompressed");
    let compressed = zstd::encode_all(&good[..], 1).unwrap();
    refused_as_archive(&compressed[..compressed.len() - 3], "archive");
}

/// A layer is stored as these bytes, whose digest and size the image has right, and should become something else.
#[track_caller]
fn refused_as_stored(layer: &[u8], stored: &[u8], reason: &str) {
    let mut image = Image::new(&[layer.to_vec()]);
    image.layers[0].0 = stored.to_vec();
    refused_image(&image, 1, reason);
}

#[test]
fn layers_that_are_not_what_their_image_says() {
    let good = Archive::default().file("f", &[1; 2000]).file("g", b"").end();
    let (compressed, other) = (gzip(&good), Archive::default().file("f", b"other").end());
    refused_as_stored(&good, &compressed[..compressed.len() - 4], "truncated");
    refused_as_stored(&good, &compressed[..compressed.len() / 2], "truncated");
    refused_as_stored(&good, b"", "has the digest");
    refused_as_stored(&good, b"hello", "not a tar archive");
    refused_as_stored(&good, &gzip(&other), "has the digest");
    refused_as_stored(&good, &other, "has the digest");
    refused_as_stored(&good, &good[..good.len() - 512], "has the digest");
    refused_as_stored(&good, &[&good[..], &[0; 512]].concat(), "has the digest");
    refused_as_stored(&good, &gzip(&compressed), "not a tar archive");
    let mut checksum = compressed;
    let at = checksum.len() - 8;
    checksum[at] ^= 1;
    refused_as_stored(&good, &checksum, "decompressed");
    // And what its own digest vouches for is no better for that.
    refused_as_layer(&good[..1000], "truncated");
    refused_as_layer(&[b'x'; 2048], "not a tar archive");
    refused_as_layer(&[&[0; 512], &good[..]].concat(), "zeros is not its end");
}

/// What the layers below made is no way out, either.
#[test]
fn layers_that_reach_through_what_others_made() {
    let canary = tempfile::tempdir().unwrap();
    let outside = canary.path().to_str().unwrap();
    fs::write(canary.path().join("precious"), b"kept").unwrap();
    let below = Archive::default()
        .dir("d", 0o755)
        .file("d/f", b"x")
        .symlink("out", outside)
        .symlink("up", "../../../..")
        .symlink("loop", "loop")
        .symlink("in", "d")
        .end();
    for (above, reason) in [
        (Archive::default().file("loop/.wh.f", b""), "symbolic links"),
        (Archive::default().file("d/.wh...", b""), "whiteout"),
        (Archive::default().file("d/.wh.", b""), "whiteout"),
        (Archive::default().file("../.wh.d", b""), "`..`"),
        (Archive::default().hard_link("mine", "out/precious"), "not an earlier file"),
        (Archive::default().hard_link("mine", &format!("..{outside}/precious")), "not an earlier file"),
        (Archive::default().file("loop/f", b""), "symbolic links"),
        (Archive::default().file("d/new", b"").file("d/new/g", b""), "not a directory"),
    ] {
        refused_image(&Image::new(&[below.clone(), above.end()]), 2, reason);
    }
    // Written through the links, it is the image's own directories that are written to.
    let above = Archive::default()
        .file(&format!("{outside}/.wh.precious"), b"")
        .file("up/.wh.in", b"")
        .file("out/precious", b"the image's")
        .file(&format!("{outside}/absolute"), b"the image's")
        .file("up/top", b"")
        .end();
    let place = Place::new();
    let layout = place.root.path().join("layout");
    write_folder(&layout, &Image::new(&[below, above]).layout(&["it"]));
    let made = default_registry(None).resolve(&format!("oci-layout:{}", layout.display()), &place.context());
    let made = support::image(&made.unwrap());
    assert_eq!(support::content(&made, &format!("{}/precious", &outside[1..])), b"the image's");
    assert_eq!(support::content(&made, &format!("{}/absolute", &outside[1..])), b"the image's");
    let listed = listing(&made);
    assert!(listed.contains_key("top") && !listed.contains_key("in -> d"), "{listed:?}");
    assert_eq!(fs::read(canary.path().join("precious")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(canary.path()).unwrap().count(), 1);
}

/// Each limit of a whole archive, by an archive that has a little more of it.
#[test]
fn what_there_is_much_of() {
    let limits = TarLimits { max_bytes: 1 << 40 };
    let refused = |archive: Archive, reason: &str| {
        let place = Place::new();
        let bytes = zstd::encode_all(&archive.end()[..], 1).unwrap();
        let Err(error) = place.convert_with(&bytes, limits) else { panic!("{reason}: was let through") };
        let message = error.to_string();
        assert!(message.contains(reason), "expected {reason:?} in {message:?}");
        assert_eq!(place.names(), ["archive"]);
    };
    let names = (0..260).fold(Archive::default(), |archive, n| {
        archive
            .pax(&[("SCHILY.xattr.user.a", &[n.to_string().as_bytes(), &[0; 65_000]].concat())])
            .file("f", b"")
    });
    refused(names, "bytes of extended attributes");
    let target = vec![b'x'; 4095];
    let links = (0..16_500)
        .fold(Archive::default(), |archive, _| archive.pax(&[("linkpath", &target)]).symlink("a", "b"));
    refused(links, "bytes of names and link targets");
    let owners = (0..65_600).fold(Archive::default(), |archive, uid| {
        archive.entry(&Fields { uid, name: format!("f{uid}").as_bytes(), ..Fields::default() }, b"")
    });
    refused(owners, "owners");
    let mut map = b"260000\n".to_vec();
    (0..260_000).for_each(|_| map.extend_from_slice(b"0\n0\n"));
    map.resize(map.len().next_multiple_of(512), 0);
    let pieces = (0..5).fold(Archive::default(), |archive, _| {
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"0"),
            ("GNU.sparse.name", b"f"),
        ];
        archive.pax(&records).file("GNUSparseFile.0/f", &map)
    });
    refused(pieces, "pieces of sparse files");
}
