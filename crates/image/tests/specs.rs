//! What users type, and what they are told.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::{Archive, Place, content, image, listing};
use vmette_image::{
    BlockFs, BuiltinProvider, ImageConfig, ProviderError, PullPolicy, Registry, RootfsArtifact,
    RootfsProvider, builtin_rootfs, default_registry, find_busybox,
};

fn message(place: &Place, spec: &str) -> String {
    let error = default_registry(None).resolve(spec, &place.context()).unwrap_err();
    assert!(matches!(error, ProviderError::InvalidSpec(_)), "{error:?}");
    error.to_string()
}

#[test]
fn names_in_order() {
    let registry = default_registry(None);
    assert_eq!(
        registry.names(),
        ["dir", "squashfs", "tar", "builtin", "oci-layout", "oci-archive", "docker-archive", "oci"]
    );
    assert_eq!((registry.len(), registry.is_empty()), (8, false));
    assert!(Registry::default().is_empty());
}

#[test]
fn directories() {
    let place = Place::new();
    let dir = place.root.path().canonicalize().unwrap();
    symlink(&dir, dir.join("link")).unwrap();
    for spec in [dir.display().to_string(), format!("{}/link", dir.display()), format!("{}/.", dir.display())]
    {
        let artifact = default_registry(None).resolve(&spec, &place.context()).unwrap();
        assert_eq!(
            artifact,
            RootfsArtifact::Directory { path: dir.clone(), read_only: false, config: ImageConfig::default() }
        );
    }
    assert!(default_registry(None).resolve(".", &place.context()).is_ok());
    assert!(
        default_registry(None).resolve("src", &place.context()).is_ok(),
        "an existing relative directory"
    );
    assert!(!place.cache().exists(), "no cache for a directory");
}

#[test]
fn what_is_no_directory() {
    let place = Place::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = place.root.path().canonicalize().unwrap().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let tar = file("a b.tar", &Archive::default().file("f", b"").end());
    assert!(message(&place, &tar).contains("a tar archive: use tar+file:///"), "{}", message(&place, &tar));
    assert!(message(&place, &tar).contains("a%20b.tar"));
    assert!(message(&place, &file("z", &[0x1f, 0x8b, 8])).contains("tar+file://"));
    assert!(message(&place, &file("s", b"hsqs")).contains("squashfs+file://"));
    assert!(message(&place, &file("p", b"\x7fELF")).contains("a program"));
    assert!(message(&place, &file("t", b"text")).contains("neither a directory"));
    assert!(message(&place, "/no/such/dir").contains("there is no /no/such/dir"));
    assert!(message(&place, "Cargo.toml").contains("not a directory"), "a relative file");
}

#[test]
fn what_nobody_claims() {
    let place = Place::new();
    for (spec, reason) in [
        ("docker://alpine", "without docker://"),
        ("oci://", "no such kind"),
        ("https://example.com/rootfs", "put tar+ or squashfs+ in front"),
        ("ftp://example.com", "no such kind"),
        ("", "empty"),
        ("a\0b", "NUL"),
        (&"x".repeat(20_000), "longer than"),
    ] {
        let message = message(&place, spec);
        assert!(message.contains(reason) && message.contains("tar+file:///PATH"), "{message}");
    }
    assert!(message(&place, "tar+file://./x.tar").contains("must be absolute"));
    assert!(message(&place, "squashfs+file:/x").contains("squashfs+file:///PATH"));
    assert!(
        message(&place, "tar+http://example.com/x").contains("#sha256=HEX"),
        "no plain http without a word"
    );
    assert!(message(&place, "squashfs+https://user:hidden@example.com/x").contains("squashfs+file:///PATH"));
}

#[test]
fn whatever_may_be_a_reference_is_an_image() {
    let place = Place::new();
    let offline = place.context().offline(true);
    for (spec, name) in [
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("oci://ghcr.io/a/b", "ghcr.io/a/b:latest"),
        ("no-such-name", "docker.io/library/no-such-name:latest"),
    ] {
        match default_registry(None).resolve(spec, &offline).unwrap_err() {
            ProviderError::OfflineCacheMiss(missing) => assert_eq!(missing, name),
            other => panic!("{other:?}"),
        }
    }
    let never = place.context().with_pull_policy(PullPolicy::Never);
    let error = default_registry(None).resolve("alpine", &never).unwrap_err().to_string();
    assert!(error.contains("the pull policy rules out") && error.contains("docker.io/"), "{error}");
    assert!(message(&place, "localhost/mine").contains("build or import one"));
    assert!(message(&place, "Alpine").contains("lower case"));
    assert!(message(&place, "oci://src:x:y").contains("a tag is"));
    // A directory of that name comes first, unless it is said that an image is meant.
    assert!(matches!(
        default_registry(None).resolve("tests", &offline).unwrap(),
        RootfsArtifact::Directory { .. }
    ));
    assert!(matches!(
        default_registry(None).resolve("oci://tests", &offline).unwrap_err(),
        ProviderError::OfflineCacheMiss(_)
    ));
}

#[test]
fn squashfs_images_are_used_in_place() {
    let place = Place::new();
    let made = place.convert(&Archive::default().file("f", b"").end()).unwrap();
    let copy = place.root.path().canonicalize().unwrap().join("100% image");
    fs::write(&copy, fs::read(&made).unwrap()).unwrap();
    let resolve =
        |path: &str| default_registry(None).resolve(&format!("squashfs+file://{path}"), &place.context());
    let encoded = copy.display().to_string().replace('%', "%25").replace(' ', "%20");
    let expected = RootfsArtifact::BlockImage {
        path: copy.clone(),
        fstype: BlockFs::Squashfs,
        config: ImageConfig::default(),
    };
    assert_eq!(resolve(&encoded).unwrap(), expected);
    assert_eq!(resolve(&format!("localhost{encoded}")).unwrap(), expected);

    let whole = fs::read(&copy).unwrap();
    fs::write(&copy, &whole[..200]).unwrap();
    assert!(resolve(&encoded).unwrap_err().to_string().contains("truncated squashfs"));
    fs::write(&copy, b"short").unwrap();
    assert!(resolve(&encoded).unwrap_err().to_string().contains("not a squashfs image"));
    fs::write(&copy, Archive::default().file("f", b"").end()).unwrap();
    assert!(resolve(&encoded).unwrap_err().to_string().contains("use tar+file://"));
    assert!(resolve("/").unwrap_err().to_string().contains("directory"));
    assert!(resolve("/dev/null").unwrap_err().to_string().contains("regular file"));
    assert!(resolve("/no/such").unwrap_err().to_string().contains("/no/such"));
}

#[test]
fn a_fifo_does_not_block() {
    let place = Place::new();
    let fifo = place.root.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(message(&place, &format!("tar+file://{}", fifo.display())).contains("not a regular file"));
}

#[test]
fn a_changed_archive_is_converted_again() {
    let place = Place::new();
    let convert = |bytes: &[u8]| place.convert(&Archive::default().file("f", bytes).end()).unwrap();
    let first = convert(b"1");
    assert_eq!(content(&first, "f"), b"1");
    let second = convert(b"2");
    assert_eq!(content(&second, "f"), b"2");
    assert_ne!(first, second);
}

#[test]
fn a_cache_that_is_a_file() {
    let place = Place::new();
    fs::write(place.cache(), b"").unwrap();
    let message = place.convert(&Archive::default().file("f", b"").end()).unwrap_err().to_string();
    assert!(message.contains("not a folder") && message.contains("VMETTE_CACHE_DIR"), "{message}");
}

#[test]
fn the_builtin_rootfs() {
    let place = Place::new();
    let busybox = find_busybox().expect("busybox-static is installed by the set-up");
    let registry = default_registry(Some(busybox.clone()));
    let made = image(&registry.resolve("builtin", &place.context()).unwrap());
    let again = builtin_rootfs(&place.context().store().unwrap(), &busybox).unwrap();
    assert_eq!(image(&again), made, "it is made once");

    let listed = listing(&made);
    assert!(
        listed.values().all(|facts| facts.contains(" 0/0 ") && facts.contains("1970-01-01 00:00")),
        "{listed:?}"
    );
    for (path, mode) in
        [("", "drwxr-xr-x"), ("tmp", "drwxrwxrwt"), ("root", "drwx------"), ("bin/busybox", "-rwxr-xr-x")]
    {
        assert!(listed[path].starts_with(mode), "{path}: {}", listed[path]);
    }
    for link in ["bin/sh -> busybox", "sbin/ip -> ../bin/busybox", "usr/bin/env -> ../../bin/busybox"] {
        assert!(listed.contains_key(link), "{link}");
    }
    assert_eq!(content(&made, "bin/busybox"), fs::read(&busybox).unwrap());

    let other = Place::new();
    let elsewhere = image(&registry.resolve("builtin", &other.context()).unwrap());
    assert!(fs::read(made).unwrap() == fs::read(elsewhere).unwrap(), "it is reproducible");
}

#[test]
fn a_busybox_that_will_not_do() {
    let place = Place::new();
    let refused = |path: &Path| {
        let provider = BuiltinProvider::new(path.to_owned());
        provider.provide("builtin", &place.context()).unwrap_err().to_string()
    };
    let dynamic = std::env::current_exe().unwrap();
    assert!(refused(&dynamic).contains("install busybox-static") || refused(&dynamic).contains("larger"));
    assert!(refused(Path::new("/bin/sh")).contains("not static"), "{}", refused(Path::new("/bin/sh")));
    assert!(refused(Path::new("Cargo.toml")).contains("not a 64-bit"));
    assert!(refused(Path::new("/no/busybox")).contains("/no/busybox"));
    let none = default_registry(None).resolve("builtin", &place.context()).unwrap_err().to_string();
    assert!(none.contains("install busybox-static"), "{none}");
}
