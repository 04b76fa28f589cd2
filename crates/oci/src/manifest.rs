//! Manifests and indexes.

use serde::Serialize;

use super::bounded::{self, List, object};
use super::error::{ImageError, shown};
use super::media_type::{self, Kind};
use super::source::{Blob, RawManifest};

/// Longest manifest or index in bytes; registries take no longer ones.
pub(crate) const MANIFEST_MAX: u64 = 4 << 20;
/// Most layers of an image. Container engines stop at 127, which is what overlayfs can stack.
pub const LAYERS_MAX: usize = 512;
/// Most entries of an index: a layout folder may hold many images.
pub const INDEX_ENTRIES_MAX: usize = 4096;

/// Either kind, so that a document that claims to be both can be told.
#[derive(Default)]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<List<Descriptor, LAYERS_MAX>>,
    manifests: Option<List<Descriptor, INDEX_ENTRIES_MAX>>,
    fs_layers: Option<bounded::Nothing>,
}
object!(Document {
    schema_version: "schemaVersion",
    media_type: "mediaType",
    config: "config",
    layers: "layers",
    manifests: "manifests",
    fs_layers: "fsLayers",
});

/// A reference to some content.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub(super) media_type: String,
    digest: String,
    size: u64,
    pub(super) platform: Option<DeclaredPlatform>,
    pub(super) annotations: Option<Annotations>,
}
object!(Descriptor {
    media_type: "mediaType",
    digest: "digest",
    size: "size",
    platform: "platform",
    annotations: "annotations",
});

/// The platform of an index's entry.
#[derive(Debug, Clone, Serialize)]
pub(super) struct DeclaredPlatform {
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) variant: Option<String>,
}
impl DeclaredPlatform {
    /// Returns whether it is more than empty.
    pub(super) fn says_something(&self) -> bool {
        !self.os.is_empty() || !self.architecture.is_empty()
    }
}
object!(DeclaredPlatform { os: "os", architecture: "architecture", variant: "variant" });

/// The annotations that mean something here.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Annotations {
    /// The tag, in a layout.
    #[serde(rename = "org.opencontainers.image.ref.name")]
    pub(super) ref_name: Option<String>,
    /// The whole reference, in a layout that containerd wrote.
    #[serde(rename = "io.containerd.image.name")]
    pub(super) image_name: Option<String>,
    /// `attestation-manifest`, when the entry says something of another one.
    #[serde(rename = "vnd.docker.reference.type")]
    reference_type: Option<String>,
}
object!(Annotations {
    ref_name: "org.opencontainers.image.ref.name",
    image_name: "io.containerd.image.name",
    reference_type: "vnd.docker.reference.type",
});

impl Descriptor {
    /// The content. `what` names it in the error.
    ///
    /// # Errors
    /// The digest is malformed.
    pub fn blob(&self, what: &str) -> Result<Blob, ImageError> {
        let digest = self.digest.parse().map_err(|_| ImageError::Malformed {
            what: what.to_owned(),
            problem: format!(
                "its digest {} is not sha256: and 64 lower-case hexadecimal digits",
                shown(&self.digest)
            ),
        })?;
        Ok(Blob { digest, size: self.size })
    }

    /// Returns whether it is about another entry rather than an image.
    pub(super) fn is_attestation(&self) -> bool {
        let unknown = self.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        let refers =
            self.annotations.as_ref().is_some_and(|annotations| annotations.reference_type.is_some());
        unknown || refers
    }
}

/// A manifest: one image for one platform.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The configuration.
    pub config: Blob,
    /// The layers, the lowest first.
    pub layers: Vec<Blob>,
}

/// A parsed document.
#[derive(Debug)]
pub enum Parsed {
    /// A manifest.
    Manifest(Manifest),
    /// An index's entries.
    Index(Vec<Descriptor>),
}

/// Parses a source's manifest or index.
///
/// # Errors
/// It is malformed, beyond a limit, or both at once.
pub fn parse(raw: &RawManifest) -> Result<Parsed, ImageError> {
    const WHAT: &str = "its manifest";
    let malformed =
        |problem: &str| ImageError::Malformed { what: WHAT.to_owned(), problem: problem.to_owned() };
    if raw.bytes.len() as u64 > MANIFEST_MAX {
        return Err(ImageError::TooLarge {
            what: WHAT.to_owned(),
            size: raw.bytes.len() as u64,
            limit: MANIFEST_MAX,
        });
    }
    let document: Document = bounded::parse(WHAT, &raw.bytes)?;
    let said = document.media_type.as_deref().and_then(media_type::kind);
    let called = raw.media_type.as_deref().and_then(media_type::kind);
    if document.schema_version == Some(1)
        || document.fs_layers.is_some()
        || said.or(called) == Some(Kind::Schema1)
    {
        return Err(ImageError::Schema1);
    }
    // One document that two readers take for different things could be signed as one and run as the other.
    if said.is_some() && called.is_some() && said != called {
        return Err(malformed("it says that it is something else than it is served as"));
    }
    if document.schema_version.is_some_and(|version| version != 2) {
        return Err(malformed("its schemaVersion is not 2"));
    }
    // A type that is not known says nothing: the content does.
    match (document.manifests, document.config, document.layers) {
        (Some(manifests), None, None) if said.or(called) != Some(Kind::Manifest) => {
            Ok(Parsed::Index(manifests.0))
        }
        (None, Some(config), Some(layers)) if said.or(called) != Some(Kind::Index) => {
            manifest(&config, &layers.0).map(Parsed::Manifest)
        }
        (Some(_), _, _) => Err(malformed("it is a manifest and an index at once")),
        (None, None, None) => Err(malformed("it has neither layers nor manifests")),
        (None, ..) => Err(malformed("it lacks its configuration or its layers")),
    }
}

fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<Manifest, ImageError> {
    media_type::check_config(&config.media_type)?;
    if layers.is_empty() {
        return Err(ImageError::Malformed {
            what: "its manifest".to_owned(),
            problem: "it has no layers, so there is nothing to run".to_owned(),
        });
    }
    let layers = layers.iter().enumerate().map(|(index, layer)| {
        media_type::check_layer(index, &layer.media_type)?;
        layer.blob(&format!("its layer {}", index + 1))
    });
    Ok(Manifest { config: config.blob("its configuration")?, layers: layers.collect::<Result<_, _>>()? })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use vmette_cache::Digest;

    pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const MANIFEST: &str = media_type::MANIFESTS[0];
    pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    pub(crate) fn raw(media_type: Option<&str>, document: &Value) -> RawManifest {
        let bytes = serde_json::to_vec(document).unwrap();
        RawManifest { media_type: media_type.map(str::to_owned), digest: Digest::of(&bytes), bytes }
    }

    pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(content), "size": content.len()})
    }

    pub(crate) fn sample() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": media_type::MANIFESTS[0],
            "config": descriptor(CONFIG, b"config"),
            "layers": [descriptor(LAYER, b"one"), descriptor(LAYER, b"two")],
            "annotations": {"x": "y"},
        })
    }

    fn with(change: impl FnOnce(&mut Value)) -> Value {
        let mut document = sample();
        change(&mut document);
        document
    }

    fn refusal(media_type: Option<&str>, document: &Value) -> String {
        parse(&raw(media_type, document)).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_is_read() {
        for served_as in [None, Some(media_type::MANIFESTS[0]), Some("application/json")] {
            let Parsed::Manifest(manifest) = parse(&raw(served_as, &sample())).unwrap() else { panic!() };
            assert_eq!(manifest.config.digest, Digest::of(b"config"));
            assert_eq!(manifest.layers[1], Blob { digest: Digest::of(b"two"), size: 3 });
        }
        let unnamed = with(|document| document["mediaType"] = Value::Null);
        assert!(matches!(parse(&raw(None, &unnamed)), Ok(Parsed::Manifest(_))));
        let index = json!({"schemaVersion": 2, "manifests": []});
        assert!(matches!(parse(&raw(None, &index)), Ok(Parsed::Index(entries)) if entries.is_empty()));
    }

    #[test]
    fn types_are_hints_and_null_is_absent() {
        for document in [
            with(|d| d["mediaType"] = json!("text/html")),
            with(|d| d["schemaVersion"] = Value::Null),
            with(|d| d["manifests"] = Value::Null),
            with(|d| d["config"]["mediaType"] = Value::Null),
            with(|d| d["config"]["mediaType"] = json!("application/octet-stream")),
            with(|d| d["config"]["mediaType"] = json!("text/html; charset=utf-8")),
            with(|d| d["layers"][0]["mediaType"] = Value::Null),
            with(|d| d["layers"][0]["mediaType"] = json!("application/octet-stream")),
            with(|d| d["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar.gzip")),
            with(|d| d["layers"][1]["annotations"] = json!({"vnd.docker.reference.type": null})),
            with(|d| d["layers"] = json!([d["layers"][0], null, d["layers"][1]])),
            with(|d| d["layers"][1]["platform"] = json!({"os": null})),
        ] {
            for served_as in [None, Some("text/plain"), Some(media_type::MANIFESTS[1])] {
                let parsed = parse(&raw(served_as, &document));
                let Ok(Parsed::Manifest(manifest)) = parsed else { panic!("{document}: {parsed:?}") };
                assert_eq!(manifest.layers[1].digest, Digest::of(b"two"), "{document}");
            }
        }
        let entry = json!({"MediaType": MANIFEST, "Digest": Digest::of(b"a"), "SIZE": 1, "platform": {"OS": "linux"}});
        for key in ["manifests", "Manifests"] {
            let index = json!({key: [entry, null], "layers": null, "config": null});
            let parsed = parse(&raw(None, &index));
            let Ok(Parsed::Index(entries)) = parsed else { panic!("{parsed:?}") };
            assert_eq!(entries[0].blob("").unwrap(), Blob { digest: Digest::of(b"a"), size: 1 });
            assert_eq!(entries[0].platform.as_ref().unwrap().os, "linux");
        }
    }

    #[test]
    fn every_other_document_is_refused() {
        let index = media_type::INDEXES[0];
        for (document, reason) in [
            (json!({"schemaVersion": 1, "fsLayers": [], "history": []}), "schema 1"),
            (json!({"schemaVersion": 2, "fsLayers": []}), "schema 1"),
            (json!({"schemaVersion": 3, "manifests": []}), "schemaVersion"),
            (json!({"schemaVersion": "2", "manifests": []}), "schemaVersion: invalid type"),
            (json!({"schemaVersion": 2}), "neither layers nor manifests"),
            (json!([]), "malformed"),
            (with(|d| d["manifests"] = json!([])), "manifest and an index"),
            (with(|d| d["mediaType"] = json!(index)), "lacks"),
            (with(|d| d["layers"] = json!([])), "nothing to run"),
            (with(|d| d["layers"] = json!(null)), "lacks"),
            (with(|d| d["config"] = json!(null)), "lacks"),
            (with(|d| d["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json")), "not an image"),
            (with(|d| d["config"]["digest"] = json!("sha512:00")), "sha512:00"),
            (with(|d| d["layers"][0]["digest"] = json!("sha256:../../etc/passwd")), "its layer 1"),
            (with(|d| d["layers"][0]["size"] = json!(-1)), "malformed"),
            (with(|d| d["layers"][0]["mediaType"] = json!("x/foreign")), "its layer 1"),
            (with(|d| d["layers"] = json!(vec![descriptor(LAYER, b""); LAYERS_MAX + 1])), "at most 512"),
        ] {
            let message = refusal(None, &document);
            assert!(message.contains(reason), "{reason}: {message}");
        }
        assert!(refusal(Some(index), &sample()).contains("something else"));
        assert!(
            refusal(Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), &json!({}))
                .contains("schema 1")
        );
        let long = RawManifest { bytes: vec![b' '; 4 << 20 | 1], ..raw(None, &json!({})) };
        assert!(parse(&long).unwrap_err().to_string().contains("4194304 is the most"));
    }

    /// As all that are written in Go read it, whoever signed it or shows it.
    #[test]
    fn of_a_member_that_comes_twice_the_last_one_counts() {
        let text = sample().to_string().replacen('{', r#"{"layers":[],"#, 1);
        let twice = RawManifest { bytes: text.into_bytes(), ..raw(None, &json!({})) };
        let Parsed::Manifest(manifest) = parse(&twice).unwrap() else { panic!() };
        assert_eq!(manifest.layers.len(), 2);
    }

    proptest! {
        #[test]
        fn no_damage_panics(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut damaged = raw(None, &sample());
            let at = at.index(damaged.bytes.len());
            damaged.bytes[at] = byte;
            let _ = parse(&damaged);
            damaged.bytes.truncate(cut.index(damaged.bytes.len()));
            prop_assert!(parse(&damaged).is_err());
        }
    }
}
