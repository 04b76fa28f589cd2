//! Texts that a guest chose the words of, on their way to a person's terminal or log.

use vmette_wire::ResponseHeader;

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
        if c.is_control() || is_invisible(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// What is not seen and may change what is: the direction of writing, the ends of lines, tags. (A joiner is a part of some
/// letters, and stays.)
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// The agent's refusal as a text that is safe to show: the guest chose the words.
pub(crate) fn accepted(header: &ResponseHeader) -> Result<(), String> {
    if header.ok {
        return Ok(());
    }
    Err(safe(header.error.as_deref().unwrap_or("refused without a reason")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_shown_and_plain_text_is_left_alone() {
        assert_eq!(safe("it's \"fine\" — ä"), "it's \"fine\" — ä");
        assert_eq!(safe("\x1b]0;x\x07\n\u{202e}"), "\\u{1b}]0;x\\u{7}\\u{a}\\u{202e}");
        assert_eq!(safe("a\u{2066}b\u{2069}\u{200f}\u{feff}"), "a\\u{2066}b\\u{2069}\\u{200f}\\u{feff}");
        assert_eq!(safe(&"x".repeat(1 << 20)).chars().count(), LENGTH_MAX + 1);
    }
}
