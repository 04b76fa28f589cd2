//! A part of a file, read on its own.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes of a file from one offset to another. Several may read the same file at once.
#[derive(Debug, Clone)]
pub struct Slice {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Slice {
    /// From `at` on, `len` bytes. What the file does not have reads as its end.
    #[must_use]
    pub fn new(file: Arc<File>, at: u64, len: u64) -> Self {
        Self { file, at, end: at.saturating_add(len) }
    }

    /// Bytes that are left.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.at
    }

    /// Returns whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slice without its first bytes.
    #[must_use]
    pub fn skip(self, bytes: u64) -> Self {
        Self { at: self.at.saturating_add(bytes).min(self.end), ..self }
    }
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.len()).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..len], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn slices_of_one_file_are_read_independently() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let file = Arc::new(file);
        let text = |slice: Slice| io::read_to_string(slice).unwrap();
        let (first, second) = (Slice::new(file.clone(), 2, 3), Slice::new(file.clone(), 4, 100));
        assert_eq!((text(first.clone()), text(second)), ("234".to_owned(), "456789".to_owned()));
        assert_eq!(text(first.clone().skip(1)), "34");
        assert_eq!(text(first.skip(9)), "");
        assert_eq!(text(Slice::new(file, 1 << 40, u64::MAX)), "");
    }
}
