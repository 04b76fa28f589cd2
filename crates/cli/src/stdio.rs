//! The three streams of this process.

use std::io::{Read, Write};
use std::sync::Arc;

use vmette::{Error, Process};

/// How much of stdin is read at once.
const STDIN_BUFFER: usize = 64 << 10;

/// Writes to stdout; a reader that has gone away needs no answer.
pub(crate) fn print_out(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Writes to stderr; there is nowhere to report a failure to.
pub(crate) fn print_err(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A line of vmette's own.
pub(crate) fn say(text: &str) {
    print_err(&format!("[vmette] {text}\n"));
}

/// Feeds this process's stdin to the command until either ends. The thread is left to itself: a blocked read of a
/// terminal cannot be called off, and ends with the process.
pub(crate) fn forward_stdin(process: &Arc<Process>) -> std::io::Result<()> {
    let process = Arc::downgrade(process);
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; STDIN_BUFFER];
        loop {
            let read = stdin.read(&mut buffer);
            let Some(process) = process.upgrade() else { return };
            let sent = match read {
                // An error is the end too: there is nothing more to give.
                Ok(0) | Err(_) => {
                    process.close_stdin().and(Err(Error::Io(std::io::ErrorKind::UnexpectedEof.into())))
                }
                Ok(n) => process.write_stdin(&buffer[..n]),
            };
            // The command ended, or the connection did: both are seen by whoever waits for the command.
            if sent.is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
