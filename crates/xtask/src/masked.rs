//! Rust text with everything that is not code blanked out, so that a word in a comment or a string is never taken for
//! the keyword. Lines and columns stay where they were.

/// Code with comments and the contents of literals replaced by spaces, byte for byte.
pub(crate) fn code_only(text: &str) -> String {
    let mut masker = Masker { text: text.as_bytes(), at: 0, out: Vec::with_capacity(text.len()) };
    masker.run();
    // Whole characters are either kept or replaced by as many spaces as they have bytes, so nothing is lost here.
    String::from_utf8_lossy(&masker.out).into_owned()
}

struct Masker<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<u8>,
}

impl Masker<'_> {
    fn run(&mut self) {
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'/' if self.follows(1, b"/") => self.blank_until(|rest| rest.starts_with(b"\n"), 0),
                b'/' if self.follows(1, b"*") => self.blank_block_comment(),
                b'r' if self.starts_word() => self.raw_string_or_word(),
                b'"' => self.blank_quoted(b'"'),
                b'\'' if self.is_character() => self.blank_quoted(b'\''),
                _ => self.keep(),
            }
        }
    }

    fn follows(&self, offset: usize, expected: &[u8]) -> bool {
        self.text.get(self.at + offset..).is_some_and(|rest| rest.starts_with(expected))
    }

    /// A raw string's `r` may follow `b` or `c`, but not another part of an identifier.
    fn starts_word(&self) -> bool {
        let before = |back: usize| self.at.checked_sub(back).map(|at| self.text[at]);
        let in_word = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        match before(1) {
            Some(b'b' | b'c') => !in_word(before(2)),
            byte => !in_word(byte),
        }
    }

    fn keep(&mut self) {
        self.out.push(self.text[self.at]);
        self.at += 1;
    }

    fn blank(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(&byte) = self.text.get(self.at) {
                self.out.push(if byte == b'\n' { b'\n' } else { b' ' });
                self.at += 1;
            }
        }
    }

    fn blank_until(&mut self, ends: impl Fn(&[u8]) -> bool, closing: usize) {
        while self.at < self.text.len() && !ends(&self.text[self.at..]) {
            self.blank(1);
        }
        self.blank(closing);
    }

    /// Block comments nest.
    fn blank_block_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.text.len() {
            if self.follows(0, b"/*") {
                depth += 1;
                self.blank(2);
            } else if self.follows(0, b"*/") {
                depth -= 1;
                self.blank(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.blank(1);
            }
        }
    }

    fn raw_string_or_word(&mut self) {
        let hashes = self.text[self.at + 1..].iter().take_while(|&&byte| byte == b'#').count();
        if !self.follows(1 + hashes, b"\"") {
            return self.keep();
        }
        let closing: Vec<u8> = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
        self.blank(hashes + 2);
        self.blank_until(|rest| rest.starts_with(&closing), closing.len());
    }

    fn blank_quoted(&mut self, quote: u8) {
        self.keep();
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'\\' => self.blank(2),
                _ if byte == quote => return self.keep(),
                _ => self.blank(1),
            }
        }
    }

    /// Tells `'x'` and `'\n'` from the lifetime `'x`.
    fn is_character(&self) -> bool {
        let rest = &self.text[self.at + 1..];
        match rest.first() {
            Some(b'\\') => true,
            Some(&first) => {
                let width = match first {
                    0xF0.. => 4,
                    0xE0.. => 3,
                    0xC0.. => 2,
                    _ => 1,
                };
                rest.get(width) == Some(&b'\'')
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_positions_stay() {
        let text = "a // unsafe\nb /* x /* unsafe */ y */ c";
        let masked = code_only(text);
        assert_eq!(masked.len(), text.len());
        assert_eq!(masked.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(masked.find('c'), text.rfind('c'));
    }

    #[test]
    fn string_contents_go() {
        for text in [
            r#"f("unsafe \" unsafe")"#,
            r##"f(r#"unsafe " unsafe"#)"##,
            r#"f(br"unsafe \")"#,
            r#"f(b"unsafe")"#,
            "f(\"unsafe\n unsafe\")",
        ] {
            let masked = code_only(text);
            assert!(!masked.contains("unsafe") && masked.ends_with(')'), "{text} became {masked}");
        }
    }

    #[test]
    fn a_quote_character_opens_no_string_and_a_lifetime_no_character() {
        assert!(code_only(r#"('"', unsafe)"#).contains("unsafe"));
        assert!(code_only(r"('\'', unsafe)").contains("unsafe"));
        assert!(code_only("('é', unsafe, 'x')").contains("unsafe"));
        assert!(code_only("fn f<'a>(x: &'a str) { unsafe {} }").contains("unsafe"));
    }

    #[test]
    fn unfinished_text_ends() {
        for text in ["/* a", "\"a", "r#\"a", "'", "b'\\", "r", "r#"] {
            assert_eq!(code_only(text).len(), text.len(), "{text}");
        }
    }
}
