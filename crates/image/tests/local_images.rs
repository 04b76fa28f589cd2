//! Images in folders and archives: read as they are, refused when they are not what they say.

#![allow(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::oci::{
    CONFIG, INDEX, Image, LAYER, MANIFEST, OTHER_ARCHITECTURE, descriptor, gzip, layout, tar, write_folder,
};
use support::{Archive, Place, content, image, listing};
use vmette_image::{Digest, ProviderError, RootfsArtifact, default_registry};

fn resolve(place: &Place, spec: &str) -> Result<RootfsArtifact, ProviderError> {
    default_registry(None).resolve(spec, &place.context())
}

fn steps(place: &Place, spec: &str) -> Vec<String> {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = steps.clone();
    let context = place.context().with_reporter(Arc::new(move |progress| {
        if let vmette_image::Progress::Step(line) = progress {
            told.lock().unwrap().push((*line).to_owned());
        }
    }));
    default_registry(None).resolve(spec, &context).unwrap();
    let steps = steps.lock().unwrap();
    steps.clone()
}

fn write(place: &Place, name: &str, bytes: &[u8]) -> String {
    let path = place.root.path().join(name);
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

fn folder(place: &Place, name: &str, files: &[(String, Vec<u8>)]) -> String {
    let dir = place.root.path().join(name);
    write_folder(&dir, files);
    dir.display().to_string()
}

/// What is wrong with the image in this layout, and that nothing is left of it.
fn refusal(files: &[(String, Vec<u8>)]) -> String {
    let place = Place::new();
    let spec = format!("oci-layout:{}", folder(&place, "layout", files));
    let error = resolve(&place, &spec).unwrap_err();
    assert!(matches!(error, ProviderError::Image { .. }), "{error:?}");
    let left = |name: &String| name.starts_with("cache/");
    assert_eq!(place.names().iter().filter(|name| left(name)).count(), 0, "{:?}", place.names());
    let message = error.to_string();
    assert!(message.contains("oci-layout:") && !message.contains('\u{1b}'), "{message}");
    message
}

/// The layout of an image whose manifest was changed.
fn with_manifest(image: &Image, change: impl FnOnce(&mut Value)) -> Vec<(String, Vec<u8>)> {
    let mut manifest = image.manifest();
    change(&mut manifest);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [descriptor(MANIFEST, &manifest)]});
    layout(&index, image.blobs().into_iter().chain([manifest]).collect())
}

#[test]
fn every_form_gives_the_same_image_and_it_is_converted_once() {
    let place = Place::new();
    let sample = Image::sample();
    let layout = folder(&place, "layout", &sample.layout(&["v1"]));
    let saved = tar(&sample.saved(&["name:v1"]));
    let forms = [
        format!("oci-layout:{layout}"),
        format!("oci-layout:{layout}:v1"),
        format!("oci-archive:{}", write(&place, "oci.tar", &tar(&sample.layout(&["v1"])))),
        format!("docker-archive:{}", write(&place, "docker.tar", &saved)),
        format!("docker-archive:{}:name:v1", write(&place, "docker.tar.gz", &gzip(&saved))),
        // What a present-day `docker save` writes: both lists.
        format!(
            "docker-archive:{}",
            write(&place, "both.tar", &tar(&[sample.saved(&["name:v1"]), sample.layout(&["v1"])].concat()))
        ),
        format!("docker-archive:{}", write(&place, "only-oci.tar", &tar(&sample.layout(&["v1"])))),
        format!("oci-archive:{}", write(&place, "only-docker.tar", &saved)),
    ];
    let mut images = forms.iter().map(|spec| {
        let artifact = resolve(&place, spec).unwrap();
        let config = artifact.config();
        assert_eq!(config.entrypoint, ["/bin/entry"], "{spec}");
        assert_eq!((&config.cmd[..], config.working_dir.as_deref()), (&["arg".to_owned()][..], Some("/srv")));
        assert_eq!(config.env, [("A".to_owned(), "1".to_owned())]);
        image(&artifact)
    });
    let first = images.next().unwrap();
    assert_eq!(content(&first, "file"), b"above");
    assert_eq!(listing(&first).keys().map(String::as_str).collect::<Vec<_>>(), ["", "file", "third"]);
    assert!(images.all(|other| other == first));
}

#[test]
fn a_second_start_reads_nothing() {
    let place = Place::new();
    let archive = write(&place, "docker.tar.gz", &gzip(&tar(&Image::sample().saved(&["name"]))));
    let spec = format!("docker-archive:{archive}");
    assert!(steps(&place, &spec).iter().any(|step| step.contains("converting")));
    assert!(steps(&place, &spec).is_empty());
    let other = Image::new(&[Archive::default().file("other", b"1").end()]);
    fs::write(&archive, tar(&other.saved(&["name"]))).unwrap();
    assert_eq!(content(&image(&resolve(&place, &spec).unwrap()), "other"), b"1");
}

#[test]
fn one_of_several_images_is_named() {
    let place = Place::new();
    let (one, two) = (Image::sample(), Image::new(&[Archive::default().file("two", b"2").end()]));
    let entry = |image: &Image, tag: &str| {
        let mut entry = descriptor(MANIFEST, &serde_json::to_vec(&image.manifest()).unwrap());
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        entry
    };
    let index =
        json!({"schemaVersion": 2, "manifests": [entry(&one, "one"), entry(&two, "docker.io/x/two:2")]});
    let blobs = one.blobs().into_iter().chain(two.blobs()).collect();
    let spec = format!("oci-layout:{}", folder(&place, "with:colon", &layout(&index, blobs)));
    let chosen = resolve(&place, &format!("{spec}:docker.io/x/two:2")).unwrap();
    assert_eq!(content(&image(&chosen), "two"), b"2");
    for missing in [spec.clone(), format!("{spec}:three")] {
        let message = resolve(&place, &missing).unwrap_err().to_string();
        assert!(message.contains("it has docker.io/x/two:2, one"), "{message}");
    }

    let mut list: Vec<Value> = Vec::new();
    let mut files = Vec::new();
    for (image, name) in [(&one, "one:1"), (&two, "two:latest")] {
        let mut saved = image.saved(&[name]);
        list.extend(serde_json::from_slice::<Vec<Value>>(&saved.remove(0).1).unwrap());
        let unique = |path: &str| format!("{}/{path}", name.replace(':', "-"));
        let entry = list.last_mut().unwrap();
        for path in entry["Layers"].as_array_mut().unwrap() {
            *path = json!(unique(path.as_str().unwrap()));
        }
        files.extend(saved.into_iter().map(|(path, bytes)| {
            if path.ends_with(".json") { (path, bytes) } else { (unique(&path), bytes) }
        }));
    }
    files.insert(0, ("manifest.json".to_owned(), serde_json::to_vec(&list).unwrap()));
    let spec = format!("docker-archive:{}", write(&place, "two.tar", &tar(&files)));
    for name in ["two", "docker.io/library/two:latest"] {
        let chosen = resolve(&place, &format!("{spec}:{name}")).unwrap();
        assert_eq!(content(&image(&chosen), "two"), b"2");
    }
    let message = resolve(&place, &spec).unwrap_err().to_string();
    assert!(message.contains("several images") && message.contains("one:1, two:latest"), "{message}");
}

#[test]
fn another_machines_image_is_an_error_that_names_both() {
    let mut foreign = Image::sample();
    foreign.config["architecture"] = json!(OTHER_ARCHITECTURE);
    let both = |message: String| {
        let here = format!("linux/{}", support::oci::architecture());
        assert!(message.contains("linux/s390x") && message.contains(&here), "{message}");
    };
    both(refusal(&foreign.layout(&["x"])));
    // Also when the index says that it is for this machine.
    let manifest = serde_json::to_vec(&foreign.manifest()).unwrap();
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["platform"] = json!({"os": "linux", "architecture": support::oci::architecture()});
    both(refusal(&layout(&json!({"schemaVersion": 2, "manifests": [entry.clone()]}), foreign.blobs())));
    // And when the index says the truth.
    entry["platform"]["architecture"] = json!(OTHER_ARCHITECTURE);
    let inner = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]})).unwrap();
    let outer = json!({"schemaVersion": 2, "manifests": [descriptor(INDEX, &inner)]});
    both(refusal(&layout(&outer, foreign.blobs().into_iter().chain([inner]).collect())));
}

#[test]
fn the_platform_is_chosen_from_nested_indexes() {
    let place = Place::new();
    let sample = Image::sample();
    let manifest = serde_json::to_vec(&sample.manifest()).unwrap();
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["platform"] = json!({"os": "linux", "architecture": support::oci::architecture()});
    let mut other = descriptor(MANIFEST, b"not there");
    other["platform"] = json!({"os": "linux", "architecture": OTHER_ARCHITECTURE});
    let mut attestation = descriptor(MANIFEST, b"not there either");
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let mut blobs = sample.blobs();
    let mut index = json!({"schemaVersion": 2, "manifests": [other, attestation, entry]});
    let mut nest = |index: &mut Value| {
        let bytes = serde_json::to_vec(index).unwrap();
        *index = json!({"schemaVersion": 2, "manifests": [descriptor(INDEX, &bytes)]});
        blobs.push(bytes);
        blobs.clone()
    };
    let files = layout(&index.clone(), nest(&mut index));
    let spec = format!("oci-layout:{}", folder(&place, "flat", &files));
    assert_eq!(content(&image(&resolve(&place, &spec).unwrap()), "file"), b"above");
    for _ in 0..2 {
        nest(&mut index);
    }
    let spec = format!("oci-layout:{}", folder(&place, "three", &layout(&index.clone(), nest(&mut index))));
    assert!(resolve(&place, &spec).is_ok(), "three indexes in each other");
    assert!(refusal(&layout(&index.clone(), nest(&mut index))).contains("nested deeper than 3"));
}

#[test]
fn documents_that_lie_are_refused() {
    let sample = Image::sample();
    let replaced = |of: &[u8], by: &[u8]| {
        let name = format!("blobs/sha256/{}", Digest::of(of).hex());
        let mut files = sample.layout(&["x"]);
        files.iter_mut().find(|(path, _)| *path == name).unwrap().1 = by.to_vec();
        files
    };
    let manifest = serde_json::to_vec(&sample.manifest()).unwrap();
    let config = sample.config_bytes();
    let cut = |bytes: &[u8]| bytes[..bytes.len() - 1].to_vec();
    for (files, reason) in [
        (replaced(&manifest, b"{}"), "its manifest has the digest"),
        (replaced(&config, &config.to_ascii_uppercase()), "its configuration has the digest"),
        (replaced(&config, &cut(&config)), "its configuration has"),
        (replaced(&sample.layers[1].0, &sample.layers[0].0), "layer 2"),
        (replaced(&sample.layers[2].0, &cut(&sample.layers[2].0)), "layer 3"),
        (with_manifest(&sample, |m| m["layers"][0]["mediaType"] = json!("image/png\u{1b}[2J")), "image/png"),
        (
            with_manifest(&sample, |m| {
                m["layers"][0]["mediaType"] = json!(format!("{LAYER}+gzip+encrypted"))
            }),
            "encrypted",
        ),
        (
            with_manifest(&sample, |m| {
                m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
            }),
            "not an image",
        ),
        (with_manifest(&sample, |m| m["config"]["size"] = json!(9 << 20)), "8388608 is the most"),
        (
            with_manifest(&sample, |m| m["layers"][0]["size"] = json!(1u64 << 40)),
            "VMETTE_OCI_MAX_BYTES=BYTES",
        ),
        (
            with_manifest(&sample, |m| drop(m["layers"].as_array_mut().unwrap().pop())),
            "3 diff ids for 2 layers",
        ),
        (with_manifest(&sample, |m| m["manifests"] = json!([])), "manifest and an index"),
        (with_manifest(&sample, |m| m["schemaVersion"] = json!(1)), "schema 1"),
        (layout(&json!({"schemaVersion": 2, "manifests": []}), vec![]), "no image in it"),
        (layout(&sample.manifest(), vec![]), "has to be an index"),
        (
            layout(&json!({"schemaVersion": 2, "manifests": [descriptor(MANIFEST, b"x")]}), vec![]),
            "is missing",
        ),
        (vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec())], "version 2.0.0"),
        (vec![("file".to_owned(), vec![])], "index.json is missing"),
    ] {
        let message = refusal(&files);
        assert!(message.contains(reason), "{reason}: {message}");
    }
    let mut wrong = sample.clone();
    wrong.config["rootfs"]["diff_ids"][2] = json!(Digest::of(b"something else"));
    assert!(refusal(&wrong.layout(&["x"])).contains("layer 3"));
}

/// As some tools keep a layer that several images have.
#[test]
fn links_inside_of_a_layout_are_followed() {
    let sample = Image::sample();
    let place = Place::new();
    let dir = folder(&place, "layout", &sample.layout(&["x"]));
    let dir = Path::new(&dir);
    for (n, blob) in fs::read_dir(dir.join("blobs/sha256")).unwrap().map(Result::unwrap).enumerate() {
        fs::rename(blob.path(), dir.join(format!("blobs/part-{n}"))).unwrap();
        symlink(format!("../part-{n}"), blob.path()).unwrap();
    }
    fs::rename(dir.join("blobs"), dir.join("store")).unwrap();
    symlink("store", dir.join("blobs")).unwrap();
    let made = image(&resolve(&place, &format!("oci-layout:{}", dir.display())).unwrap());
    assert_eq!(content(&made, "file"), b"above");
}

#[test]
fn a_layouts_files_are_its_own() {
    let sample = Image::sample();
    let blob = format!("blobs/sha256/{}", Digest::of(&sample.config_bytes()).hex());
    let refused = |change: &dyn Fn(&Path)| {
        let place = Place::new();
        let dir = folder(&place, "layout", &sample.layout(&["x"]));
        change(Path::new(&dir));
        resolve(&place, &format!("oci-layout:{dir}")).unwrap_err().to_string()
    };
    let message = refused(&|dir| {
        fs::rename(dir.join(&blob), dir.join("elsewhere")).unwrap();
        symlink(dir.join("elsewhere"), dir.join(&blob)).unwrap();
    });
    assert!(message.contains("does not stay in the image layout") && message.contains(&blob), "{message}");
    let message = refused(&|dir| {
        fs::rename(dir.join("blobs"), dir.with_file_name("outside")).unwrap();
        symlink("../outside", dir.join("blobs")).unwrap();
    });
    assert!(message.contains("does not stay in the image layout"), "{message}");
    // Neither waits for a writer.
    let fifo = refused(&|dir| {
        fs::remove_file(dir.join(&blob)).unwrap();
        assert!(Command::new("mkfifo").arg(dir.join(&blob)).status().unwrap().success());
    });
    assert!(fifo.contains("not a regular file"), "{fifo}");
    let missing = refused(&|dir| fs::remove_file(dir.join(&blob)).unwrap());
    assert!(missing.contains("missing"), "{missing}");
}

#[test]
fn archives_that_lie_are_refused() {
    let sample = Image::sample();
    let place = Place::new();
    let message = |bytes: &[u8]| {
        let spec = format!("docker-archive:{}", write(&place, "x.tar", bytes));
        resolve(&place, &spec).unwrap_err().to_string()
    };
    let saved = sample.saved(&["name"]);
    let without = |index: usize| {
        let mut files = saved.clone();
        files.remove(index);
        tar(&files)
    };
    assert!(message(&without(1)).contains("is missing"));
    assert!(message(&without(3)).contains("1/layer.tar"));
    assert!(message(b"text").contains("no tar archive"));
    assert!(message(&tar(&saved)[..4196]).contains("truncated"));
    assert!(message(&gzip(b"text")).contains("no tar archive"));
    assert!(message(&gzip(&tar(&saved))[..200]).contains("x.tar"));
    assert!(message(&tar(&[("other".to_owned(), vec![])])).contains("index.json is missing"));
    let mut twice = saved.clone();
    twice.push(saved[0].clone());
    assert!(message(&tar(&twice)).contains("manifest.json twice"));
    let mut exchanged = saved.clone();
    exchanged[1].1.push(b' ');
    assert!(message(&tar(&exchanged)).contains("its configuration has the digest"));
    let list = |config: &str, layer: &str| {
        let list = json!([{"Config": config, "RepoTags": null, "Layers": [layer]}]);
        tar(&[("manifest.json".to_owned(), serde_json::to_vec(&list).unwrap())])
    };
    assert!(message(&list("../../../../etc/passwd", "x")).contains("is missing"));
    assert!(message(&list("/etc/passwd", "x")).contains("is missing"));
    let mut layers = saved.clone();
    layers[2].1 = layers[3].1.clone();
    assert!(message(&tar(&layers)).contains("layer 1 of 3"), "{}", message(&tar(&layers)));
    for (spec, reason) in [
        ("docker-archive:", "no path"),
        ("oci-layout:/no/such", "no such file"),
        ("oci-archive:/tmp", "directory"),
    ] {
        let message = resolve(&place, spec).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}

/// A layer that an image has twice is a link in what `docker save` wrote for years.
#[test]
fn a_layer_may_be_a_link_to_another() {
    let place = Place::new();
    let layer = Archive::default().file("f", b"1").end();
    let image_twice = Image::new(&[layer.clone(), layer.clone()]);
    let mut archive = Archive::default();
    for (name, content) in image_twice.saved(&["x"]) {
        archive = match name.as_str() {
            "0/layer.tar" => archive.file(&name, &layer),
            "1/layer.tar" => archive.symlink(&name, "../0/layer.tar"),
            _ => archive.file(&name, &content),
        };
    }
    let spec = format!("docker-archive:{}", write(&place, "x.tar", &archive.end()));
    assert_eq!(content(&image(&resolve(&place, &spec).unwrap()), "f"), b"1");
}

/// What other programs write.
#[test]
fn archives_of_skopeo_and_layouts_of_umoci() {
    let place = Place::new();
    let root = place.root.path();
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(root).output();
        let output = output.unwrap_or_else(|e| panic!("{program}: {e}; scripts/setup installs it"));
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    fs::create_dir_all(root.join("tree/usr/share")).unwrap();
    fs::write(root.join("tree/usr/share/data"), vec![7; 100_000]).unwrap();
    run("umoci", &["init", "--layout", "layout"]);
    run("umoci", &["new", "--image", "layout:one"]);
    run("umoci", &["insert", "--image", "layout:one", "tree/usr", "/usr"]);
    run("umoci", &["insert", "--image", "layout:one", "tree/usr/share/data", "/data"]);
    run("umoci", &["config", "--image", "layout:one", "--config.user", "nobody", "--config.env", "B=2"]);
    run("skopeo", &["copy", "-q", "oci:layout:one", "oci-archive:oci.tar:one"]);
    run("skopeo", &["copy", "-q", "oci:layout:one", "docker-archive:docker.tar:name:one"]);
    run("skopeo", &["copy", "-q", "--dest-compress-format", "zstd", "oci:layout:one", "oci:zstd:one"]);
    let dir = root.display();
    let specs = [
        format!("oci-layout:{dir}/layout:one"),
        format!("oci-archive:{dir}/oci.tar:one"),
        format!("docker-archive:{dir}/docker.tar"),
        format!("oci-layout:{dir}/zstd"),
    ];
    for spec in &specs {
        let artifact = resolve(&place, spec).unwrap();
        assert_eq!(artifact.config().user.as_deref(), Some("nobody"), "{spec}");
        assert_eq!(content(&image(&artifact), "data"), vec![7; 100_000], "{spec}");
        assert_eq!(content(&image(&artifact), "usr/share/data").len(), 100_000, "{spec}");
    }
    assert_eq!(CONFIG, "application/vnd.oci.image.config.v1+json");
}
