//! Media types.

use super::error::{ImageError, shown};

/// An index: the same image for several platforms.
pub(crate) const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// A manifest: one image for one platform.
pub(crate) const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Docker's format from before 2016: layers of which only the compressed bytes are named, in the reverse order.
const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
/// Types that say nothing, which registries and tools have put in the place of others: the content tells.
const UNTOLD: [&str; 6] =
    ["", "application/octet-stream", "application/json", "text/html", "text/plain", "application/x-tar"];
/// Beginnings of the types of layers, which are tar archives, plain or compressed. Which, the content says itself: types
/// and compression do not always agree out there, and the diff id tells whether what comes out is what was meant.
const LAYER_BEGINNINGS: [&str; 2] =
    ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
/// Parts of the type of layers that a registry does not hold.
const FOREIGN: [&str; 2] = ["nondistributable", ".foreign."];
const ENCRYPTED: &str = "+encrypted";

/// Kinds of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Index,
    Manifest,
    Schema1,
}

/// The kind of a document of this type; `None` for a type that does not say, such as `application/json`.
pub(super) fn kind(media_type: &str) -> Option<Kind> {
    let essence = essence(media_type);
    let is = |types: &[&str]| types.contains(&&*essence);
    match () {
        () if is(&INDEXES) => Some(Kind::Index),
        () if is(&MANIFESTS) => Some(Kind::Manifest),
        () if is(&SCHEMA1) => Some(Kind::Schema1),
        () => None,
    }
}

/// The type in lower case, without the parameters that a server may add: `; charset=utf-8`.
fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Checks that a manifest's configuration is an image's. Other artifacts of registries look the same except for this.
pub(super) fn check_config(media_type: &str) -> Result<(), ImageError> {
    let essence = essence(media_type);
    if CONFIGS.contains(&&*essence) || UNTOLD.contains(&&*essence) {
        return Ok(());
    }
    Err(ImageError::MediaType {
        what: "its configuration".to_owned(),
        media_type: shown(media_type),
        why: "so this is not an image but some other artifact (a chart, a signature, a module)",
    })
}

/// Checks that the layer can be applied.
pub(super) fn check_layer(index: usize, media_type: &str) -> Result<(), ImageError> {
    let essence = essence(media_type);
    let why = if essence.ends_with(ENCRYPTED) {
        "which is encrypted: decrypt the image first"
    } else if FOREIGN.iter().any(|part| essence.contains(part)) {
        "a foreign layer, which is fetched from wherever it names: that is not done; ask for an image that has all its \
         layers itself"
    } else if UNTOLD.contains(&&*essence)
        || LAYER_BEGINNINGS.iter().any(|beginning| essence.starts_with(beginning))
    {
        return Ok(());
    } else {
        "which is not known; layers are tar archives, plain or compressed with gzip or zstd"
    };
    Err(ImageError::MediaType {
        what: format!("its layer {}", index + 1),
        media_type: shown(media_type),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_apart() {
        assert_eq!(kind("application/vnd.oci.image.index.v1+json; charset=utf-8"), Some(Kind::Index));
        assert_eq!(kind(MANIFESTS[1]), Some(Kind::Manifest));
        assert_eq!(kind(SCHEMA1[1]), Some(Kind::Schema1));
        assert_eq!(kind("application/json"), None);
    }

    #[test]
    fn what_is_no_layer_is_refused_by_name() {
        for known in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            "Application/Vnd.OCI.image.layer.v1.tar+gzip; x=y",
            "application/octet-stream",
            "",
        ] {
            check_layer(0, known).unwrap();
        }
        for known in ["application/vnd.docker.container.image.v1+JSON", "application/json; charset=utf-8", ""]
        {
            check_config(known).unwrap();
        }
        for (media_type, reason) in [
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "foreign"),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
            ("application/vnd.wasm.content.layer.v1+wasm", "not known"),
            ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "not known"),
        ] {
            let message = check_layer(3, media_type).unwrap_err().to_string();
            assert!(message.contains("layer 4") && message.contains(media_type), "{message}");
            assert!(message.contains(reason), "{message}");
        }
        let message = check_config("application/vnd.cncf.helm.config.v1+json").unwrap_err().to_string();
        assert!(message.contains("helm") && message.contains("not an image"), "{message}");
        assert!(!check_config("a\u{1b}[2Jb").unwrap_err().to_string().contains('\u{1b}'));
    }
}
