//! Reports on images. They serialise as the JSON that `--json` prints; times are seconds since 1970.

use std::path::PathBuf;

use serde::Serialize;

use crate::store::{ImageKind, LayerInfo};
use vmette_cache::Digest;
use vmette_oci::{ImageConfig, Platform};

/// One line of a list: one name of an image, or an image without any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// A name that a run can use: a reference, a URL. None when no name stands for it any more.
    pub name: Option<String>,
    /// The image's identity: an OCI image's configuration digest, else the hash of what it was made of; 64 hexadecimal
    /// digits, of which an unambiguous prefix of at least 4 serves as a name too.
    pub id: String,
    /// The kind of its source.
    pub kind: ImageKind,
    /// Bytes that it takes in the store.
    pub bytes: u64,
    /// When it was made.
    pub made: u64,
    /// When it was last asked for.
    pub used: u64,
    /// A machine, or something else, holds it now.
    pub in_use: bool,
}

/// Everything that is known of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageDetails {
    /// The image's line of a list; `name` is the one that was asked for.
    #[serde(flatten)]
    pub summary: ImageSummary,
    /// All names that stand for it, sorted.
    pub names: Vec<String>,
    /// From where.
    pub source: String,
    /// The manifest that the name stands for.
    pub manifest: Option<Digest>,
    /// Its platform.
    pub platform: Option<Platform>,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerInfo>,
    /// Bytes of its files' content. None of a squashfs image: it came as it is, and was not looked into.
    pub unpacked: Option<u64>,
    /// Lines on what was mended or left out when it was made, such as access control lists.
    pub notes: Vec<String>,
    /// The squashfs image.
    pub path: PathBuf,
}

/// Images to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PruneOptions {
    /// Every image that can be had again and is not in use, however recently used.
    pub all: bool,
    /// Down to that many bytes; without it and without `all`, down to the budget. 0 is as `all`.
    pub max_bytes: Option<u64>,
}

/// Result of a pruning.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct PruneReport {
    /// Images, by their identity.
    pub images: Vec<String>,
    /// Downloaded layers.
    pub layers: usize,
    /// Bytes that this freed.
    pub bytes: u64,
    /// Bytes that the store takes now.
    pub left: u64,
}

/// Result of removing a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The name or identity that was given.
    pub name: String,
    /// The image that it stood for, if that was its last name and it was removed as well.
    pub image: Option<String>,
    /// Bytes that this freed.
    pub bytes: u64,
}

/// Formats of exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// An OCI archive, a tar file that skopeo, podman and docker read: one layer, the image's configuration.
    Oci,
    /// The squashfs image as it is, without its configuration.
    Squashfs,
    /// A tar archive of the tree, without its configuration.
    Tar,
}

/// Result of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, to_value};

    use super::*;

    /// Scripts read it: a member that is renamed or gone breaks them.
    #[test]
    fn the_json_keeps_its_shape() {
        let summary = ImageSummary {
            name: Some("docker.io/library/alpine:3.20".to_owned()),
            id: "00".repeat(32),
            kind: ImageKind::Oci,
            bytes: 1,
            made: 2,
            used: 3,
            in_use: false,
        };
        let listed = json!({
            "name": "docker.io/library/alpine:3.20", "id": "00".repeat(32), "kind": "oci",
            "bytes": 1, "made": 2, "used": 3, "in_use": false,
        });
        assert_eq!(to_value(&summary).unwrap(), listed);

        let digest = Digest::of(b"");
        let config = ImageConfig { env: vec![("A".to_owned(), "b".to_owned())], ..ImageConfig::default() };
        let details = ImageDetails {
            summary,
            names: vec!["a".to_owned()],
            source: "b".to_owned(),
            manifest: Some(digest),
            platform: Some(Platform { variant: Some("v8".to_owned()), ..Platform::of_guest() }),
            config,
            layers: vec![LayerInfo { digest, size: 4 }],
            unpacked: Some(5),
            notes: vec!["d".to_owned()],
            path: "/c".into(),
        };
        let mut shown = json!({
            "names": ["a"], "source": "b", "manifest": digest.to_string(),
            "platform": {"os": "linux", "architecture": Platform::of_guest().architecture, "variant": "v8"},
            "config": {
                "env": [["A", "b"]], "entrypoint": [], "cmd": [], "user": null, "working_dir": null,
                "volumes": [], "stop_signal": null, "labels": {},
            },
            "layers": [{"digest": digest.to_string(), "size": 4}], "unpacked": 5, "notes": ["d"],
            "path": "/c",
        });
        let Value::Object(members) = listed else { panic!() };
        shown.as_object_mut().unwrap().extend(members);
        assert_eq!(to_value(&details).unwrap(), shown);

        let pruned = PruneReport { images: vec!["0".to_owned()], layers: 1, bytes: 2, left: 3 };
        let expected = json!({"images": ["0"], "layers": 1, "bytes": 2, "left": 3});
        assert_eq!(to_value(pruned).unwrap(), expected);
        let removed = Removed { name: "a".to_owned(), image: None, bytes: 0 };
        assert_eq!(to_value(removed).unwrap(), json!({"name": "a", "image": null, "bytes": 0}));
        let exported = Exported { path: "/c".into(), bytes: 1 };
        assert_eq!(to_value(exported).unwrap(), json!({"path": "/c", "bytes": 1}));
    }
}
