//! Text whose words a stranger chose, on its way to a person's terminal or log.

/// Returns whether a terminal obeys the character, or shows nothing of it although it changes the text around it: the
/// direction of writing, the ends of lines, tags. A joiner is a part of some letters, and is let through.
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// The first `max` characters of the text on one line, with unprintable ones escaped. Quotes and letters of any script
/// stay as they are.
#[must_use]
pub fn printable(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == max {
            shown.push('…');
            break;
        }
        if is_unprintable(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_shown_and_plain_text_is_left_alone() {
        assert_eq!(printable("it's \"fine\" — ä", 99), "it's \"fine\" — ä");
        assert_eq!(printable("\x1b]0;x\x07\n\u{202e}", 99), "\\u{1b}]0;x\\u{7}\\u{a}\\u{202e}");
        assert_eq!(
            printable("a\u{2066}b\u{2069}\u{61c}\u{feff}", 99),
            "a\\u{2066}b\\u{2069}\\u{61c}\\u{feff}"
        );
        assert_eq!(printable("\u{fff9}\u{e0041}", 99), "\\u{fff9}\\u{e0041}");
        assert_eq!(printable(&"x".repeat(1 << 20), 10), "xxxxxxxxxx…");
    }
}
