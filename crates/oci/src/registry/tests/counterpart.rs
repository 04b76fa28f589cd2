//! Debian's `docker-registry`, filled by `skopeo`, as a counterpart that was not made to fit.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;

/// `ann` with the password `s3cret`, as `htpasswd -nbB` writes it.
const PASSWORDS: &str = "ann:$2y$05$4yVlgUOMpi0P34g2CLeVyOcT6VffI/.ZwuhZziyQyVqDRSI2mOGIK\n";
const BLOB: usize = 300_000;

/// Ended when dropped.
struct Counterpart {
    child: Child,
    host: String,
    dir: tempfile::TempDir,
}

impl Drop for Counterpart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Counterpart {
    fn start(tls: Option<&Authority>, passwords: bool) -> Self {
        // A port that is free now may be taken a moment later, by another test: then there is another one.
        (0..10).find_map(|_| Self::try_start(tls, passwords)).unwrap()
    }

    fn try_start(tls: Option<&Authority>, passwords: bool) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            at("storage")
        );
        if let Some(authority) = tls {
            let (certificate, key) = authority.certificate();
            fs::write(at("cert.pem"), certificate).unwrap();
            fs::write(at("key.pem"), key).unwrap();
            config += &format!("  tls:\n    certificate: {}\n    key: {}\n", at("cert.pem"), at("key.pem"));
        }
        if passwords {
            fs::write(at("htpasswd"), PASSWORDS).unwrap();
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", at("htpasswd"));
        }
        fs::write(at("config.yml"), config).unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (listening, log) = (mpsc::channel(), child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(|line| line.ok()) {
                if line.contains("listening on") {
                    let _ = listening.0.send(());
                }
            }
        });
        let counterpart = Self { child, host, dir };
        listening.1.recv_timeout(Duration::from_secs(30)).ok().map(|()| counterpart)
    }

    /// With an image of one layer that has these bytes.
    fn fill(&self, layer: &[u8], tls: bool) {
        let layout = self.dir.path().join("layout");
        write_layout(&layout, layer);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        if tls {
            skopeo.args(["--dest-creds", "ann:s3cret"]);
        }
        let source = format!("oci:{}:latest", layout.display());
        let status =
            skopeo.args([source, format!("docker://{}/owner/name:latest", self.host)]).status().unwrap();
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

/// What does not compress, so that `skopeo` has no reason to.
fn layer() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(BLOB).collect()
}

#[test]
fn a_registry_without_anything() {
    let counterpart = Counterpart::start(None, false);
    counterpart.fill(&layer(), false);
    let registry = registry(&counterpart.host, &anybody());
    let whole = pull(&registry, 0);
    assert_eq!(pull(&registry, 100_000), whole[100_000..]);
    is_told_to_be_missing(&registry, "other");
}

#[test]
fn a_registry_with_tls_and_passwords() {
    let authority = Authority::new();
    let counterpart = Counterpart::start(Some(&authority), true);
    counterpart.fill(&layer(), true);
    let host = &counterpart.host;
    let right = with_authority(&authority).with_credentials(host, "ann", "s3cret");
    let whole = pull(&registry(host, &right), 0);
    assert_eq!(pull(&registry(host, &right), 100_000), whole[100_000..]);

    let wrong = with_authority(&authority).with_credentials(host, "ann", "wr0ng");
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
