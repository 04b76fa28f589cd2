//! An image as an OCI archive: the layout of the OCI image specification, in a tar file.
//!
//! The layer comes first, written while it is made: its header, which says its name and size, is filled in afterwards.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vmette_cache::Digest;
use vmette_oci::{ImageConfig, Platform};
use vmette_work::Work;

use super::copy;
use crate::store::Description;

const BLOCK: usize = 512;
/// Made while somebody waits: half the time of the default, and a tenth larger.
const LEVEL: Compression = Compression::new(4);
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Which name the image has, for `podman load`, and for `docker load`.
const NAME_ANNOTATIONS: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// Writes the archive, of which `tree` is the only layer.
pub(super) fn write(
    tree: impl Read,
    described: &Description,
    name: Option<&str>,
    file: &mut File,
    work: &Work,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(BLOCK as u64))?;
    let layer = write_layer(tree, file, work)?;
    pad(file, layer.size)?;

    let config = serde_json::to_vec(&configuration(described, &layer.diff_id))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": { "mediaType": CONFIG_TYPE, "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": LAYER_TYPE, "digest": layer.digest, "size": layer.size }],
    }))?;
    let annotations: serde_json::Map<String, Value> = NAME_ANNOTATIONS
        .iter()
        .filter_map(|annotation| Some(((*annotation).to_owned(), Value::from(name?))))
        .collect();
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [{
            "mediaType": MANIFEST_TYPE,
            "digest": Digest::of(&manifest),
            "size": manifest.len(),
            "annotations": annotations,
        }],
    }))?;
    for content in [&config, &manifest] {
        entry(file, &blob(&Digest::of(content)), content)?;
    }
    entry(file, "index.json", &index)?;
    entry(file, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    // The mark of the archive's end.
    file.write_all(&[0; 2 * BLOCK])?;

    file.seek(SeekFrom::Start(0))?;
    file.write_all(header(&blob(&layer.digest), layer.size)?.as_bytes())
}

struct Layer {
    /// Digest of the compressed bytes.
    digest: Digest,
    size: u64,
    diff_id: Digest,
}

fn write_layer(tree: impl Read, file: &mut File, work: &Work) -> io::Result<Layer> {
    let start = file.stream_position()?;
    let compressed = Hashing { inner: BufWriter::new(&mut *file), hasher: Sha256::new() };
    let mut plain = Hashing { inner: GzEncoder::new(compressed, LEVEL), hasher: Sha256::new() };
    copy(tree, &mut plain, work)?;
    let diff_id = Digest::finish(plain.hasher);
    let Hashing { inner, hasher } = plain.inner.finish()?;
    let file = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(Layer { digest: Digest::finish(hasher), size: file.stream_position()? - start, diff_id })
}

/// The configuration, in the specification's names.
fn configuration(described: &Description, diff_id: &Digest) -> Value {
    let ImageConfig { env, entrypoint, cmd, user, working_dir, volumes, stop_signal, labels } =
        &described.config;
    let env: Vec<_> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let volumes: serde_json::Map<_, _> = volumes.iter().map(|path| (path.clone(), json!({}))).collect();
    let mut config =
        json!({ "Env": env, "Entrypoint": entrypoint, "Cmd": cmd, "Volumes": volumes, "Labels": labels });
    for (key, value) in [("User", user), ("WorkingDir", working_dir), ("StopSignal", stop_signal)] {
        if let Some(value) = value {
            config[key] = Value::from(value.as_str());
        }
    }
    let Platform { os, architecture, variant } =
        described.platform.clone().unwrap_or_else(Platform::of_guest);
    let mut whole = json!({
        "architecture": architecture,
        "os": os,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created_by": "vmette image export" }],
    });
    if let Some(variant) = variant {
        whole["variant"] = Value::from(variant);
    }
    whole
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn entry(file: &mut File, name: &str, content: &[u8]) -> io::Result<()> {
    file.write_all(header(name, content.len() as u64)?.as_bytes())?;
    file.write_all(content)?;
    pad(file, content.len() as u64)
}

fn header(name: &str, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

fn pad(file: &mut File, size: u64) -> io::Result<()> {
    let zeros = [0; BLOCK];
    let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
    file.write_all(&zeros[..padding])
}

/// Hashes what goes through.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
