//! The port that shows what the guest sends, and sends it back.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::relay::Relays;
use crate::guest_text::safe;
use crate::notice::Notices;

/// Bytes that are read, shown and sent back at once.
const PIECE: usize = 4 << 10;

/// Most that is shown of one session's connections, in bytes: a guest may send without end. It is echoed all the same.
const SHOWN_MAX: usize = 64 << 10;

/// The cost of a line beside its text, in bytes, so that the number of lines is bounded too.
const LINE_COST: usize = 64;

/// The listener of one session.
#[derive(Clone)]
pub(super) struct Echo {
    port: u32,
    notices: Arc<Notices>,
    shown: Arc<AtomicUsize>,
}

impl Echo {
    pub(super) fn new(port: u32, notices: Arc<Notices>) -> Self {
        Self { port, notices, shown: Arc::default() }
    }

    /// Serves a connection on a thread of its own.
    pub(super) fn serve(&self, stream: UnixStream, relays: &Arc<Relays>) -> io::Result<()> {
        let echo = self.clone();
        relays.run(stream, move |stream| echo.answer(stream))
    }

    fn answer(&self, mut stream: &UnixStream) {
        let port = self.port;
        self.show(&format!("[vsock] guest connected on port {port}"));
        let mut piece = vec![0; PIECE];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => {
                    let piece = &piece[..n];
                    let text = String::from_utf8_lossy(piece.strip_suffix(b"\n").unwrap_or(piece));
                    self.show(&format!("[vsock {port}] {}", safe(&text)));
                    if stream.write_all(piece).is_err() {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.show(&format!("[vsock {port}] end"));
    }

    fn show(&self, line: &str) {
        let cost = line.len() + LINE_COST;
        let before = self.shown.fetch_add(cost, Ordering::Relaxed);
        if before + cost <= SHOWN_MAX {
            self.notices.vsock(line.to_owned());
        } else if before <= SHOWN_MAX {
            self.notices.vsock(format!("[vsock {}] further data is echoed and not shown", self.port));
        }
    }
}
