//! Fuzz targets of images and their names.

use std::io::Write;

use serde_json::json;

use vmette_cache::Digest;
use vmette_oci::{
    Files, INDEX, INDEX_ENTRIES_MAX, LAYERS_MAX, Layout, Parsed, Platform, RawManifest, Reference, Which,
    candidates, parse_configuration, parse_manifest, saved as parse_saved,
};

use super::{CONFIG, LAYER, MANIFEST, NAME, Sample, descriptor};
use crate::outer::Outer;
use crate::providers::{
    LocalImageProvider, OciProvider, RootfsProvider, SquashfsProvider, TarProvider, spec,
};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// A spec: somebody claims it or nobody does; a reference that is taken is canonical and names nothing else.
pub(crate) fn spec(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let providers: [&dyn RootfsProvider; 6] = [
        &SquashfsProvider::new(),
        &TarProvider::new(),
        &LocalImageProvider::layout(),
        &LocalImageProvider::oci_archive(),
        &LocalImageProvider::docker_archive(),
        &OciProvider::new(),
    ];
    let claimed = providers.iter().find(|provider| provider.matches(&text)).map_or("nobody", |p| p.name());
    let path = spec::file_url("tar", &text);
    if let Ok(path) = &path {
        assert!(path.is_absolute(), "{path:?}");
        let again = spec::file_url("tar", &format!("tar+file://{}", spec::encode_path(path))).unwrap();
        assert_eq!(again, *path);
    }
    let reference = Reference::parse(&text);
    let said = match &reference {
        Ok(reference) => {
            let canonical = reference.to_string();
            let again = Reference::parse(&canonical).unwrap();
            assert_eq!(again.to_string(), canonical);
            assert_eq!((again.host(), again.repository()), (reference.host(), reference.repository()));
            let is_name = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
            assert!(reference.repository().chars().all(is_name), "{canonical:?}");
            assert!(!reference.repository().split('/').any(|part| part.is_empty() || part.starts_with('.')));
            assert!(!reference.host().contains(['/', '@', '?', '#', ' ']) && !reference.host().is_empty());
            match reference.which() {
                Which::Tag(tag) => assert!(!tag.is_empty() && tag.chars().all(is_name) && !tag.contains('/')),
                Which::Digest(digest) => assert_eq!(Some(digest), reference.digest()),
            }
            format!("tag {}, host {}", reference.digest().is_none(), reference.is_local())
        }
        Err(e) => {
            let message = e.to_string();
            assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
            // The part that repeats the spec is not the outcome.
            message.rsplit('"').next().unwrap_or_default().to_owned()
        }
    };
    format!("{claimed}, path {}, {said}", path.is_ok())
}

pub(crate) fn spec_seeds() -> Vec<Vec<u8>> {
    let digest = format!("name@sha256:{}", "a1".repeat(32));
    let texts = [
        "alpine",
        "alpine:3.20",
        "ghcr.io/owner/name:tag",
        "host:5000/name",
        "[::1]:5000/a/b:c",
        &digest,
        &format!("host/{digest}"),
        "oci://localhost/mine:latest",
        "tar+file:///srv/a%20b.tar",
        "tar+https://host/rootfs.tar.gz#sha256=00",
        "squashfs+file://localhost/x",
        "oci-layout:./layout:v1",
        "docker-archive:/x.tar",
        "./folder",
        "builtin",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A manifest or an index, whatever it is served as.
pub(crate) fn manifest(input: &[u8]) -> String {
    let mut outcome = String::new();
    for media_type in [None, Some(MANIFEST), Some(INDEX_TYPE)] {
        let raw = RawManifest {
            media_type: media_type.map(str::to_owned),
            digest: Digest::of(input),
            bytes: input.to_vec(),
        };
        match parse_manifest(&raw) {
            Ok(Parsed::Manifest(manifest)) => {
                assert!((1..=LAYERS_MAX).contains(&manifest.layers.len()));
                outcome += "manifest;";
            }
            Ok(Parsed::Index(entries)) => {
                assert!(entries.len() <= INDEX_ENTRIES_MAX);
                outcome += &match candidates(&entries, &Platform::of_guest()) {
                    Ok(candidates) => {
                        assert!(!candidates.is_empty() && candidates.len() <= entries.len());
                        "candidates;".to_owned()
                    }
                    Err(e) => printable(&e),
                };
            }
            Err(e) => outcome += &printable(&e),
        }
    }
    outcome
}

pub(crate) fn manifest_seeds() -> Vec<Vec<u8>> {
    let sample = Sample::new("1");
    let platform = Platform::of_guest();
    let mut entry = descriptor(MANIFEST, b"x");
    entry["platform"] = json!({"os": platform.os, "architecture": platform.architecture});
    let mut other = descriptor(MANIFEST, b"y");
    other["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    other["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry, other]});
    let schema_1 = json!({"schemaVersion": 1, "fsLayers": [], "history": []});
    vec![sample.manifest, index.to_string().into_bytes(), schema_1.to_string().into_bytes()]
}

/// Its settings can be handed to a system that ends strings with a NUL.
pub(crate) fn configuration(input: &[u8]) -> String {
    match parse_configuration(input) {
        Ok(configuration) => {
            let said = &configuration.config;
            let env = said.env.iter().flat_map(|(name, value)| [name, value]);
            let texts = env.chain(&said.entrypoint).chain(&said.cmd).chain(&said.user).chain(&said.volumes);
            for text in texts.chain(&said.working_dir).chain(&said.stop_signal) {
                assert!(!text.contains('\0'), "{text:?}");
            }
            assert!(said.env.iter().all(|(name, _)| !name.is_empty() && !name.contains('=')));
            let paths = said.volumes.iter().chain(&said.working_dir);
            assert!(paths.clone().all(|path| path.starts_with('/')));
            format!("{} variables, {} paths", said.env.len().min(2), paths.count().min(2))
        }
        Err(e) => printable(&e),
    }
}

pub(crate) fn configuration_seeds() -> Vec<Vec<u8>> {
    let full = json!({
        "os": "linux", "architecture": "arm64", "variant": "v8",
        "config": {
            "Env": ["PATH=/bin", "EMPTY=", "bad"], "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["true"], "User": "1000:1000",
            "WorkingDir": "/srv", "Volumes": {"/data": {}, "/a/b": {}}, "StopSignal": "SIGINT", "Labels": {"a": "b"},
        },
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x")]},
    });
    vec![Sample::new("1").config, full.to_string().into_bytes(), b"{}".to_vec()]
}

/// An archive with a layout in it.
pub(crate) fn layout(input: &[u8]) -> String {
    with_outer(input, |outer| Layout::new("x", Box::new(outer), None).root().map(|_| "image".to_owned()))
}

/// An archive as `docker save` writes it.
pub(crate) fn saved(input: &[u8]) -> String {
    with_outer(input, |outer| {
        let Some(list) = outer.open("manifest.json")? else { return Ok("no list".to_owned()) };
        let image = parse_saved(&outer, list, None, "x")?;
        Ok(format!("{} layers", image.layers.len()))
    })
}

fn with_outer(input: &[u8], look: impl FnOnce(Outer) -> vmette_oci::Result<String>) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    Outer::index(file, "x").and_then(look).unwrap_or_else(|e| {
        let message = e.to_string();
        assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
        message
    })
}

pub(crate) fn layout_seeds() -> Vec<Vec<u8>> {
    let sample = Sample::of(&[b"layer".to_vec()]);
    let mut entry = descriptor(MANIFEST, &sample.manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let blob = format!("blobs/sha256/{}", sample.digest().hex());
    vec![
        tar(&[
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            (INDEX, index.as_bytes()),
            (&blob, &sample.manifest),
        ]),
        tar(&[(INDEX, br#"{"schemaVersion":2,"manifests":[]}"#)]),
    ]
}

pub(crate) fn saved_seeds() -> Vec<Vec<u8>> {
    let sample = Sample::of(&[b"layer".to_vec()]);
    let config = format!("{}.json", Digest::of(&sample.config).hex());
    let list =
        json!([{"Config": config, "RepoTags": [NAME], "Layers": ["0/layer.tar", "1/layer.tar"]}]).to_string();
    vec![
        tar(&[
            ("manifest.json", list.as_bytes()),
            (&config, &sample.config),
            ("0/layer.tar", b"0"),
            ("1/layer.tar", b"1"),
        ]),
        tar(&[("manifest.json", b"[]")]),
    ]
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A refusal is shown to somebody at a terminal, who is not to be misled.
fn printable(error: &impl std::fmt::Display) -> String {
    let message = error.to_string();
    assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
    assert!(![CONFIG, LAYER].contains(&message.as_str()));
    message
}
