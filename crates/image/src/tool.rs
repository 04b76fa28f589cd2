//! Programs of the distribution that make and read images.

use std::io::{self, Read};
use std::path::PathBuf;

use vmette_spawn::{Limits, Stream, Tool};
use vmette_work::{Cancelled, Work};

/// Why a program's work is not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// The caller has given up.
    #[error("cancelled")]
    Cancelled(#[from] Cancelled),
    /// The program is not installed.
    #[error("{tool} is not installed: install {package}")]
    Missing {
        /// The program.
        tool: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// The program failed.
    #[error("{}: {source}", .subject.display())]
    Failed {
        /// The file or name that it worked on.
        subject: PathBuf,
        /// The program's own words, or the system's.
        #[source]
        source: vmette_spawn::Error,
    },
}

impl ToolError {
    /// For `map_err`: names the file that the program worked on.
    pub(crate) fn on(subject: impl Into<PathBuf>) -> impl FnOnce(vmette_spawn::Error) -> Self {
        let subject = subject.into();
        move |source| match source {
            vmette_spawn::Error::Cancelled(cancelled) => Self::Cancelled(cancelled),
            source => Self::Failed { subject, source },
        }
    }
}

/// The program's path, or an error that names its package.
pub(crate) fn require(tool: &'static str, package: &'static str) -> Result<PathBuf, ToolError> {
    vmette_spawn::find(tool).ok_or(ToolError::Missing { tool, package })
}

/// Limits on the files that a program writes, and on its address space, in bytes.
pub(crate) fn limits(file: u64, address_space: u64) -> Limits {
    Limits { file: Some(file), address_space: Some(address_space) }
}

/// The output of a running program. It ends only when the program has ended well: otherwise its last read fails with an
/// `io::Error` that carries the [`ToolError`].
pub(crate) struct Output {
    stream: Stream,
    subject: PathBuf,
    ended: bool,
}

impl Output {
    /// Starts the program, which works on `subject`.
    pub(crate) fn start(tool: Tool, subject: PathBuf, work: &Work) -> Result<Self, ToolError> {
        let stream = tool.stream(work).map_err(ToolError::on(&subject))?;
        Ok(Self { stream, subject, ended: false })
    }

    fn step(&mut self, buffer: &mut [u8]) -> Result<usize, vmette_spawn::Error> {
        let read = self.stream.read_some(buffer)?;
        if read == 0 {
            self.stream.finish()?;
            self.ended = true;
        }
        Ok(read)
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        self.step(buffer).map_err(|e| io::Error::other(ToolError::on(&self.subject)(e)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vmette_spawn::Command;

    use super::*;

    fn output(script: &str, work: &Work) -> Output {
        let command = Command::new("/bin/sh").args(["-c", script]);
        Output::start(Tool::new("sh", command, Duration::from_secs(60)), "nothing".into(), work).unwrap()
    }

    #[test]
    fn an_end_that_was_none_is_an_error_with_the_cause() {
        let mut text = String::new();
        output("echo one; echo two", &Work::quiet()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
        for (script, shown) in
            [("echo half; echo why >&2; exit 3", "exit status: 3"), ("kill -9 $$", "signal: 9")]
        {
            let e = output(script, &Work::quiet()).read_to_end(&mut Vec::new()).unwrap_err();
            let e = e.downcast::<ToolError>().unwrap().to_string();
            assert!(e.contains(shown) && e.contains("nothing"), "{e}");
        }
    }

    #[test]
    fn cancelling_it_is_no_failure_of_the_program() {
        let work = Work::quiet();
        let mut output = output("echo x; sleep 600", &work);
        output.read_exact(&mut [0; 1]).unwrap();
        work.cancel().cancel();
        let e = output.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(matches!(e.downcast(), Ok(ToolError::Cancelled(_))));
    }
}
