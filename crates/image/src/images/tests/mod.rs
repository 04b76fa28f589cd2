//! The user's view of a store, with images of a few kilobytes.

mod builds;
mod exports;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::SystemTime;

use super::*;
use crate::error::ProviderError;
use crate::store::{Description, ImageKind, Origin, StoredImage, key_of};
use vmette_cache::Digest;
use vmette_oci::{ImageConfig, Platform};
use vmette_work::{Progress, Work};

struct Place {
    root: tempfile::TempDir,
    images: Images,
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let images = Images::open(&Context::new(root.path().join("cache")).with_cache_budget(0)).unwrap();
    Place { root, images }
}

/// The smallest file that passes for an image.
fn fake_image() -> Vec<u8> {
    let mut image = vec![0; 200];
    image[..4].copy_from_slice(b"hsqs");
    image[12..16].copy_from_slice(&(1u32 << 17).to_le_bytes());
    image[22] = 17;
    image[28] = 4;
    for (at, value) in [(40, 200u64), (64, 96), (72, 96)] {
        image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    image
}

fn described() -> Description {
    Description::of_rootfs(ImageKind::Oci, "test".to_owned(), 0)
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn make(&self, key: &str, id: Option<Digest>) -> StoredImage {
        let key = key_of([key.as_bytes()]);
        let build = |staging: &Path| {
            fs::write(staging, fake_image()).unwrap();
            Ok(Description { id, ..described() })
        };
        self.images.store.obtain::<ProviderError>(&key, build).unwrap()
    }

    fn name(&self, name: &str, image: &StoredImage) {
        let origin = Origin::Registry { manifest: Digest::of(name.as_bytes()) };
        self.images.store.set_name(name, &image.key, &origin).unwrap();
    }

    fn listed(&self) -> Vec<Option<String>> {
        self.images.list().unwrap().into_iter().map(|summary| summary.name).collect()
    }

    fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        self.images.remove(&[name.to_owned()], force).pop().unwrap()
    }

    /// An archive of a tree with one of everything.
    fn archive(&self) -> PathBuf {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |kind: tar::EntryType, path: &str, mode: u32, link: Option<&str>, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(1000);
            header.set_gid(2000);
            header.set_mtime(1_234_567_890);
            header.set_size(content.len() as u64);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
            if path == "dir/file" {
                tar.append_pax_extensions([("SCHILY.xattr.user.a", &b"1\0\xff"[..])]).unwrap();
            }
            match link {
                Some(link) => tar.append_link(&mut header, path, link).unwrap(),
                None => tar.append_data(&mut header, path, content).unwrap(),
            }
        };
        use tar::EntryType as Type;
        add(Type::Directory, "./", 0o750, None, b"");
        add(Type::Directory, "dir", 0o1777, None, b"");
        add(Type::Regular, "dir/file", 0o4755, None, &vec![b'x'; 300_000]);
        add(Type::Link, "dir/hard", 0o4755, Some("dir/file"), b"");
        add(Type::Symlink, "dir/löng name", 0o777, Some(&"t".repeat(200)), b"");
        add(Type::Char, "null", 0o666, None, b"");
        add(Type::Fifo, "fifo", 0o600, None, b"");
        let path = self.path("tree.tar");
        fs::write(&path, tar.into_inner().unwrap()).unwrap();
        path
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn a_list_has_a_line_for_each_name() {
    let place = place();
    let [a, b, c] = ["a", "b", "c"].map(|key| place.make(key, None));
    place.name("docker.io/library/z:1", &a);
    place.name("docker.io/library/alpine:3", &a);
    place.name("docker.io/library/busybox:latest", &b);
    let held = Store::hold(&c.path).unwrap();
    let listed = place.images.list().unwrap();
    let names: Vec<_> = listed.iter().map(|line| line.name.as_deref().map(|name| &name[18..])).collect();
    assert_eq!(names, [Some("alpine:3"), Some("busybox:latest"), Some("z:1"), None]);
    assert_eq!(listed[0].id, listed[2].id);
    assert_eq!(listed.iter().map(|line| line.in_use).collect::<Vec<_>>(), [false, false, false, true]);
    drop(held);
    assert!(!place.images.list().unwrap()[3].in_use);
}

#[test]
fn a_name_means_what_a_run_takes_it_for() {
    let place = place();
    let [registry, local] = ["a", "b"].map(|key| place.make(key, None));
    place.name("docker.io/library/alpine:3.20", &registry);
    place.name("docker.io/library/mine:latest", &registry);
    place.name("tar+https://example.org/x.tar", &registry);
    place.images.store.set_name("localhost/mine:latest", &local.key, &Origin::Local).unwrap();
    let id = |name: &str| place.images.inspect(name).unwrap().summary.id;
    for name in
        ["alpine:3.20", "oci://alpine:3.20", "docker.io/library/alpine:3.20", "tar+https://example.org/x.tar"]
    {
        assert_eq!(id(name), registry.id(), "{name}");
    }
    assert_eq!(id("mine"), local.id());
    assert_eq!(id("docker.io/mine"), registry.id());
    assert_eq!(id(&local.id()[..12]), local.id());
    assert_eq!(id(&format!("sha256:{}", local.id())), local.id());
    for missing in ["alpine", "alpine:latest", "", "none", &local.id()[..3], "0000000", "../x"] {
        let e = place.images.inspect(missing).unwrap_err();
        assert!(matches!(e, ProviderError::NoSuchImage { .. }), "{missing}: {e}");
    }
    let details = place.images.inspect("alpine:3.20").unwrap();
    assert_eq!(details.names.len(), 3);
    assert_eq!(details.manifest, Some(Digest::of(b"docker.io/library/alpine:3.20")));
}

#[test]
fn digits_of_two_images_mean_neither() {
    let place = place();
    let hex = |last: char| format!("sha256:abcd{}{last}", "0".repeat(59)).parse::<Digest>().unwrap();
    place.make("a", Some(hex('1')));
    place.make("b", Some(hex('2')));
    // One image as two versions of this program made it.
    place.make("c", Some(hex('2')));
    assert!(place.images.inspect("abcd").unwrap_err().to_string().contains("more digits"));
    assert_eq!(place.images.inspect(&hex('2').hex()).unwrap().summary.id, hex('2').hex());
}

#[test]
fn an_image_goes_with_its_last_name() {
    let place = place();
    let image = place.make("a", None);
    place.name("docker.io/library/a:1", &image);
    place.name("docker.io/library/a:2", &image);
    assert!(place.remove(&image.id()[..8], false).unwrap_err().to_string().contains("several names"));
    let first = place.remove("a:1", false).unwrap();
    assert_eq!((first.image, first.bytes), (None, 0));
    assert!(image.path.exists());
    let held = Store::hold(&image.path).unwrap();
    let refused = place.remove("a:2", false).unwrap_err();
    assert!(matches!(refused, ProviderError::ImageInUse { .. }) && refused.to_string().contains("in use"));
    assert_eq!(place.listed().len(), 1, "nothing was removed");
    let last = place.remove("a:2", true).unwrap();
    assert_eq!((last.image, last.bytes), (Some(image.id()), 200));
    assert!(!image.path.exists() && place.listed().is_empty());
    drop(held);
    assert!(matches!(place.remove("a:2", false).unwrap_err(), ProviderError::NoSuchImage { .. }));
    let [b, c] = ["b", "c"].map(|key| place.make(key, None));
    place.name("x", &b);
    place.name("y", &b);
    let answers = place.images.remove(&[b.id(), "none".to_owned(), c.id()], true);
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert!(place.listed().is_empty());
}

#[test]
fn pruning_everything_keeps_what_is_local_or_in_use() {
    let place = place();
    let [local, held, free] = ["a", "b", "c"].map(|key| place.make(key, None));
    place.images.store.set_name("localhost/a:latest", &local.key, &Origin::Local).unwrap();
    let _held = Store::hold(&held.path).unwrap();
    let nothing = place.images.prune(&PruneOptions::default()).unwrap();
    assert_eq!((nothing.images.len(), nothing.left), (0, 600));
    let all = place.images.prune(&PruneOptions { all: true, max_bytes: None }).unwrap();
    assert_eq!(all, PruneReport { images: vec![free.id()], layers: 0, bytes: 200, left: 400 });
}

#[test]
fn two_hundred_images_are_each_listed_once() {
    let place = place();
    let mut expected: Vec<_> = (0..200).map(|n| Some(format!("docker.io/library/image:{n}"))).collect();
    for name in expected.iter().flatten() {
        place.name(name, &place.make(name, None));
    }
    expected.sort();
    assert_eq!(place.listed(), expected);
    let keys: std::collections::HashSet<_> =
        place.images.list().unwrap().into_iter().map(|image| image.id).collect();
    assert_eq!(keys.len(), 200, "each name has its own image");
}

#[test]
fn an_archive_becomes_an_image_that_stays() {
    let place = place();
    let details = place.images.import(&place.archive(), "mine").unwrap();
    assert_eq!(details.summary.name.as_deref(), Some("localhost/mine:latest"));
    assert_eq!(details.summary.kind, ImageKind::Tar);
    assert_eq!(details.names, ["localhost/mine:latest"], "it goes with its name");
    fs::remove_file(place.path("tree.tar")).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH;
    File::open(details.path.with_extension("json")).unwrap().set_modified(long_ago).unwrap();
    place.images.prune(&PruneOptions { all: true, max_bytes: None }).unwrap();
    assert_eq!(place.images.inspect("mine").unwrap().path, details.path);
    assert!(place.images.import(&place.path("none"), "x").unwrap_err().to_string().contains("none"));
    for bad in ["UPPER", "a b", "", "x@sha256:0"] {
        let refused = place.images.import(&place.path("none"), bad).unwrap_err();
        assert!(matches!(refused, ProviderError::InvalidSpec(_)), "{bad}");
    }
}

#[test]
fn an_archive_that_was_run_before_keeps_both_names() {
    let place = place();
    let archive = place.archive();
    let spec = format!("tar+file://{}", archive.display());
    crate::default_registry(None).resolve(&spec, &place.images.ctx).unwrap();
    let details = place.images.import(&archive, "mine").unwrap();
    assert_eq!(details.names, ["localhost/mine:latest", &spec]);
    fs::write(&archive, fs::read(&archive).unwrap()).unwrap();
    crate::default_registry(None).resolve(&spec, &place.images.ctx).unwrap();
    assert_eq!(
        place.images.inspect("mine").unwrap().names,
        ["localhost/mine:latest"],
        "the file is another one"
    );
    assert_eq!(place.listed().len(), 2);
}

/// The second waits for the first to convert, and began before the first had given its name.
#[test]
fn imports_of_one_archive_at_once_leave_each_others_names() {
    let place = place();
    let archive = place.archive();
    let cache = place.root.path().join("cache");
    let (converting, first_converts) = mpsc::channel();
    let (waiting, second_waits) = mpsc::channel();
    let second_waits = Mutex::new(second_waits);
    let first = Context::new(&cache).with_reporter(Arc::new(move |progress| {
        if matches!(progress, Progress::Step(line) if line.starts_with("converting")) {
            converting.send(()).unwrap();
            second_waits.lock().unwrap().recv().unwrap();
        }
    }));
    let second = Context::new(&cache).with_reporter(Arc::new(move |progress| {
        if matches!(progress, Progress::Step(line) if line.starts_with("waiting")) {
            // The first does not listen again.
            let _ = waiting.send(());
        }
    }));
    std::thread::scope(|scope| {
        scope.spawn(|| Images::open(&first).unwrap().import(&archive, "first").unwrap());
        first_converts.recv().unwrap();
        Images::open(&second).unwrap().import(&archive, "second").unwrap();
    });
    let names = ["localhost/first:latest", "localhost/second:latest"];
    assert_eq!(place.listed(), names.map(|name| Some(name.to_owned())));
}

#[test]
fn looking_at_images_at_once_finds_none_in_use() {
    let place = place();
    let image = place.make("a", None);
    let barrier = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        let look = || {
            barrier.wait();
            (0..3000).any(|_| image.is_in_use())
        };
        let lookers: Vec<_> = (0..4).map(|_| scope.spawn(look)).collect();
        for looker in lookers {
            assert!(!looker.join().unwrap());
        }
    });
}

#[test]
fn a_squashfs_image_is_taken_in() {
    let place = place();
    let made = place.images.import(&place.archive(), "a").unwrap();
    let exported = place.images.export("a", &place.path("a.sqfs"), ExportFormat::Squashfs).unwrap();
    assert_eq!(bytes(&exported.path), bytes(&made.path));
    let taken = place.images.import(&exported.path, "b").unwrap();
    assert_eq!(taken.summary.kind, ImageKind::Squashfs);
    assert_eq!((made.unpacked, taken.unpacked), (Some(300_000), None));
    assert_eq!(bytes(&taken.path), bytes(&made.path));
    fs::write(place.path("cut"), &bytes(&made.path)[..200]).unwrap();
    assert!(place.images.import(&place.path("cut"), "c").unwrap_err().to_string().contains("truncated"));
    fs::write(place.path("text"), b"hello").unwrap();
    assert!(place.images.import(&place.path("text"), "c").unwrap_err().to_string().contains("neither"));
    assert!(place.images.import(place.root.path(), "c").unwrap_err().to_string().contains("OCI layout"));
}
