//! An image holds exactly what its archive holds.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Archive, Fields, Place, content, listing, unpack};

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let len = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

#[test]
fn owners_modes_times_and_kinds() {
    let archive = Archive::default()
        .entry(
            &Fields { kind: b'5', name: b"./", mode: 0o711, uid: 5, gid: 6, mtime: 42, ..Fields::default() },
            b"",
        )
        .entry(
            &Fields { name: b"./bin/su", mode: 0o4755, uid: 7, gid: 8, mtime: 1, ..Fields::default() },
            b"content",
        )
        .pax(&[("uid", b"4294967294"), ("gid", b"3000000"), ("mtime", b"4294967295.9")])
        .file("big-ids", b"")
        .entry(&Fields { kind: b'5', name: b"tmp", mode: 0o1777, ..Fields::default() }, b"")
        .symlink("link", "/anywhere/../at/all")
        .entry(
            &Fields { kind: b'3', name: b"dev/null", mode: 0o666, device: (1, 3), ..Fields::default() },
            b"",
        )
        .entry(
            &Fields {
                kind: b'4',
                name: b"dev/sda",
                mode: 0o660,
                gid: 6,
                device: (8, 1),
                ..Fields::default()
            },
            b"",
        )
        .entry(&Fields { kind: b'6', name: b"dev/fifo", ..Fields::default() }, b"")
        .end();
    let place = Place::new();
    let image = place.convert(&archive).unwrap();
    let expected = [
        ("", "drwx--x--x 5/6 70 1970-01-01 00:00"),
        ("big-ids", "-rw-r--r-- 4294967294/3000000 0 2106-02-07 06:28"),
        ("bin", "drwxr-xr-x 0/0 25 1970-01-01 00:00"),
        ("bin/su", "-rwsr-xr-x 7/8 7 1970-01-01 00:00"),
        ("dev", "drwxr-xr-x 0/0 49 1970-01-01 00:00"),
        ("dev/fifo", "prw-r--r-- 0/0 0 2001-09-09 01:46"),
        ("dev/null", "crw-rw-rw- 0/0 1, 3 2001-09-09 01:46"),
        ("dev/sda", "brw-rw---- 0/6 8, 1 2001-09-09 01:46"),
        ("link -> /anywhere/../at/all", "lrwxrwxrwx 0/0 19 2001-09-09 01:46"),
        ("tmp", "drwxrwxrwt 0/0 3 2001-09-09 01:46"),
    ];
    let without_dir_size = |(path, facts): (String, String)| {
        let mut facts: Vec<_> = facts.split(' ').map(str::to_owned).collect();
        if facts[0].starts_with('d') {
            facts.remove(2);
        }
        (path, facts)
    };
    let listed: BTreeMap<_, _> = listing(&image).into_iter().map(without_dir_size).collect();
    let expected: BTreeMap<_, _> =
        expected.map(|(path, facts)| without_dir_size((path.to_owned(), facts.to_owned()))).into();
    assert_eq!(listed, expected);
    assert_eq!(content(&image, "bin/su"), b"content");
}

#[test]
fn hard_links_and_attributes() {
    let deep = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let archive = Archive::default()
        .pax(&[("SCHILY.xattr.user.a", b"line\n=\0end"), ("SCHILY.xattr.com.apple.provenance", b"x")])
        .file("f", b"shared")
        .hard_link("dir/g", "./f")
        .hard_link("h", "dir/g")
        .pax(&[("SCHILY.xattr.user.dir", b"on a directory")])
        .dir("dir", 0o750)
        .pax(&[("path", deep.as_bytes())])
        .file("short", b"deep")
        .pax(&[("path", deep.as_bytes()), ("path", b"line\nbreak\x1b[2J \xff")])
        .file("short", b"odd")
        .end();
    let place = Place::new();
    let image = place.convert(&archive).unwrap();
    let out = place.root.path().join("out");
    unpack(&image, &out);
    let inode = |name: &str| fs::metadata(out.join(name)).unwrap().ino();
    assert_eq!([inode("dir/g"), inode("h")], [inode("f"); 2]);
    assert_eq!(fs::metadata(out.join("f")).unwrap().nlink(), 3);
    assert_eq!(xattr(&out.join("f"), "user.a").unwrap(), b"line\n=\0end");
    assert_eq!(xattr(&out.join("dir"), "user.dir").unwrap(), b"on a directory");
    assert_eq!(fs::read(out.join(&deep)).unwrap(), b"deep");
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"line\nbreak\x1b[2J \xff");
    assert_eq!(fs::read(out.join(odd)).unwrap(), b"odd");
}

#[test]
fn a_symbolic_link_and_a_device_may_have_two_names() {
    let archive = Archive::default()
        .symlink("a", "target")
        .hard_link("b", "a")
        .entry(&Fields { kind: b'3', name: b"null", device: (1, 3), ..Fields::default() }, b"")
        .hard_link("zero", "null")
        .end();
    let listed = listing(&Place::new().convert(&archive).unwrap());
    assert!(listed.contains_key("a -> target") && listed.contains_key("b -> target"), "{listed:?}");
    assert!(listed["null"].starts_with('c') && listed["zero"] == listed["null"], "{listed:?}");
}

#[test]
fn the_last_entry_of_a_name_counts() {
    let archive = Archive::default()
        .dir("d", 0o700)
        .file("d/f", b"x")
        .dir("d/", 0o755)
        .file("f", b"1")
        .hard_link("keeps", "f")
        .file("./f", b"22")
        .file("to-dir", b"")
        .dir("to-dir", 0o711)
        .dir("to-link", 0o755)
        .file("to-link/gone", b"")
        .symlink("to-link", "x")
        .end();
    let place = Place::new();
    let image = place.convert(&archive).unwrap();
    let listed = listing(&image);
    assert!(listed["d"].starts_with("drwxr-xr-x") && listed.contains_key("d/f"), "{listed:?}");
    assert!(listed["to-dir"].starts_with("drwx--x--x"), "{listed:?}");
    assert!(listed.contains_key("to-link -> x") && !listed.contains_key("to-link/gone"), "{listed:?}");
    assert_eq!((content(&image, "f"), content(&image, "keeps")), (b"22".to_vec(), b"1".to_vec()));
}

/// The packing tool takes a leading `/`, `./` or `../` off a target that comes as an extended record.
#[test]
fn symbolic_links_keep_targets_of_any_length_and_beginning() {
    let long_name = "n".repeat(200);
    let mut expected = BTreeMap::new();
    for (n, beginning) in ["/", "./", "../", "../../", "//", "/../", "t"].into_iter().enumerate() {
        for len in [99, 100, 101, 102, 300, 4095] {
            expected.insert(format!("{n}-{len}"), format!("{beginning:t<len$}"));
        }
    }
    expected.insert(long_name.clone(), format!("{:t<150}", "../"));
    expected.insert("attributes".to_owned(), format!("{:t<150}", "/"));
    let mut archive = Archive::default();
    for (name, target) in &expected {
        let mut records = vec![("path", name.as_bytes()), ("linkpath", target.as_bytes())];
        if name == "attributes" {
            records.push(("SCHILY.xattr.trusted.a", b"value"));
        }
        archive = archive.pax(&records).symlink("short", "short");
    }
    // What follows a long target is a file of its own.
    let archive = archive.file("after", b"whole").end();
    let place = Place::new();
    let image = place.convert(&archive).unwrap();
    assert_eq!(content(&image, "after"), b"whole");
    let listed = listing(&image);
    for (name, target) in &expected {
        let is_right = listed.contains_key(&format!("{name} -> {target}"));
        assert!(is_right, "{name} leads elsewhere than to {target}");
    }
}

/// A tree that GNU tar packs, in its dialects and compressions, with a sparse file.
#[test]
fn what_gnu_tar_packs() {
    let tree = tempfile::tempdir().unwrap();
    let path = |name: &str| tree.path().join(name);
    let long = "n".repeat(150);
    fs::create_dir_all(path(&long)).unwrap();
    fs::write(path(&long).join(&long), b"long").unwrap();
    fs::hard_link(path(&long).join(&long), path("hard")).unwrap();
    std::os::unix::fs::symlink("t".repeat(300), path("symlink")).unwrap();
    let sparse = fs::File::create(path("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    for at in (0..8).map(|piece| piece << 20) {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at + 5000).unwrap();
    }
    let expected = fs::read(path("sparse")).unwrap();
    for options in [
        &["--format=gnu", "--sparse"][..],
        &["--format=gnu", "--gzip"],
        &["--format=pax", "--sparse", "--zstd"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1", "--gzip"],
        &["--format=pax", "--xz"],
        &["--format=oldgnu"],
    ] {
        let packed = Command::new("tar")
            .args(options)
            .arg("-C")
            .arg(tree.path())
            .args(["-cf", "-", "."])
            .output()
            .unwrap();
        assert!(packed.status.success());
        let place = Place::new();
        let image = place.convert(&packed.stdout).unwrap();
        assert_eq!(content(&image, "sparse"), expected, "{options:?}");
        let out = place.root.path().join("out");
        unpack(&image, &out);
        assert_eq!(fs::metadata(out.join("hard")).unwrap().nlink(), 2, "{options:?}");
        assert_eq!(fs::read(out.join(&long).join(&long)).unwrap(), b"long");
        assert_eq!(fs::read_link(out.join("symlink")).unwrap().as_os_str().len(), 300);
        for name in ["hard", "sparse", "symlink", &long] {
            let (ours, theirs) =
                (fs::symlink_metadata(out.join(name)).unwrap(), fs::symlink_metadata(path(name)).unwrap());
            assert_eq!((ours.mode(), ours.mtime()), (theirs.mode(), theirs.mtime()), "{options:?} {name}");
        }
        assert!(fs::metadata(&image).unwrap().len() < 1 << 20, "holes take no space");
    }
}

#[test]
fn several_compressed_members_are_one_archive() {
    let archive = Archive::default().file("a", &[1; 3000]).end();
    let (first, second) = archive.split_at(2000);
    for tool in ["gzip", "zstd", "xz"] {
        let compress = |bytes: &[u8]| {
            let mut child =
                Command::new(tool).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(bytes).unwrap();
            child.wait_with_output().unwrap().stdout
        };
        let joined = [compress(first), compress(second)].concat();
        assert_eq!(content(&Place::new().convert(&joined).unwrap(), "a"), [1; 3000], "{tool}");
    }
}

#[test]
fn equal_archives_make_equal_images() {
    let archive =
        (0..500).fold(Archive::default(), |archive, n| archive.file(&format!("d{}/f{n}", n % 7), &[7; 999]));
    let archive = archive.end();
    let (one, two) = (Place::new(), Place::new());
    let (first, second) = (one.convert(&archive).unwrap(), two.convert(&archive).unwrap());
    assert!(fs::read(first).unwrap() == fs::read(second).unwrap());
}

/// The root's inode is found also when inodes and names fill many metadata blocks.
#[test]
fn thousands_of_entries() {
    let archive =
        (0..6000).fold(Archive::default(), |archive, n| archive.file(&format!("d{}/file-{n}", n % 50), b"x"));
    let listed = listing(&Place::new().convert(&archive.end()).unwrap());
    assert_eq!(listed.len(), 6000 + 50 + 1);
    assert!(listed[""].starts_with("drwxr-xr-x"));
}
