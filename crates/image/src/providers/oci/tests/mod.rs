//! Images pulled whole, from a registry on loopback that does as a test wants it to.

mod faults;
mod names;
mod processes;
pub(crate) mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::pull;
use crate::context::Context;
use crate::error::Result;
use crate::meta::Meta;
use crate::pack::CleanTar;
use crate::store::StoredImage;
use vmette_cache::Digest;
use vmette_http::testing::{Received, Reply, Server};
use vmette_http::{Client, Policy};
use vmette_oci::{Platform, Reference, Registry, Source};
use vmette_work::{Cancel, Progress, Work};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const NAME: &str = "owner/name";

/// Size of the largest layer of a sample, in bytes: more than goes into the buffers on the way, and more than one
/// step of the progress that is told.
const NOISE: usize = 900_000;

/// An image, as a registry stores it.
#[derive(Clone)]
struct Sample {
    layers: Vec<Vec<u8>>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Sample {
    /// Two layers: `large`, which does not compress, and `version`.
    fn new(version: &str) -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(NOISE).collect();
        let layer = |name: &str, content: &[u8]| {
            let mut tar = CleanTar::without_root(Vec::new());
            tar.file(name.as_bytes(), &Meta::root_owned(0o644), content).unwrap();
            tar.finish().unwrap()
        };
        Self::of(&[layer("large", &noise), layer("version", version.as_bytes())])
    }

    fn of(layers: &[Vec<u8>]) -> Self {
        let stored: Vec<_> = layers.iter().map(|layer| gzip(layer)).collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let platform = Platform::of_guest();
        let config = json!({
            "os": platform.os, "architecture": platform.architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self::with_config(stored, config.to_string().into_bytes())
    }

    fn with_config(layers: Vec<Vec<u8>>, config: Vec<u8>) -> Self {
        let listed: Vec<_> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": listed,
        });
        Self { layers, config, manifest: manifest.to_string().into_bytes() }
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    fn layer_path(&self, index: usize) -> String {
        format!("/v2/{NAME}/blobs/{}", Digest::of(&self.layers[index]))
    }

    /// A good registry's answer, without credentials.
    fn serve(&self, request: &Received) -> Reply {
        let blobs = self.layers.iter().chain([&self.config]);
        let blob =
            blobs.clone().find(|blob| request.path == format!("/v2/{NAME}/blobs/{}", Digest::of(blob)));
        let manifests = ["latest".to_owned(), self.digest().to_string()];
        if request.path == "/v2/" {
            Reply::ok("{}")
        } else if manifests.iter().any(|which| request.path == format!("/v2/{NAME}/manifests/{which}")) {
            Reply::ok(&self.manifest)
                .header("Content-Type", MANIFEST)
                .header("Docker-Content-Digest", &self.digest().to_string())
        } else if let Some(blob) = blob {
            Reply::file(request, blob)
        } else {
            Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
        }
    }

    fn server(&self) -> Server {
        let sample = self.clone();
        Server::start(move |request| sample.serve(request))
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// A cache of a test's own, and what was told while it was filled.
struct Place {
    root: tempfile::TempDir,
    told: Arc<Mutex<Vec<String>>>,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), told: Arc::default() }
    }

    fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn context(&self) -> Context {
        let told = Arc::clone(&self.told);
        Context::new(self.cache()).with_cache_budget(0).with_reporter(Arc::new(move |progress| {
            if let Progress::Warning(line) = progress {
                told.lock().unwrap().push((*line).to_owned());
            }
        }))
    }

    fn pull(&self, server: &Server) -> Result<StoredImage> {
        pull_with(&self.context(), &server.host())
    }

    /// Warnings since the last time.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    /// Names of files of images and layers except locks, each by its name's ending.
    fn files(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for dir in ["images", "layers"] {
            let Ok(entries) = fs::read_dir(self.cache().join(dir)) else { continue };
            for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
                let kind = path.extension().unwrap_or(dir.as_ref()).to_string_lossy().into_owned();
                *counts.entry(kind).or_default() += 1;
            }
        }
        counts
    }

    /// Nothing is there but these images, each with its record, and these layers.
    fn holds(&self, images: usize, layers: usize) {
        let expected = [("json", images), ("layers", layers), ("sqfs", images)];
        let expected = expected.into_iter().filter(|(_, count)| *count > 0);
        let files: BTreeMap<_, _> = self.files().into_iter().filter(|(kind, _)| kind != "lock").collect();
        assert_eq!(files, expected.map(|(kind, count)| (kind.to_owned(), count)).collect());
    }

    fn layer_file(&self, sample: &Sample, index: usize) -> PathBuf {
        self.cache().join("layers").join(format!("sha256-{}", Digest::of(&sample.layers[index]).hex()))
    }
}

fn pull_with(ctx: &Context, host: &str) -> Result<StoredImage> {
    pull_by(Client::impatient, ctx, host)
}

/// With a client of the test's choice.
fn pull_by(client: fn(&Policy, &Cancel) -> Client, ctx: &Context, host: &str) -> Result<StoredImage> {
    let connect = |reference: &Reference, work: &Work| {
        let (host, repository) = (reference.host(), reference.repository());
        let client = client(ctx.policy(), work.cancel());
        let registry = Registry::new(host, repository, &client, ctx.credentials(), work)?;
        Ok(Box::new(registry) as Box<dyn Source>)
    };
    pull::obtain(&format!("{host}/{NAME}"), ctx, 1 << 30, &connect)
}

/// The content of a file of an image, as another program reads it.
fn content(image: &Path, name: &str) -> Vec<u8> {
    let output = Command::new("unsquashfs").arg("-cat").args([image, Path::new(name)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The image is the sample of this version.
fn assert_is(image: &StoredImage, version: &str) {
    assert_eq!(content(&image.path, "version"), version.as_bytes());
    let mut random = fastrand::Rng::with_seed(7);
    assert!(
        content(&image.path, "large").into_iter().eq(std::iter::repeat_with(|| random.u8(..)).take(NOISE))
    );
}

/// Requests for layers: the paths, without those for parts.
fn downloads(server: &Server, sample: &Sample) -> usize {
    let layers: Vec<_> = (0..sample.layers.len()).map(|index| sample.layer_path(index)).collect();
    server.received().iter().filter(|request| layers.contains(&request.path)).count()
}
