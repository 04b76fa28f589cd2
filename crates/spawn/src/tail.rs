//! The end of what a program prints, where the cause is.

use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::sync::Arc;
use std::thread;

use vmette_work::{Slot, is_unprintable};

/// Bytes that are kept of what it prints.
const KEPT_MAX: usize = 16 << 10;
/// Longest line that is told, in bytes.
const LINE_MAX: u64 = 4096;
/// Lines of a message, and characters of each.
const LINES: usize = 4;
const LINE_SHOWN: usize = 400;

/// Hears the lines of a program.
pub(crate) struct Ear {
    /// Which lines tell why it failed; if none does, the last ones are taken to.
    pub(crate) is_cause: fn(&str) -> bool,
    /// Hears each line.
    pub(crate) on_line: Box<dyn FnMut(&str) + Send>,
}

/// Reads the pipe to its end in a thread of its own, so that the program never stops for want of a reader. The slot gets
/// the last words when nobody has the other end any more.
pub(crate) fn start(pipe: PipeReader, ear: Ear) -> io::Result<Arc<Slot<String>>> {
    let said = Arc::new(Slot::new());
    let told = said.clone();
    thread::Builder::new().name("vmette-stderr".into()).spawn(move || told.set(read(pipe, ear)))?;
    Ok(said)
}

fn read(pipe: impl Read, mut ear: Ear) -> String {
    let mut reader = BufReader::new(pipe);
    let (mut causes, mut kept) = (Vec::new(), Vec::new());
    let mut line = Vec::new();
    while let Ok(1..) = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
        // A line may come from a mirror or a package: it must not reach a terminal as more than text.
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim().chars().filter(|c| !is_unprintable(*c)).collect();
        let text = text.as_str();
        (ear.on_line)(text);
        keep(&mut kept, text);
        if (ear.is_cause)(text) {
            keep(&mut causes, text);
        }
        line.clear();
    }
    last_words(if causes.is_empty() { &kept } else { &causes })
}

fn keep(kept: &mut Vec<u8>, text: &str) {
    kept.extend_from_slice(text.as_bytes());
    kept.push(b'\n');
    kept.drain(..kept.len().saturating_sub(KEPT_MAX));
}

/// The last lines of what a program printed, for a message.
#[must_use]
pub fn last_words(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() {
        return "it gave no reason".to_owned();
    }
    last.iter().map(|line| line.chars().take(LINE_SHOWN).collect()).collect::<Vec<String>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(printed: &[u8]) -> String {
        read(printed, Ear { is_cause: |line| line.starts_with("E: "), on_line: Box::new(|_| ()) })
    }

    #[test]
    fn the_cause_is_kept_or_the_last_words() {
        assert_eq!(
            words(b"E: no network\nW: odd\nE: nothing fetched\n"),
            "E: no network; E: nothing fetched"
        );
        assert_eq!(words(b"reading\n\ncannot read\n\n"), "reading; cannot read");
        assert_eq!(words(b""), "it gave no reason");
        let many = (0..10_000).fold(String::new(), |text, n| format!("{text}{n}\n"));
        assert_eq!(words(many.as_bytes()), "9996; 9997; 9998; 9999");
        assert_eq!(words(&[b'x'; 1 << 20]).len(), LINES * LINE_SHOWN + 3 * "; ".len());
    }
}
