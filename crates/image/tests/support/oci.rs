//! Images made by hand, so that they can be as wrong as a stranger's.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use vmette_image::Digest;

use super::Archive;

pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// As Go names this machine's.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// One that no machine of the tests has.
pub const OTHER_ARCHITECTURE: &str = "s390x";

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image: layers as they are stored, and what its documents say.
#[derive(Clone)]
pub struct Image {
    /// Stored bytes and media type.
    pub layers: Vec<(Vec<u8>, String)>,
    pub config: Value,
}

impl Image {
    /// Of uncompressed layers, of which the first is stored with gzip, the second with zstd and the others as they are.
    pub fn new(layers: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let stored = layers.iter().enumerate().map(|(index, layer)| match index {
            0 => (gzip(layer), format!("{LAYER}+gzip")),
            1 => (zstd::encode_all(&layer[..], 1).unwrap(), format!("{LAYER}+zstd")),
            _ => (layer.clone(), LAYER.to_owned()),
        });
        let config = json!({
            "os": "linux", "architecture": architecture(),
            "config": {"Env": ["A=1"], "Entrypoint": ["/bin/entry"], "Cmd": ["arg"], "WorkingDir": "/srv"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self { layers: stored.collect(), config }
    }

    /// One file, one layer more that replaces it, one that is plain.
    pub fn sample() -> Self {
        Self::new(&[
            Archive::default().file("file", b"below").file("gone", b"x").end(),
            Archive::default().file("file", b"above").file(".wh.gone", b"").end(),
            Archive::default().file("third", b"3").end(),
        ])
    }

    pub fn config_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.config).unwrap()
    }

    pub fn manifest(&self) -> Value {
        let layers = self.layers.iter().map(|(bytes, media_type)| descriptor(media_type, bytes));
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &self.config_bytes()), "layers": layers.collect::<Vec<_>>(),
        })
    }

    /// Everything that its manifest refers to, and the manifest.
    pub fn blobs(&self) -> Vec<Vec<u8>> {
        let layers = self.layers.iter().map(|(bytes, _)| bytes.clone());
        layers.chain([self.config_bytes(), serde_json::to_vec(&self.manifest()).unwrap()]).collect()
    }

    /// The files of a layout in which it has these tags.
    pub fn layout(&self, tags: &[&str]) -> Vec<(String, Vec<u8>)> {
        let manifest = serde_json::to_vec(&self.manifest()).unwrap();
        let entries = tags.iter().map(|tag| {
            let mut entry = descriptor(MANIFEST, &manifest);
            if !tag.is_empty() {
                entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
            }
            entry
        });
        layout(&json!({"schemaVersion": 2, "manifests": entries.collect::<Vec<_>>()}), self.blobs())
    }

    /// The files of a `docker save` archive in which it has these names.
    pub fn saved(&self, names: &[&str]) -> Vec<(String, Vec<u8>)> {
        let config = format!("{}.json", Digest::of(&self.config_bytes()).hex());
        let layers: Vec<_> = (0..self.layers.len()).map(|index| format!("{index}/layer.tar")).collect();
        let list = json!([{"Config": config, "RepoTags": names, "Layers": layers}]);
        let mut files = vec![
            ("manifest.json".to_owned(), serde_json::to_vec(&list).unwrap()),
            (config, self.config_bytes()),
        ];
        files.extend(layers.into_iter().zip(self.layers.iter().map(|(bytes, _)| bytes.clone())));
        files
    }
}

pub fn layout(index: &Value, blobs: Vec<Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), serde_json::to_vec(index).unwrap()),
    ];
    files.extend(blobs.into_iter().map(|blob| (format!("blobs/sha256/{}", Digest::of(&blob).hex()), blob)));
    files.sort();
    files.dedup();
    files
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

pub fn write_folder(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, content) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

pub fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    files.iter().fold(Archive::default(), |archive, (name, content)| archive.file(name, content)).end()
}
