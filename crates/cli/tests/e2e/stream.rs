//! An output of a running program, read as it comes.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

/// One read.
const CHUNK: usize = 64 << 10;

/// What has been read, and what still comes.
pub(crate) struct Stream {
    seen: Vec<u8>,
    /// Up to here it was looked for a text: the next one comes behind it.
    from: usize,
    chunks: Receiver<Vec<u8>>,
}

impl Stream {
    pub(crate) fn of(mut source: impl Read + Send + 'static) -> Self {
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut chunk = vec![0; CHUNK];
            // A terminal whose other side is closed reports an error instead of an end.
            while let Ok(n @ 1..) = source.read(&mut chunk) {
                if sender.send(chunk[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { seen: Vec::new(), from: 0, chunks }
    }

    /// Waits until `text` comes, behind the one that was waited for last.
    pub(crate) fn until(&mut self, text: &str, deadline: Instant, explain: impl Fn() -> String) {
        loop {
            let unseen = &self.seen[self.from..];
            if let Some(at) = unseen.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.from += at + text.len();
                return;
            }
            match self.chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(RecvTimeoutError::Timeout) => panic!("no {text:?} in time: {}{}", self.text(), explain()),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without {text:?}: {}{}", self.text(), explain())
                }
            }
        }
    }

    /// What has been waited for so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// All of it, once it has ended.
    pub(crate) fn rest(self) -> Vec<u8> {
        let mut all = self.seen;
        all.extend(self.chunks.into_iter().flatten());
        all
    }
}
