//! Texts that a guest chose the words of, on their way to a person's terminal or log.

/// Most characters that are passed on.
const LENGTH_MAX: usize = 2048;

/// The text without anything that a terminal would obey, and not longer than is useful.
pub(crate) fn safe(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == LENGTH_MAX {
            out.push('…');
            break;
        }
        // Quotes and the like stay as they are: only what is not printable is escaped.
        if c.is_control() || c == '\u{2028}' || c == '\u{2029}' || ('\u{202a}'..='\u{202e}').contains(&c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_shown_and_plain_text_is_left_alone() {
        assert_eq!(safe("it's \"fine\" — ä"), "it's \"fine\" — ä");
        assert_eq!(safe("\x1b]0;x\x07\n\u{202e}"), "\\u{1b}]0;x\\u{7}\\u{a}\\u{202e}");
        assert_eq!(safe(&"x".repeat(1 << 20)).chars().count(), LENGTH_MAX + 1);
    }
}
