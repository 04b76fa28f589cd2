//! `vmette image inspect` for people.

use std::time::{SystemTime, UNIX_EPOCH};

use vmette::provider::{ImageDetails, printable};

use super::table::{ago, kind, size};

/// Longest value that is shown whole; `--json` shows all of it.
const VALUE_MAX: usize = 400;

/// One block of lines an image.
pub(super) fn all(images: &[ImageDetails]) -> String {
    images.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(image: &ImageDetails) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let summary = &image.summary;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{name:<12}{}\n", printable(value, VALUE_MAX)));
        }
    };
    // The same word is not repeated on every line of a list.
    fn each(line: &mut impl FnMut(&str, &str), name: &str, values: impl IntoIterator<Item = String>) {
        for (i, value) in values.into_iter().enumerate() {
            line(if i == 0 { name } else { "" }, &value);
        }
    }
    each(&mut line, "name", image.names.iter().cloned());
    line("id", &summary.id);
    line("kind", kind(summary.kind));
    line("source", &image.source);
    line("manifest", &image.manifest.map(|digest| digest.to_string()).unwrap_or_default());
    line("platform", &image.platform.as_ref().map(ToString::to_string).unwrap_or_default());
    let content = image.unpacked.map(|bytes| format!(", {} of content", size(bytes))).unwrap_or_default();
    line("size", &format!("{}{content}", size(summary.bytes)));
    line("made", &ago(summary.made, now));
    line("used", &ago(summary.used, now));
    line("in use", if summary.in_use { "yes" } else { "no" });
    line("file", &image.path.display().to_string());
    let config = &image.config;
    line("entrypoint", &words(&config.entrypoint));
    line("command", &words(&config.cmd));
    line("user", config.user.as_deref().unwrap_or_default());
    line("workdir", config.working_dir.as_deref().unwrap_or_default());
    line("stop signal", config.stop_signal.as_deref().unwrap_or_default());
    each(&mut line, "environment", config.env.iter().map(|(key, value)| format!("{key}={value}")));
    each(&mut line, "volumes", config.volumes.iter().cloned());
    each(&mut line, "labels", config.labels.iter().map(|(key, value)| format!("{key}={value}")));
    let layers = image.layers.iter().map(|layer| format!("{} ({})", layer.digest, size(layer.size)));
    each(&mut line, "layers", layers);
    each(&mut line, "notes", image.notes.iter().cloned());
    text
}

/// Formats them as JSON, which shows where one word ends.
fn words(words: &[String]) -> String {
    if words.is_empty() { String::new() } else { serde_json::json!(words).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use vmette::provider::{ImageConfig, ImageKind, ImageSummary};

    #[test]
    fn what_an_image_says_is_shown_without_being_obeyed() {
        let image = ImageDetails {
            summary: ImageSummary {
                name: Some("a:1".into()),
                id: "ab".repeat(32),
                kind: ImageKind::Tar,
                bytes: 10,
                made: 0,
                used: 0,
                in_use: false,
            },
            names: vec!["a:1".into(), "b:2".into()],
            source: "tar+file:///a".into(),
            manifest: None,
            platform: None,
            config: ImageConfig {
                cmd: vec!["sh".into(), "-c x".into()],
                env: vec![("A".into(), "\x1b]0;title\x07\nnext".into()), ("B".into(), "x".repeat(5000))],
                ..ImageConfig::default()
            },
            layers: Vec::new(),
            unpacked: None,
            notes: vec!["an entry was left out".into()],
            path: PathBuf::from("/cache/x"),
        };
        let text = all(std::slice::from_ref(&image));
        assert!(!text.contains('\x1b') && !text.contains('\x07') && !text.contains("\nnext"), "{text}");
        assert!(text.contains("command     [\"sh\",\"-c x\"]\n"), "{text}");
        assert!(text.contains("\n            b:2\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < VALUE_MAX + 20), "{text}");
        assert!(text.contains("size        10 B\n"), "{text}");
        assert!(text.ends_with("notes       an entry was left out\n"), "{text}");
        let known = ImageDetails { unpacked: Some(5), ..image };
        assert!(all(&[known]).contains("size        10 B, 5 B of content\n"));
        assert!(!text.contains("entrypoint") && !text.contains("platform"), "{text}");
    }
}
