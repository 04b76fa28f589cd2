//! The three streams of this process. Each may be in non-blocking mode: that belongs to the open file, which others have
//! too, such as a program at the other end of a terminal or of a socket. They are waited for then.

use std::io::{self, IsTerminal, Read, Stderr, Stdin, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, SeekFrom, fstat};
use rustix::io::pread;
use vmette::{Process, Waiting};

use crate::terminal;

/// How much of stdin is read at once.
const STDIN_BUFFER: usize = 64 << 10;

/// Writes to stdout; a reader that has gone away needs no answer.
pub(crate) fn print_out(text: &str) {
    let _ = stdout().write_all(text.as_bytes());
}

/// Writes to stderr; there is nowhere to report a failure to.
pub(crate) fn print_err(text: &str) {
    let _ = stderr().write_all(text.as_bytes());
}

/// A line of vmette's own.
pub(crate) fn say(text: &str) {
    print_err(&format!("[vmette] {text}\n"));
}

pub(crate) fn stdout() -> Waiting<Stdout> {
    Waiting::new(io::stdout())
}

pub(crate) fn stderr() -> Waiting<Stderr> {
    Waiting::new(io::stderr())
}

/// This process's stdin, on its way to the command.
struct Input {
    stdin: Waiting<Stdin>,
    is_terminal: bool,
    /// The place of the next byte, in a regular file. It is read without moving the place that the open file has, which
    /// others may share: a shell reads the commands or lines that follow from there.
    place: Option<u64>,
}

impl Input {
    fn new() -> Self {
        let fd = rustix::stdio::stdin();
        let is_file =
            fstat(fd).is_ok_and(|meta| FileType::from_raw_mode(meta.st_mode) == FileType::RegularFile);
        let place = is_file.then(|| rustix::fs::tell(fd).ok()).flatten();
        Self { stdin: Waiting::new(io::stdin()), is_terminal: io::stdin().is_terminal(), place }
    }

    fn read(&mut self, buffer: &mut [u8], settings: &terminal::Settings) -> io::Result<usize> {
        if let Some(place) = &mut self.place {
            let read = rustix::io::retry_on_intr(|| pread(rustix::stdio::stdin(), &mut *buffer, *place))?;
            *place += read as u64;
            return Ok(read);
        }
        if self.is_terminal {
            terminal::await_input()?;
            settings.take_over();
        }
        self.stdin.read(buffer)
    }
}

/// A regular file as stdin: it goes on where the command has stopped reading.
pub(crate) struct Given {
    start: u64,
    forwarded: Arc<AtomicU64>,
}

impl Given {
    /// Moves the place of the open file behind the bytes that the command has read, as if it had read them itself. So
    /// `while read x; do vmette run -- …; done < list` loses no line to a command that reads nothing.
    pub(crate) fn hand_back(&self, process: &Process) {
        let forwarded = self.forwarded.load(Ordering::SeqCst);
        // The guest's word counts as far as it can be true.
        let consumed = process.stdin_consumed().map_or(forwarded, |consumed| consumed.min(forwarded));
        // What could be told its place can be given one.
        let _ =
            rustix::fs::seek(rustix::stdio::stdin(), SeekFrom::Start(self.start.saturating_add(consumed)));
    }
}

/// Feeds this process's stdin to the command until either ends. The thread is left to itself: a blocked read of a
/// terminal cannot be interrupted, and ends with the process.
pub(crate) fn forward_stdin(
    process: &Arc<Process>,
    settings: terminal::Settings,
) -> io::Result<Option<Given>> {
    let process = Arc::downgrade(process);
    let mut input = Input::new();
    let forwarded = Arc::new(AtomicU64::new(0));
    let given = input.place.map(|start| Given { start, forwarded: forwarded.clone() });
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut buffer = vec![0; STDIN_BUFFER];
        loop {
            let read = input.read(&mut buffer, &settings);
            let Some(process) = process.upgrade() else { return };
            let read = read.unwrap_or_else(|e| {
                say(&format!("error: stdin: {e}; the command's ends here"));
                0
            });
            // The command ended, or the connection did: both are seen by whoever waits for the command.
            if read == 0 {
                let _ = process.close_stdin();
                return;
            }
            forwarded.fetch_add(read as u64, Ordering::SeqCst);
            if process.write_stdin(&buffer[..read]).is_err() {
                return;
            }
        }
    })?;
    Ok(given)
}
