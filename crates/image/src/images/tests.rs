//! What people see and do of a store, with images of a few kilobytes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::digest::Digest;
use crate::error::ProviderError;
use crate::image_config::{ImageConfig, Platform};
use crate::store::{Description, ImageKind, Key, Origin, StoredImage};

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
    Description {
        kind: ImageKind::Oci,
        source: "test".to_owned(),
        id: None,
        platform: None,
        config: ImageConfig::default(),
        layers: Vec::new(),
        unpacked: 0,
    }
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn make(&self, key: &str, id: Option<Digest>) -> StoredImage {
        let key = Key::of_parts([key.as_bytes()]);
        let build = |staging: &Path| {
            fs::write(staging, fake_image()).unwrap();
            Ok(Description { id, ..described() })
        };
        self.images.store.obtain(&key, &self.images.ctx, build).unwrap()
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
fn two_hundred_images_are_listed_at_once() {
    let place = place();
    for n in 0..200 {
        let image = place.make(&n.to_string(), None);
        place.name(&format!("docker.io/library/image:{n}"), &image);
    }
    let started = Instant::now();
    assert_eq!(place.listed().len(), 200);
    let took = started.elapsed();
    assert!(took < Duration::from_millis(100), "{took:?}");
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
    assert_eq!(bytes(&taken.path), bytes(&made.path));
    fs::write(place.path("cut"), &bytes(&made.path)[..200]).unwrap();
    assert!(place.images.import(&place.path("cut"), "c").unwrap_err().to_string().contains("truncated"));
    fs::write(place.path("text"), b"hello").unwrap();
    assert!(place.images.import(&place.path("text"), "c").unwrap_err().to_string().contains("neither"));
    assert!(place.images.import(place.root.path(), "c").unwrap_err().to_string().contains("OCI layout"));
}

#[test]
fn an_exported_tree_comes_back_the_same() {
    let place = place();
    let made = place.images.import(&place.archive(), "a").unwrap();
    let exported = place.images.export("a", &place.path("out.tar"), ExportFormat::Tar).unwrap();
    assert_eq!(exported.bytes, fs::metadata(place.path("out.tar")).unwrap().len());
    let back = place.images.import(&exported.path, "b").unwrap();
    assert_ne!(made.summary.id, back.summary.id);
    assert!(bytes(&made.path) == bytes(&back.path), "equal trees make equal images");
}

#[test]
fn a_file_is_replaced_when_the_new_one_is_whole() {
    let place = place();
    place.images.import(&place.archive(), "a").unwrap();
    let to = place.path("out");
    fs::write(&to, b"before").unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
    let link = place.path("link");
    std::os::unix::fs::symlink(&to, &link).unwrap();
    assert!(place.images.export("none", &to, ExportFormat::Tar).is_err());
    assert_eq!(bytes(&to), b"before");
    place.images.export("a", &link, ExportFormat::Squashfs).unwrap();
    assert!(link.is_symlink() && bytes(&to).starts_with(b"hsqs"));
    let not_a_file = place.images.export("a", place.root.path(), ExportFormat::Tar).unwrap_err().to_string();
    assert!(not_a_file.contains("no regular file"), "{not_a_file}");
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let cancelled = Images { ctx: place.images.ctx.clone().with_cancel_flag(flag), ..place.images.clone() };
    for format in [ExportFormat::Squashfs, ExportFormat::Tar, ExportFormat::Oci] {
        assert!(matches!(cancelled.export("a", &place.path("new"), format), Err(ProviderError::Cancelled)));
    }
    let mut names: Vec<_> =
        place.root.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["cache", "link", "out", "tree.tar"]);
}

#[test]
fn a_damaged_image_is_not_exported() {
    let place = place();
    let made = place.images.import(&place.archive(), "a").unwrap();
    let mut damaged = bytes(&made.path);
    damaged[100] ^= 1;
    fs::remove_file(&made.path).unwrap();
    File::create(&made.path).unwrap().write_all(&damaged).unwrap();
    let refused = place.images.export("a", &place.path("out"), ExportFormat::Squashfs).unwrap_err();
    assert!(matches!(refused, ProviderError::NoSuchImage { .. }), "{refused}");
}

#[test]
fn an_oci_archive_says_what_the_image_says() {
    let place = place();
    let source = place.images.import(&place.archive(), "plain").unwrap();
    let config = ImageConfig {
        env: vec![("A".to_owned(), "b=c".to_owned())],
        entrypoint: vec!["/bin/x".to_owned()],
        cmd: vec!["y".to_owned()],
        user: Some("1:2".to_owned()),
        working_dir: Some("/w".to_owned()),
        volumes: vec!["/v".to_owned()],
        stop_signal: Some("SIGQUIT".to_owned()),
        labels: [("l".to_owned(), "m".to_owned())].into(),
    };
    let key = Key::of_parts([&b"configured"[..]]);
    let build = |staging: &Path| {
        fs::copy(&source.path, staging).unwrap();
        Ok(Description { config: config.clone(), platform: Some(Platform::of_guest()), ..described() })
    };
    let image = place.images.store.obtain(&key, &place.images.ctx, build).unwrap();
    place.images.name_local(image, "localhost/full:1").unwrap();
    let exported = place.images.export("full:1", &place.path("full.tar"), ExportFormat::Oci).unwrap();

    let mut archive = tar::Archive::new(File::open(&exported.path).unwrap());
    let mut files = std::collections::BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        if let Some(hex) = name.strip_prefix("blobs/sha256/") {
            assert_eq!(Digest::of(&content).hex(), hex);
        }
        files.insert(name, content);
    }
    assert_eq!(files.len(), 5);
    let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&files[name]).unwrap();
    let blob = |descriptor: &serde_json::Value| {
        let name = format!("blobs/sha256/{}", &descriptor["digest"].as_str().unwrap()[7..]);
        assert_eq!(files[&name].len() as u64, descriptor["size"].as_u64().unwrap());
        name
    };
    let index = json("index.json");
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/full:1");
    let manifest = json(&blob(&index["manifests"][0]));
    let layer = &files[&blob(&manifest["layers"][0])];
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&layer[..]), &mut plain).unwrap();
    let said = json(&blob(&manifest["config"]));
    assert_eq!(said["rootfs"]["diff_ids"][0], Digest::of(&plain).to_string());
    assert_eq!(said["architecture"], Platform::of_guest().architecture);
    assert_eq!(
        said["config"],
        serde_json::json!({
            "Env": ["A=b=c"], "Entrypoint": ["/bin/x"], "Cmd": ["y"], "User": "1:2", "WorkingDir": "/w",
            "Volumes": {"/v": {}}, "StopSignal": "SIGQUIT", "Labels": {"l": "m"},
        })
    );
    fs::write(place.path("layer.tar"), plain).unwrap();
    let back = place.images.import(&place.path("layer.tar"), "back").unwrap();
    assert!(bytes(&back.path) == bytes(&source.path));
}

/// What other programs make of an exported image.
#[test]
fn skopeo_and_umoci_read_an_exported_image() {
    let place = place();
    let made = place.images.import(&place.archive(), "a").unwrap();
    place.images.export("a", &place.path("a.tar"), ExportFormat::Oci).unwrap();
    let run = |program: &str, args: &[&str]| {
        let program = crate::tool::find(program).expect("the set-up for tests installs it");
        let output =
            std::process::Command::new(program).args(args).current_dir(place.root.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run("skopeo", &["--insecure-policy", "copy", "oci-archive:a.tar", "oci:layout:a"]);
    let said = run("skopeo", &["inspect", "oci:layout:a"]);
    assert!(said.contains(&Platform::of_guest().architecture), "{said}");
    if !rustix::process::geteuid().is_root() {
        // Only root can unpack owners and devices.
        return;
    }
    run("umoci", &["unpack", "--image", "layout:a", "bundle"]);
    run("sh", &["-c", "tar --xattrs --xattrs-include='*' --sort=name -C bundle/rootfs -cf back.tar ."]);
    let back = place.images.import(&place.path("back.tar"), "back").unwrap();
    assert!(bytes(&back.path) == bytes(&made.path));
}

/// Goes to the network's mirrors, so it is asked for by name.
#[test]
#[ignore = "downloads a Debian system"]
fn a_debian_system_is_built() {
    let place = place();
    let options = crate::BuildOptions {
        include: vec!["ca-certificates".to_owned()],
        ..crate::BuildOptions::new("bookworm", "mydeb")
    };
    let started = Instant::now();
    let details = place.images.build_debian(&options).unwrap();
    eprintln!("{:?}: {details:?}", started.elapsed());
    assert_eq!(details.summary.name.as_deref(), Some("localhost/mydeb:latest"));
    assert!(details.unpacked > 50 << 20);
}

#[test]
#[ignore = "asks a Debian mirror"]
fn a_debian_system_that_cannot_be() {
    let place = place();
    let include = vec!["no-such-package".to_owned()];
    let options = crate::BuildOptions { include, ..crate::BuildOptions::new("bookworm", "x") };
    let e = place.images.build_debian(&options).unwrap_err().to_string();
    assert!(e.contains("Unable to locate package no-such-package"), "{e}");
    let mirrors = vec!["http://127.0.0.1:1/debian".to_owned()];
    let options = crate::BuildOptions { mirrors, ..crate::BuildOptions::new("bookworm", "x") };
    let e = place.images.build_debian(&options).unwrap_err().to_string();
    assert!(e.contains("Failed to fetch") && e.contains("refused"), "{e}");
    assert!(place.listed().is_empty());
}

#[test]
#[ignore = "asks a Debian mirror"]
fn a_cancelled_build_leaves_nothing() {
    let place = place();
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let folder = std::sync::Arc::new(std::sync::Mutex::new(None));
    let ctx = place.images.ctx.clone().with_cancel_flag(flag.clone()).with_reporter({
        let folder = folder.clone();
        std::sync::Arc::new(move |progress| {
            let crate::Progress::Step(line) = progress else { return };
            if let Some((_, rest)) = line.split_once("using ") {
                *folder.lock().unwrap() = rest.split(' ').next().map(PathBuf::from);
            } else if line.contains("extracting") {
                flag.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        })
    });
    let images = Images::open(&ctx).unwrap();
    let e = images.build_debian(&crate::BuildOptions::new("bookworm", "x")).unwrap_err();
    assert!(matches!(e, ProviderError::Cancelled), "{e}");
    let folder = folder.lock().unwrap().take().unwrap();
    assert!(!folder.exists(), "{}", folder.display());
    assert_eq!(images.store.dir().read_dir().unwrap().count(), 0);
}
