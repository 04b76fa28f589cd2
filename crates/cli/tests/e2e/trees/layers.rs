//! A stack of layers that has everything an image can have, made entry by entry: no host has to be able to hold it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{EntryType, Header};

/// `cap_net_bind_service=ep`, as the kernel stores it.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A layer in the making.
struct Layer(tar::Builder<Vec<u8>>);

/// What all kinds of entries have.
#[derive(Clone, Copy)]
struct Attrs {
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
}

const PLAIN: Attrs = Attrs { mode: 0o644, owner: (0, 0), mtime: 1_234_567_890 };
const FOLDER: Attrs = Attrs { mode: 0o755, ..PLAIN };

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, attrs: Attrs) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(attrs.mode);
        header.set_uid(attrs.owner.0);
        header.set_gid(attrs.owner.1);
        header.set_mtime(attrs.mtime);
        header.set_size(0);
        header
    }

    fn file(mut self, name: impl AsRef<[u8]>, attrs: Attrs, content: &[u8]) -> Self {
        let mut header = Self::header(EntryType::Regular, attrs);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path(name.as_ref()), content).unwrap();
        self
    }

    fn dir(mut self, name: impl AsRef<[u8]>, attrs: Attrs) -> Self {
        let mut header = Self::header(EntryType::Directory, attrs);
        self.0.append_data(&mut header, path(name.as_ref()), &b""[..]).unwrap();
        self
    }

    fn link(mut self, kind: EntryType, name: &str, target: &[u8]) -> Self {
        let mut header = Self::header(kind, Attrs { mode: 0o777, ..PLAIN });
        self.0.append_link(&mut header, name, path(target)).unwrap();
        self
    }

    fn symlink(self, name: &str, target: &[u8]) -> Self {
        self.link(EntryType::Symlink, name, target)
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(EntryType::Link, name, target.as_bytes())
    }

    fn node(mut self, kind: EntryType, name: &str, attrs: Attrs, device: (u32, u32)) -> Self {
        let mut header = Self::header(kind, attrs);
        header.set_device_major(device.0).unwrap();
        header.set_device_minor(device.1).unwrap();
        self.0.append_data(&mut header, name, &b""[..]).unwrap();
        self
    }

    /// Attributes of the entry that comes next.
    fn xattrs(mut self, xattrs: &[(&str, &[u8])]) -> Self {
        let keys: Vec<_> = xattrs.iter().map(|(name, _)| format!("SCHILY.xattr.{name}")).collect();
        let records = keys.iter().map(String::as_str).zip(xattrs.iter().map(|(_, value)| *value));
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    fn whiteout(self, name: &str) -> Self {
        self.file(name, PLAIN, b"")
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Everything that a file system can hold, and what the layers above will change.
fn first() -> Vec<u8> {
    let (long, deep) = ("n".repeat(255), format!("{}/{}", "d".repeat(200), "e".repeat(200)));
    let mut layer = Layer::new()
        .dir(".", Attrs { mode: 0o751, owner: (5, 6), ..FOLDER })
        .dir("bin", FOLDER)
        .file("bin/su", Attrs { mode: 0o4755, ..PLAIN }, b"setuid")
        .file("bin/wall", Attrs { mode: 0o2755, owner: (0, 5), ..PLAIN }, b"setgid")
        .xattrs(&[("security.capability", CAPABILITY)])
        .file("bin/ping", Attrs { mode: 0o755, ..PLAIN }, b"capable")
        .dir("tmp", Attrs { mode: 0o1777, ..FOLDER })
        .dir("etc", FOLDER)
        .file("etc/passwd", PLAIN, b"root:x:0:0::/root:/bin/sh\n")
        .xattrs(&[("user.one", b"1"), ("user.binary", b"\0=\n\xff")])
        .file("etc/attributes", PLAIN, b"has some")
        .xattrs(&[("user.of", b"a folder"), ("trusted.of", b"root")])
        .dir("etc/attributes.d", Attrs { mode: 0o700, owner: (1, 2), ..FOLDER })
        .symlink("absolute", b"/etc/passwd")
        .symlink("relative", b"../../etc/./passwd")
        .symlink("dangling", b"no such\nplace \xff")
        .symlink("long-target", "t/".repeat(1000).as_bytes())
        .dir("dev", FOLDER)
        .node(EntryType::Char, "dev/null", Attrs { mode: 0o666, ..PLAIN }, (1, 3))
        .node(EntryType::Block, "dev/sda1", Attrs { mode: 0o660, owner: (0, 6), ..PLAIN }, (8, 1))
        .node(EntryType::Char, "dev/large", PLAIN, (511, 1_000_000))
        .node(EntryType::Fifo, "dev/fifo", Attrs { mode: 0o600, ..PLAIN }, (0, 0))
        .file("names/one", Attrs { owner: (3, 4), ..PLAIN }, b"three names")
        .hard_link("names/two", "names/one")
        .hard_link("other/three", "names/two")
        .hard_link("dev/zero-too", "dev/null")
        .file(&long, PLAIN, b"long name")
        .file(format!("{deep}/{long}"), PLAIN, b"long path")
        .file(b"odd/\xff\xfe \n\t\\%41 'quoted\" $(x)", PLAIN, b"odd name")
        .file("odd/\u{e4}\u{1f980}", PLAIN, b"UTF-8")
        .file("sizes/empty", PLAIN, b"")
        .file("sizes/zeros", PLAIN, &vec![0; 3 << 20])
        .file("sizes/large", PLAIN, &noise(2_500_001))
        .file("secret", Attrs { mode: 0, owner: (4_294_967_294, 3_000_000), mtime: 0 }, b"unreadable")
        .file("future", Attrs { mtime: u64::from(u32::MAX), ..PLAIN }, b"2106");
    for n in 0..300 {
        layer = layer.file(format!("many/file-{n}"), PLAIN, format!("{n}").as_bytes());
    }
    layer.dir("opaque", FOLDER).file("opaque/old", PLAIN, b"x").file("opaque/sub/old", PLAIN, b"x").end()
}

/// Takes away, replaces and changes kinds.
fn second() -> Vec<u8> {
    Layer::new()
        .whiteout("many/.wh.file-0")
        .whiteout("many/.wh.file-299")
        .whiteout(".wh.future")
        .file("opaque/before", PLAIN, b"of this layer")
        .whiteout("opaque/.wh..wh..opq")
        .file("opaque/sub/new", PLAIN, b"of this layer")
        .whiteout("etc/.wh.missing")
        .file("names/one", PLAIN, b"has one name now")
        .dir("dangling", FOLDER)
        .file("dangling/inside", PLAIN, b"a folder now")
        .file("sizes/zeros", PLAIN, b"small now")
        .symlink("sizes/empty", b"zeros")
        .dir("bin", Attrs { mode: 0o711, owner: (1, 1), ..FOLDER })
        .end()
}

/// Brings back, and reaches below.
fn third() -> Vec<u8> {
    Layer::new()
        .file("many/file-0", Attrs { mode: 0o600, ..PLAIN }, b"back")
        .whiteout(".wh.other")
        .hard_link("names/four", "names/two")
        .file("absolute", PLAIN, b"no link any more")
        .whiteout("opaque/.wh.before")
        .dir("usr/lib", FOLDER)
        .file("usr/lib/x", Attrs { mode: 0o6711, owner: (7, 8), ..PLAIN }, b"x")
        .symlink("lib", b"usr/lib")
        .end()
}

/// Through a symbolic link of the layer below.
fn fourth() -> Vec<u8> {
    Layer::new().file("lib/y", PLAIN, b"arrives in usr/lib").whiteout("usr/lib/.wh.x").end()
}

pub(super) fn stack() -> Vec<Vec<u8>> {
    vec![first(), second(), third(), fourth()]
}
