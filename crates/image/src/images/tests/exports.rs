//! Images as files that other programs read.

use super::*;

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
    let work = Work::quiet();
    work.cancel().cancel();
    let cancelled = Images { ctx: place.images.ctx.clone().with_work(work), ..place.images.clone() };
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
    let key = key_of([&b"configured"[..]]);
    let build = |staging: &Path| {
        fs::copy(&source.path, staging).unwrap();
        Ok(Description { config: config.clone(), platform: Some(Platform::of_guest()), ..described() })
    };
    let image = place.images.store.obtain::<ProviderError>(&key, build).unwrap();
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

/// Other programs read an exported image.
#[test]
fn skopeo_and_umoci_read_an_exported_image() {
    let place = place();
    let made = place.images.import(&place.archive(), "a").unwrap();
    place.images.export("a", &place.path("a.tar"), ExportFormat::Oci).unwrap();
    let run = |program: &str, args: &[&str]| {
        let program = vmette_spawn::find(program).expect("the set-up for tests installs it");
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
