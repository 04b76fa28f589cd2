//! `vmette image ls` for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{BinaryBytes, HumanDuration};
use vmette::provider::{ImageKind, ImageSummary, printable};

/// Digits of an identity that are shown: enough to tell images apart and to name them by.
const SHORT: usize = 12;
/// Longest name that is shown whole. A URL may be far longer, and would push everything else off the screen.
const NAME_MAX: usize = 60;

const HEAD: [&str; 6] = ["NAME", "ID", "KIND", "SIZE", "USED", ""];

/// One line an image, in columns.
pub(super) fn of(images: &[ImageSummary]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let rows: Vec<[String; 6]> =
        std::iter::once(HEAD.map(str::to_owned)).chain(images.iter().map(|image| row(image, now))).collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    rows.iter().map(|row| line(row, &widths)).collect()
}

fn line(row: &[String; 6], widths: &[usize; 6]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
    let line = cells.collect::<Vec<_>>().join("  ");
    format!("{}\n", line.trim_end())
}

fn row(image: &ImageSummary, now: u64) -> [String; 6] {
    [
        image.name.as_deref().map_or_else(|| "-".to_owned(), |name| printable(name, NAME_MAX)),
        short(&image.id).to_owned(),
        kind(image.kind).to_owned(),
        size(image.bytes),
        ago(image.used, now),
        if image.in_use { "in use".to_owned() } else { String::new() },
    ]
}

/// The beginning of an identity.
pub(super) fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

pub(super) fn kind(kind: ImageKind) -> &'static str {
    match kind {
        ImageKind::Oci => "oci",
        ImageKind::Tar => "tar",
        ImageKind::Squashfs => "squashfs",
        ImageKind::Debian => "debian",
        ImageKind::Builtin => "builtin",
    }
}

pub(super) fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// Both in seconds since 1970.
pub(super) fn ago(then: u64, now: u64) -> String {
    match now.saturating_sub(then) {
        0..60 => "just now".to_owned(),
        seconds => format!("{} ago", HumanDuration(Duration::from_secs(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: Option<&str>) -> ImageSummary {
        ImageSummary {
            name: name.map(str::to_owned),
            id: "0123456789abcdef".repeat(4),
            kind: ImageKind::Oci,
            bytes: 3 << 20,
            made: 0,
            used: 0,
            in_use: name.is_none(),
        }
    }

    #[test]
    fn columns_line_up_and_nothing_of_a_name_reaches_the_terminal_as_a_command() {
        let text = of(&[image(Some("alpine:3.20")), image(Some("a\x1b[31m")), image(None)]);
        let lines: Vec<_> = text.lines().collect();
        let column = lines[0].find("ID").unwrap();
        for line in &lines[1..] {
            assert_eq!(line.chars().skip(column).take(SHORT).collect::<String>(), "0123456789ab", "{text}");
        }
        assert!(
            !text.contains('\x1b') && lines[3].starts_with('-') && lines[3].ends_with("in use"),
            "{text}"
        );
        assert!(lines[1].contains("3.00 MiB"), "{text}");
    }

    #[test]
    fn times_are_told_from_now() {
        assert_eq!(ago(1000, 1010), "just now");
        assert_eq!(ago(1000, 500), "just now");
        assert_eq!(ago(0, 7200), "2 hours ago");
    }
}
