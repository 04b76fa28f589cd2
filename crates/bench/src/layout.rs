//! Archives as the layers of an image, in a folder that container tools read: the OCI image layout, version 1.0.0.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The image's name in the layout.
pub(crate) const TAG: &str = "bench";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes the layout to `folder`. Layers are moved there and stay uncompressed.
pub(crate) fn write(folder: &Path, layers: &[PathBuf]) -> anyhow::Result<()> {
    let written = || {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let layers = layers.iter().map(|layer| take(&blobs, layer)).collect::<io::Result<Vec<_>>>()?;
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Cmd": ["true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = add(&blobs, CONFIG, &config)?;
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let mut manifest = add(&blobs, MANIFEST, &manifest)?;
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": TAG });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(folder.join("index.json"), index.to_string())?;
        fs::write(folder.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())
    };
    written().with_context(|| format!("write an image to {}", folder.display()))
}

/// Moves a layer among the blobs; its descriptor.
fn take(blobs: &Path, layer: &Path) -> io::Result<Value> {
    let mut hasher = Sha256::new();
    let mut file = File::open(layer)?;
    let mut chunk = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        hasher.write_all(&chunk[..read])?;
        size += read as u64;
    }
    let hex = hex(&hasher.finalize());
    fs::rename(layer, blobs.join(&hex))?;
    Ok(descriptor(LAYER, &hex, size))
}

/// Writes a document among the blobs; its descriptor.
fn add(blobs: &Path, media_type: &str, document: &Value) -> io::Result<Value> {
    let text = document.to_string();
    let hex = hex(&Sha256::digest(&text));
    fs::write(blobs.join(&hex), &text)?;
    Ok(descriptor(media_type, &hex, text.len() as u64))
}

fn descriptor(media_type: &str, hex: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": size })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
