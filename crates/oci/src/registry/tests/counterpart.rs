//! Debian's `docker-registry`, filled by `skopeo`, as a counterpart that was not made to fit.

use std::fs;
use std::io::Read;
use std::path::Path;

use vmette_testing::authority::Identity;
use vmette_testing::registry::{self as counterpart, PASSWORD, USER};

use super::*;

const BLOB: usize = 300_000;

/// Ended when dropped.
struct Counterpart {
    server: counterpart::Registry,
    dir: tempfile::TempDir,
}

impl Counterpart {
    fn start(authority: Option<&Authority>, passwords: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pem = authority.map(Authority::certificate);
        let tls = pem.as_ref().map(|(certificate, key)| Identity { certificate, key });
        let server =
            counterpart::Registry::start(dir.path(), counterpart::Access { tls, passwords }).unwrap();
        Self { server, dir }
    }

    fn host(&self) -> &str {
        self.server.host()
    }

    /// With an image of one layer that has these bytes.
    fn fill(&self, layer: &[u8]) {
        let layout = self.dir.path().join("layout");
        write_layout(&layout, layer);
        let status = self.server.push(&layout, "latest", "owner/name:latest", &[]).status().unwrap();
        assert!(status.success());
    }
}

fn write_layout(dir: &Path, layer: &[u8]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        format!(r#""digest":"{digest}","size":{}"#, bytes.len())
    };
    let diff_id = Digest::of(layer);
    let layer = add(layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let config = add(config.as_bytes());
    let manifest = add(format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{config}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar",{layer}}}]}}"#
    )
    .as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",{manifest},"annotations":{{"org.opencontainers.image.ref.name":"latest"}}}}]}}"#
    );
    fs::write(dir.join("index.json"), index).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// The layer that the tag's manifest names, from this byte on.
fn pull(registry: &Registry, from: usize) -> Vec<u8> {
    let manifest = registry.manifest(&tag()).unwrap();
    assert_eq!(manifest.media_type.as_deref(), Some(TYPE));
    assert_eq!(registry.digest_of("latest").unwrap(), manifest.digest);
    assert_eq!(registry.manifest(&Which::Digest(manifest.digest)).unwrap(), manifest);
    let parsed: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
    let layer = &parsed["layers"][0];
    let digest = layer["digest"].as_str().unwrap().parse().unwrap();
    let blob = Blob { digest, size: layer["size"].as_u64().unwrap() };
    let mut bytes = Vec::new();
    registry.open(&blob, from as u64).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes that do not compress, so that `skopeo` has no reason to.
fn layer() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(BLOB).collect()
}

#[test]
fn a_registry_without_anything() {
    let counterpart = Counterpart::start(None, false);
    counterpart.fill(&layer());
    let registry = registry(counterpart.host(), &anybody());
    let whole = pull(&registry, 0);
    assert_eq!(pull(&registry, 100_000), whole[100_000..]);
    is_told_to_be_missing(&registry, "other");
}

#[test]
fn a_registry_with_tls_and_passwords() {
    let authority = Authority::new();
    let counterpart = Counterpart::start(Some(&authority), true);
    counterpart.fill(&layer());
    let host = counterpart.host();
    let right = with_authority(&authority).with_credentials(host, USER, PASSWORD);
    let whole = pull(&registry(host, &right), 0);
    assert_eq!(pull(&registry(host, &right), 100_000), whole[100_000..]);

    let wrong = with_authority(&authority).with_credentials(host, USER, "wr0ng");
    let e = network(registry(host, &wrong).manifest(&tag()).unwrap_err());
    assert!(
        matches!(e, NetworkError::Denied { status: 401, .. }) && e.to_string().contains("user ann"),
        "{e}"
    );
    let e = network(registry(host, &with_authority(&authority)).manifest(&tag()).unwrap_err());
    assert!(e.to_string().contains("no credentials for"), "{e}");
    let e = network(registry(host, &with_authority(&Authority::new())).manifest(&tag()).unwrap_err());
    assert!(matches!(e, NetworkError::Certificate { .. }), "{e:?}");
}
