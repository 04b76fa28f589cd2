//! The three streams of this process. Each may be in non-blocking mode: that belongs to the open file, which others have
//! too, such as a program at the other end of a terminal or of a socket. They are waited for then.

use std::io::{self, Read, Stderr, Stdout, Write};
use std::sync::Arc;

use vmette::{Process, Waiting};

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

/// Feeds this process's stdin to the command until either ends. The thread is left to itself: a blocked read of a
/// terminal cannot be interrupted, and ends with the process.
pub(crate) fn forward_stdin(process: &Arc<Process>) -> io::Result<()> {
    let process = Arc::downgrade(process);
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut stdin = Waiting::new(io::stdin());
        let mut buffer = vec![0; STDIN_BUFFER];
        loop {
            let read = stdin.read(&mut buffer);
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
            if process.write_stdin(&buffer[..read]).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
