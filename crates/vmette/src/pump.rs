//! From a command's output to wherever it should go.

use std::io::{self, Write};

use crate::{Error, Output, Process};

/// Bytes that a captured session keeps; the rest is read and dropped.
pub const CAPTURE_MAX: usize = 1 << 20;

/// Passes a command's output on until it ends. A reader that has gone away (`| head -1`) is gone for the command too, as
/// it would be without a machine in between; what was on its way is dropped.
///
/// # Errors
/// The connection to the guest is gone, or a writer fails for another reason than a closed pipe.
pub fn forward(process: &Process, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<(), Error> {
    let (mut stdout, mut stderr) = (Sink::new(stdout), Sink::new(stderr));
    while let Some(output) = process.next_output()? {
        match &output {
            Output::Stdout(bytes) if stdout.pass_on(bytes)? => process.close_stdout()?,
            Output::Stderr(bytes) if stderr.pass_on(bytes)? => process.close_stderr()?,
            _ => {}
        }
    }
    Ok(())
}

/// A writer until its reader goes away.
struct Sink<'a> {
    writer: &'a mut dyn Write,
    broken: bool,
}

impl<'a> Sink<'a> {
    fn new(writer: &'a mut dyn Write) -> Self {
        Self { writer, broken: false }
    }

    /// Returns whether the reader was found to be gone by this call.
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<bool> {
        if self.broken {
            return Ok(false);
        }
        match self.writer.write_all(bytes).and_then(|()| self.writer.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.broken = true;
                Ok(true)
            }
            result => result.map(|()| false),
        }
    }
}
