//! Archives as many programs write them, now and long ago: each becomes the same tree, whether it is run, imported,
//! compressed or a layer, and one line says what was left out.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use support::oci::{Image, gzip, write_folder};
use support::{Archive, Fields, Place, content, listing};
use vmette_image::{Images, Progress, default_registry};

type Listing = BTreeMap<String, String>;

/// An image's tree without the sizes of its folders, which depend on nothing that anybody sees; and the notes on it, which
/// are told once and kept.
fn image_of(place: &Place, spec: &str) -> (Listing, Vec<String>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let context = place.context().with_reporter(Arc::new(move |progress| {
        if let Progress::Warning(line) = progress {
            heard.lock().unwrap().push((*line).to_owned());
        }
    }));
    let registry = default_registry(None);
    let made = support::image(&registry.resolve(spec, &context).unwrap());
    registry.resolve(spec, &context).unwrap();
    let images = Images::open(&place.context()).unwrap();
    let details = images.inspect(&images.list().unwrap()[0].id[..12]).unwrap();
    let told: Vec<_> = told.lock().unwrap().clone();
    assert_eq!(told.len(), details.notes.len(), "{told:?}");
    for (line, note) in told.iter().zip(&details.notes) {
        assert!(line.starts_with("image ") && line.ends_with(note), "{line}");
    }
    let without_size = |(path, facts): (String, String)| {
        let mut facts: Vec<_> = facts.split(' ').collect();
        if facts[0].starts_with('d') {
            facts.remove(2);
        }
        (path, facts.join(" "))
    };
    (listing(&made).into_iter().map(without_size).collect(), details.notes)
}

/// The tree that the archive becomes in every way, and the notes on it as an archive.
#[track_caller]
fn everywhere(bytes: &[u8]) -> (Listing, Vec<String>) {
    let archive = |bytes: &[u8]| {
        let place = Place::new();
        fs::write(place.archive(), bytes).unwrap();
        image_of(&place, &format!("tar+file://{}", place.archive().display()))
    };
    let expected = archive(bytes);
    let mut filled = gzip(bytes);
    assert_eq!(archive(&filled), expected, "compressed");
    filled.resize(filled.len().next_multiple_of(10_240) + 10_240, 0);
    assert_eq!(archive(&filled), expected, "compressed, and filled with zeros");

    let place = Place::new();
    fs::write(place.archive(), bytes).unwrap();
    let imported = Images::open(&place.context()).unwrap().import(&place.archive(), "imported").unwrap();
    assert_eq!(imported.notes, expected.1);
    assert!(
        fs::read(imported.path).unwrap() == {
            let place = Place::new();
            fs::read(place.convert(bytes).unwrap()).unwrap()
        }
    );

    let place = Place::new();
    let layout = place.root.path().join("layout");
    write_folder(&layout, &Image::new(&[bytes.to_vec()]).layout(&["it"]));
    let (tree, notes) = image_of(&place, &format!("oci-layout:{}", layout.display()));
    assert_eq!(tree, expected.0, "as a layer");
    // A layer's digest says whether it is whole.
    assert!(notes.iter().all(|note| expected.1.contains(note)), "{notes:?}");
    expected
}

/// Headers of the oldest form, without magic and what follows it, whose numbers are all of this one byte.
fn blank(kind: u8, name: &str, with: u8, content: &[u8]) -> Archive {
    let mut header = Fields { kind, name: name.as_bytes(), ..Fields::default() }.header();
    let old = header.as_old_mut();
    for field in [&mut old.mode[..], &mut old.uid, &mut old.gid, &mut old.mtime] {
        field.fill(with);
    }
    if content.is_empty() {
        old.size.fill(with);
    } else {
        header.set_size(content.len() as u64);
    }
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.dev_major.fill(with);
        gnu.dev_minor.fill(with);
    }
    header.set_cksum();
    Archive::default().raw(&header, content)
}

#[test]
fn numbers_of_blanks_and_nuls_are_zero() {
    for with in [0, b' '] {
        let mut archive = blank(b'5', "d", with, b"");
        for more in [
            blank(b'0', "d/f", with, b"content"),
            blank(b'0', "empty", with, b""),
            blank(b'3', "char", with, b""),
            blank(b'2', "link", with, b""),
            blank(b'6', "fifo", with, b""),
        ] {
            archive.0.extend(more.0);
        }
        // The link's target.
        let at = archive.0.len() - 1024;
        archive.0[at + 157] = b't';
        archive.0[at + 148..at + 156].fill(b' ');
        let sum: u32 = archive.0[at..at + 512].iter().map(|&byte| u32::from(byte)).sum();
        archive.0[at + 148..at + 155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let (tree, notes) = everywhere(&archive.end());
        assert!(notes.is_empty(), "{notes:?}");
        for (path, facts) in [
            ("d", "d--------- 0/0 1970-01-01 00:00"),
            ("d/f", "---------- 0/0 7 1970-01-01 00:00"),
            ("empty", "---------- 0/0 0 1970-01-01 00:00"),
            ("char", "c--------- 0/0 0, 0 1970-01-01 00:00"),
            ("link -> t", "lrwxrwxrwx 0/0 1 1970-01-01 00:00"),
            ("fifo", "p--------- 0/0 0 1970-01-01 00:00"),
        ] {
            assert_eq!(tree[path], facts, "{path}");
        }
    }
}

#[test]
fn numbers_in_base_256_and_out_of_range() {
    let with = |uid: &[u8; 8], gid: &[u8; 8], mtime: &[u8; 12], name: &str| {
        let mut header = Fields { name: name.as_bytes(), ..Fields::default() }.header();
        let old = header.as_old_mut();
        (old.uid, old.gid, old.mtime) = (*uid, *gid, *mtime);
        header.set_cksum();
        Archive::default().raw(&header, b"").0
    };
    let mut archive = Archive::default();
    // macOS's nobody is -2, and -1 means "leave it".
    archive.0.extend(with(
        b"\xff\xff\xff\xff\xff\xff\xff\xfe",
        b"\x80\0\0\0\0\x30\0\0",
        &[0xff; 12],
        "negative",
    ));
    archive.0.extend(with(
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\0\0\x01\0\0\0\x07",
        b"           \0",
        "cut",
    ));
    let archive = archive
        .pax(&[("uid", b"-2"), ("gid", b"0012")])
        .file("pax", b"")
        .entry(&Fields { kind: b'4', name: b"dev", device: (0x1003, 5), ..Fields::default() }, b"");
    let (tree, notes) = everywhere(&archive.end());
    assert_eq!(tree["negative"], "-rw-r--r-- 4294967294/3145728 0 1970-01-01 00:00");
    assert_eq!(tree["cut"], "-rw-r--r-- 0/7 0 1970-01-01 00:00");
    assert_eq!(tree["pax"], "-rw-r--r-- 4294967294/12 0 2001-09-09 01:46");
    assert_eq!(tree["dev"], "brw-r--r-- 0/0 3, 5 2001-09-09 01:46");
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("out of Linux's range") && notes[0].ends_with("(5 times)"), "{notes:?}");
}

#[test]
fn headers_that_say_nothing_of_their_own() {
    let label = |kind: u8| {
        let mut header = Fields { kind, name: b"x", ..Fields::default() }.header();
        header.as_old_mut().size.fill(0);
        header.set_cksum();
        Archive::default().raw(&header, b"")
    };
    let global = |archive: Archive, records: &[(&str, &[u8])]| archive.extension(b'g', records);
    let plain = || Archive::default().dir("d", 0o755).file("d/f", b"content");
    let (expected, none) = everywhere(&plain().end());
    assert!(none.is_empty());
    let after = |mut first: Archive, then: Archive| {
        first.0.extend(then.0);
        first.end()
    };
    for silent in [
        after(label(b'V'), plain()),
        after(global(Archive::default(), &[("comment", b"a commit")]), plain()),
        // The last of several headers for one entry counts; one without an entry is nothing.
        after(Archive::default().pax(&[("path", b"no")]).pax(&[("path", b"d")]), plain()),
        plain().pax(&[("path", b"nothing")]).end(),
        after(Archive::default().extension(b'X', &[("comment", b"Solaris")]), plain()),
        // Kinds without content have none, whatever they declare.
        after(
            Archive(
                Fields { kind: b'5', name: b"d", size: 999, mode: 0o755, ..Fields::default() }
                    .header()
                    .as_bytes()
                    .to_vec(),
            ),
            Archive::default().file("d/f", b"content"),
        ),
        // A directory of an incremental dump, with its names.
        after(
            Archive::default()
                .entry(&Fields { kind: b'D', name: b"d/", mode: 0o755, ..Fields::default() }, b"Yf\0\0"),
            Archive::default().file("d/f", b"content"),
        ),
        [&plain().end()[..], &[0; 9000]].concat(),
    ] {
        assert_eq!(everywhere(&silent), (expected.clone(), Vec::new()));
    }
    let acl = |records: &[(&str, &[u8])]| after(Archive::default().pax(records), plain());
    for (noted, what) in [
        (after(global(Archive::default(), &[("mtime", b"5"), ("path", b"all")]), plain()), "global headers"),
        ([plain().end(), plain().end()].concat(), "after the end"),
        ([&plain().end()[..], b"garbage"].concat(), "after the end"),
        (plain().0, "lacks the mark"),
        (plain().pax(&[("comment", b"1")]).0, "lacks the mark"),
        (acl(&[("SCHILY.acl.access", b"user::rwx,user:9:r-x")]), "access control lists"),
        (
            acl(&[("SCHILY.xattr.system.posix_acl_access", b"x"), ("SCHILY.acl.default", b"x")]),
            "access control",
        ),
        (
            after(
                Archive::default().entry(&Fields { kind: b'A', ..Fields::default() }, b"1000007\0user::rwx"),
                plain(),
            ),
            "access control lists",
        ),
        (acl(&[("LIBARCHIVE.xattr.user.a", b"MQ")]), "extended attributes"),
        (acl(&[("SCHILY.xattr.com.apple.quarantine", b"x")]), "extended attributes"),
        (
            after(
                Archive::default().entry(
                    &Fields { kind: b'5', name: b"./", mode: 0o700, uid: 501, ..Fields::default() },
                    b"",
                ),
                plain(),
            ),
            "root's own entry",
        ),
    ] {
        let (tree, notes) = everywhere(&noted);
        assert_eq!(tree, expected, "{what}");
        assert!(
            notes.len() == 1 && notes[0].contains(what) && !notes[0].contains("times"),
            "{what}: {notes:?}"
        );
    }
}

#[test]
fn names_in_every_form() {
    let long = "n".repeat(180);
    let mut old = Fields { kind: 0, name: b"old/", mode: 0o755, ..Fields::default() }.header();
    // Without magic and what follows.
    old.as_mut_bytes()[257..].fill(0);
    old.set_cksum();
    let archive = Archive::default()
        .raw(&old, b"")
        .file("a/../b", b"")
        .file("./x/./../y", b"")
        .file("/absolute", b"")
        .hard_link("again", "/absolute")
        .file("with slash//", b"")
        // Of a long name in GNU's form and one in POSIX's, GNU's counts.
        .entry(
            &Fields { kind: b'L', name: b"././@LongLink", ..Fields::default() },
            format!("{long}\0junk").as_bytes(),
        )
        .pax(&[("path", b"posix")])
        .file("short", b"")
        .entry(
            &Fields { kind: b'K', name: b"././@LongLink", ..Fields::default() },
            &[long.as_bytes(), b"\0"].concat(),
        )
        .symlink("long-link", "short")
        .end();
    let (tree, notes) = everywhere(&archive);
    assert!(notes.is_empty());
    let names: Vec<_> = tree.keys().map(String::as_str).collect();
    let long_link = format!("long-link -> {long}");
    assert_eq!(names, ["", "absolute", "again", "b", &long_link, &long, "old", "with slash", "y"]);
    assert!(tree["old"].starts_with('d') && tree["with slash"].starts_with('d'));
}

/// Makes the tree that is packed: a file, a program, a deep file, a hard link, links, an odd and a long name, holes.
fn make_tree(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::create_dir_all(path("deep/er/still")).unwrap();
    fs::create_dir(path("empty folder")).unwrap();
    let write = |name: &str, content: &[u8], mode: u32| {
        fs::write(path(name), content).unwrap();
        fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    write("file", b"content", 0o644);
    write("run", &[7; 3000], 0o755);
    write("deep/er/still/f", b"deep", 0o600);
    write("empty", b"", 0o644);
    write("\u{e4} \u{f6}", b"umlaut", 0o644);
    write(&"n".repeat(90), b"long", 0o644);
    fs::hard_link(path("file"), path("hard")).unwrap();
    symlink("file", path("link")).unwrap();
    symlink("/nowhere/at all", path("dangling")).unwrap();
    for (dir, mode) in
        [("deep", 0o755), ("deep/er", 0o755), ("deep/er/still", 0o711), ("empty folder", 0o755)]
    {
        fs::set_permissions(path(dir), PermissionsExt::from_mode(mode)).unwrap();
    }
    // Holes in the middle, at the end and nothing else, and more pieces than a header has.
    let sparse = |name: &str, len: u64, pieces: u64| {
        let file = fs::File::create(path(name)).unwrap();
        file.set_len(len).unwrap();
        for n in 0..pieces {
            std::os::unix::fs::FileExt::write_all_at(&file, b"data", n * (64 << 10)).unwrap();
        }
        fs::set_permissions(path(name), PermissionsExt::from_mode(0o644)).unwrap();
    };
    sparse("holes", 4 << 20, 40);
    sparse("hole", 1 << 20, 0);
    let time = fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000));
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
            if !entry.file_type().unwrap().is_symlink() {
                fs::File::open(entry.path()).unwrap().set_times(time).unwrap();
            }
        }
        fs::File::open(&dir).unwrap().set_times(time).unwrap();
    }
}

#[test]
fn packers_agree() {
    const PYTHON: &str = "import sys, tarfile\n\
        def root(i): i.uid = i.gid = 0; i.uname = i.gname = 'root'; return i\n\
        tar = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=int(sys.argv[1]))\n\
        tar.add('.', filter=root)\ntar.close()\n";
    let place = Place::new();
    let tree = place.root.path().join("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let owner = ["--owner=0", "--group=0", "-cf", "-", "."];
    let gnu = |options: &[&str]| {
        ["tar"].iter().chain(options).chain(&owner).map(|word| (*word).to_owned()).collect()
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut commands: Vec<Vec<String>> =
        ["v7", "oldgnu", "gnu", "ustar", "pax"].map(|format| gnu(&[&format!("--format={format}")])).into();
    commands.extend([
        gnu(&["--label=a label"]),
        gnu(&["--format=pax", "--label=a label"]),
        gnu(&["--format=pax", "--pax-option=comment=all of it"]),
        gnu(&["--format=gnu", "-S"]),
        gnu(&["--format=pax", "-S"]),
        gnu(&["--format=pax", "-S", "--sparse-version=0.0"]),
        gnu(&["--format=pax", "-S", "--sparse-version=0.1"]),
        gnu(&[&format!("--listed-incremental={}", place.root.path().join("dumped").display())]),
        words(&["busybox", "tar", "-cf", "-", "."]),
    ]);
    commands.extend(["0", "1", "2"].map(|format| words(&["python3", "-c", PYTHON, format])));
    let names =
        |tree: &Listing| tree.iter().map(|(name, facts)| format!("{name}: {facts}\n")).collect::<String>();
    let mut first: Option<String> = None;
    for command in commands {
        let packed = Command::new(&command[0]).args(&command[1..]).current_dir(&tree).output().unwrap();
        assert!(packed.status.success(), "{command:?}: {}", String::from_utf8_lossy(&packed.stderr));
        let place = Place::new();
        fs::write(place.archive(), &packed.stdout).unwrap();
        let (listed, notes) = image_of(&place, &format!("tar+file://{}", place.archive().display()));
        // The folder that it was packed from is the tests' own.
        assert!(notes.iter().all(|note| note.contains("root's own entry")), "{command:?}: {notes:?}");
        // Symbolic links have a time that nothing here can set; busybox has no way to name an owner.
        let listed: Listing = listed
            .into_iter()
            .filter(|(name, _)| !name.is_empty())
            .map(
                |(name, facts)| {
                    if name.contains(" -> ") { (name, facts[..10].to_owned()) } else { (name, facts) }
                },
            )
            .collect();
        if command[0] == "busybox" && !is_root() {
            continue;
        }
        let shown = names(&listed);
        assert_eq!(&shown, first.get_or_insert_with(|| shown.clone()), "{command:?}");
        let image = place.convert(&packed.stdout).unwrap();
        for name in ["holes", "hole", "run"] {
            assert!(content(&image, name) == fs::read(tree.join(name)).unwrap(), "{command:?}: {name}");
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
