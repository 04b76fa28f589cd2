//! The last lines of what a guest's console or a helper process printed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Lines that are kept.
const LINES_MAX: usize = 64;

/// Bytes of one line that are kept: a guest that prints without a line end must not fill the host's memory.
const LINE_MAX: usize = 512;

/// Lines that go into an error message.
const LINES_SHOWN: usize = 12;

/// Bytes read at once.
const CHUNK: usize = 4096;

/// What the kernel prints first when it gives up.
const PANIC: &str = "Kernel panic - not syncing";

/// A bounded window on a stream of text, filled by a thread of its own.
#[derive(Debug, Default)]
pub struct LastLines {
    state: Mutex<State>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    partial: Vec<u8>,
    panic: Option<String>,
    on_panic: OnPanic,
    closed: bool,
}

type Told = Box<dyn FnOnce(&str) + Send>;

/// Who is told of a panic, once.
#[derive(Default)]
struct OnPanic(Option<Told>);

impl std::fmt::Debug for OnPanic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OnPanic").field(&self.0.is_some()).finish()
    }
}

impl LastLines {
    /// Reads `source` to its end on a new thread; the raw bytes go on to `copy`.
    pub fn follow<R>(name: &str, mut source: R, copy: Option<Arc<File>>) -> Result<Arc<Self>>
    where
        R: Read + Send + 'static,
    {
        let lines = Arc::new(Self::default());
        let shared = lines.clone();
        let read = move || {
            let mut copy = copy;
            let mut chunk = [0; CHUNK];
            loop {
                match source.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(n) => {
                        shared.push(&chunk[..n]);
                        // A full disk or a closed terminal must not block the guest: the copy ends, the guest goes on.
                        copy = copy.take_if(|file| (&**file).write_all(&chunk[..n]).is_ok());
                    }
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            shared.close();
        };
        thread::Builder::new().name(name.into()).spawn(read).map_err(Error::io("start a thread"))?;
        Ok(lines)
    }

    fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        for &byte in bytes {
            if byte == b'\n' {
                state.end_line();
            } else if state.partial.len() < LINE_MAX {
                state.partial.push(byte);
            }
        }
        Self::tell(state);
    }

    /// Tells whoever wants to know of the panic, if there was one.
    fn tell(mut state: MutexGuard<'_, State>) {
        let Some(line) = state.panic.clone() else { return };
        let told = state.on_panic.0.take();
        drop(state);
        if let Some(told) = told {
            told(&line);
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        if !state.partial.is_empty() {
            state.end_line();
        }
        state.closed = true;
        self.closed.notify_all();
    }

    /// Waits for the end of the stream, so that what was printed last is there.
    pub fn wait_closed(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.closed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The last lines as an indented block, empty when nothing was printed.
    pub fn tail(&self) -> String {
        let state = self.lock();
        let skip = state.lines.len().saturating_sub(LINES_SHOWN);
        state.lines.iter().skip(skip).fold(String::new(), |text, line| text + "\n  " + line)
    }

    /// The line with which the guest's kernel gave up, if it did. Whatever runs in a guest can print it: once a workload
    /// may run, nothing is decided by it but the wording of messages.
    pub fn panic(&self) -> Option<String> {
        self.lock().panic.clone()
    }

    /// Calls `told` with that line as soon as it is there, once, on this thread or on the one that reads.
    pub fn on_panic(&self, told: impl FnOnce(&str) + Send + 'static) {
        let mut state = self.lock();
        state.on_panic = OnPanic(Some(Box::new(told)));
        Self::tell(state);
    }

    /// Nobody is told any more.
    pub fn ignore_panic(&self) {
        self.lock().on_panic = OnPanic(None);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.partial);
        let line = printable(bytes.strip_suffix(b"\r").unwrap_or(&bytes));
        if self.panic.is_none() && line.contains(PANIC) {
            self.panic = Some(line.clone());
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// The text with everything escaped that a terminal would obey: these lines end up in error messages, and a guest would
/// otherwise drive the terminal of their reader.
fn printable(bytes: &[u8]) -> String {
    vmette_work::printable(&String::from_utf8_lossy(bytes).replace('\t', " "), usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(text: &[u8]) -> Arc<LastLines> {
        let lines = Arc::new(LastLines::default());
        lines.push(text);
        lines.close();
        lines
    }

    #[test]
    fn only_the_last_lines_are_kept_and_no_line_grows() {
        let mut text = Vec::new();
        for i in 0..LINES_MAX * 2 {
            text.extend_from_slice(format!("line {i}\r\n").as_bytes());
        }
        text.extend(std::iter::repeat_n(b'x', LINE_MAX * 3));
        let lines = lines_of(&text);
        let state = lines.lock();
        assert_eq!(state.lines.len(), LINES_MAX);
        assert_eq!(state.lines.back().unwrap().len(), LINE_MAX);
        assert_eq!(state.lines[LINES_MAX - 2], format!("line {}", LINES_MAX * 2 - 1));
    }

    #[test]
    fn a_guest_cannot_drive_the_readers_terminal() {
        let tail = lines_of(b"\x1b]0;owned\x07 \xff\n").tail();
        assert!(!tail.contains('\x1b') && !tail.contains('\x07'), "{tail:?}");
    }

    #[test]
    fn a_panic_is_found_after_it_scrolled_away() {
        let mut text = b"[ 1.0] Kernel panic - not syncing: VFS\n".to_vec();
        text.extend(b"trace\n".repeat(LINES_MAX));
        let lines = lines_of(&text);
        assert!(lines.panic().unwrap().ends_with("not syncing: VFS"));
        assert!(!lines.tail().contains("VFS"));
    }

    #[test]
    fn a_panic_is_told_once_and_only_to_those_who_still_want_to_know() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let hear = |lines: &LastLines, who| {
            let told = told.clone();
            lines.on_panic(move |line| told.lock().unwrap().push(format!("{who}: {line}")));
        };
        let lines = LastLines::default();
        hear(&lines, "nobody");
        lines.ignore_panic();
        hear(&lines, "before");
        let half = PANIC.split_at(10);
        lines.push(half.0.as_bytes());
        assert!(told.lock().unwrap().is_empty());
        lines.push(format!("{}: a\n{PANIC}: b\n", half.1).as_bytes());
        lines.push(b"\n");
        hear(&lines, "after");
        let line = format!("{PANIC}: a");
        assert_eq!(*told.lock().unwrap(), [format!("before: {line}"), format!("after: {line}")]);
    }

    #[test]
    fn the_raw_bytes_are_passed_on_and_the_end_is_seen() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let lines = LastLines::follow("test", &b"a\x1bb\nc"[..], Some(file.clone())).unwrap();
        lines.wait_closed(Duration::from_secs(10));
        assert_eq!(lines.tail(), "\n  a\\u{1b}b\n  c");
        let mut copy = Vec::new();
        std::io::Seek::rewind(&mut &*file).unwrap();
        (&*file).read_to_end(&mut copy).unwrap();
        assert_eq!(copy, b"a\x1bb\nc");
    }
}
