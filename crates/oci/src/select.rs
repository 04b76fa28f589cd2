//! Which of an index's images is for the guest.

use super::error::{ImageError, listed, shown};
use super::manifest::{DeclaredPlatform, Descriptor};
use super::media_type::{self, Kind};
use crate::image_config::Platform;

/// The entries to try, the best first: images for this guest; else indexes inside of the index that may have one.
///
/// # Errors
/// [`ImageError::NothingFits`], which lists what there is.
pub fn candidates<'a>(
    entries: &'a [Descriptor],
    guest: &Platform,
) -> Result<Vec<&'a Descriptor>, ImageError> {
    let images = || entries.iter().filter(|entry| !entry.is_attestation());
    let of_kind =
        |kind: Kind| images().filter(move |entry| media_type::kind(&entry.media_type) == Some(kind));
    let platform =
        |entry: &'a Descriptor| entry.platform.as_ref().filter(|platform| platform.says_something());

    let mut fitting: Vec<_> =
        of_kind(Kind::Manifest).filter_map(|entry| Some((rank(platform(entry)?, guest)?, entry))).collect();
    fitting.sort_by(|a, b| a.0.cmp(b.0));
    if let Some((_, best)) = fitting.first() {
        return Ok(vec![best]);
    }
    let mut unnamed = of_kind(Kind::Manifest).filter(|entry| platform(entry).is_none());
    // One that does not say for what it is: its configuration will. Of several, none is the right one to guess.
    if let (Some(only), None) = (unnamed.next(), unnamed.next()) {
        return Ok(vec![only]);
    }
    let indexes: Vec<_> = of_kind(Kind::Index)
        .filter(|entry| platform(entry).is_none_or(|platform| rank(platform, guest).is_some()))
        .collect();
    if !indexes.is_empty() {
        return Ok(indexes);
    }
    Err(ImageError::NothingFits { guest: guest.clone(), has: listed(images().map(describe)) })
}

/// Rank of an entry for this guest, the least the best; `None` if it does not fit.
fn rank<'a>(declared: &'a DeclaredPlatform, guest: &Platform) -> Option<&'a str> {
    let architecture = normal(&declared.architecture);
    let os = normal(&declared.os);
    if !(os.is_empty() || os == guest.os) || architecture != guest.architecture {
        return None;
    }
    match declared.variant.as_deref() {
        None => Some(""),
        // Every processor of the kind can do that.
        Some("v8") if architecture == "arm64" => Some(""),
        Some("v1") if architecture == "amd64" => Some(""),
        // Higher levels ask more of the processor: the lowest is the likeliest to run.
        Some(higher) => Some(higher),
    }
}

/// Go's name of an operating system or architecture, which the specification asks for and most tools write.
pub(super) fn normal(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match &*name {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        _ => name,
    }
}

fn describe(entry: &Descriptor) -> String {
    match &entry.platform {
        Some(DeclaredPlatform { os, architecture, variant }) => {
            let variant = variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
            shown(&format!("{os}/{architecture}{variant}"))
        }
        None => format!("an entry of the type {} without a platform", shown(&entry.media_type)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use vmette_cache::Digest;

    fn entry(name: &str, media_type: &str, platform: Value) -> Descriptor {
        serde_json::from_value(json!({
            "mediaType": media_type, "digest": Digest::of(name.as_bytes()), "size": 1, "platform": platform,
        }))
        .unwrap()
    }

    fn manifest(name: &str, platform: &str) -> Descriptor {
        let mut parts = platform.split('/');
        let platform = json!({"os": parts.next(), "architecture": parts.next(), "variant": parts.next()});
        entry(name, media_type::MANIFESTS[0], platform)
    }

    fn guest(architecture: &str) -> Platform {
        Platform { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    fn chosen(entries: &[Descriptor], architecture: &str) -> Vec<Digest> {
        let candidates = candidates(entries, &guest(architecture)).unwrap();
        candidates.iter().map(|entry| entry.blob("").unwrap().digest).collect()
    }

    #[test]
    fn the_guests_platform_is_chosen() {
        let entries = [
            manifest("windows", "windows/amd64"),
            manifest("arm", "linux/arm/v7"),
            manifest("v9", "linux/arm64/v9"),
            manifest("v8", "linux/arm64/v8"),
            manifest("v3", "linux/amd64/v3"),
            manifest("v2", "linux/x86_64/v2"),
            manifest("attestation", "unknown/unknown"),
        ];
        assert_eq!(chosen(&entries, "arm64"), [Digest::of(b"v8")]);
        assert_eq!(chosen(&entries[..3], "arm64"), [Digest::of(b"v9")]);
        assert_eq!(chosen(&entries, "amd64"), [Digest::of(b"v2")]);
        let message = candidates(&entries, &guest("riscv64")).unwrap_err().to_string();
        assert!(message.contains("nothing for linux/riscv64"), "{message}");
        assert!(message.contains("linux/amd64/v3, linux/arm/v7, linux/arm64/v8"), "{message}");
        assert!(!message.contains("unknown"), "{message}");
    }

    #[test]
    fn entries_that_do_not_say_for_what_they_are() {
        let unnamed = |name| entry(name, media_type::MANIFESTS[0], Value::Null);
        let index = |name| entry(name, media_type::INDEXES[0], Value::Null);
        assert_eq!(chosen(&[unnamed("a"), manifest("b", "linux/s390x")], "amd64"), [Digest::of(b"a")]);
        assert_eq!(chosen(&[unnamed("a"), manifest("b", "linux/amd64")], "amd64"), [Digest::of(b"b")]);
        assert!(candidates(&[unnamed("a"), unnamed("b")], &guest("amd64")).is_err());
        assert_eq!(chosen(&[index("a"), index("b")], "amd64"), [Digest::of(b"a"), Digest::of(b"b")]);
        let nulls = entry("a", media_type::MANIFESTS[0], json!({"os": null, "architecture": null}));
        assert_eq!(chosen(&[nulls, manifest("b", "linux/s390x")], "amd64"), [Digest::of(b"a")]);
        let no_os = entry("a", media_type::MANIFESTS[0], json!({"OS": null, "Architecture": "AMD64"}));
        assert_eq!(chosen(&[manifest("b", "windows/amd64"), no_os], "amd64"), [Digest::of(b"a")]);
        let other = entry("a", "application/x\u{1b}", Value::Null);
        let message = candidates(&[other], &guest("amd64")).unwrap_err().to_string();
        assert!(message.contains("application/x") && !message.contains('\u{1b}'), "{message}");
        assert!(candidates(&[], &guest("amd64")).unwrap_err().to_string().contains("it has none"));
    }
}
