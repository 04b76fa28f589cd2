//! A program that is run, waited for within a limit, and gone afterwards.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

/// Longer than any contender takes; one that hangs must not hang the benchmark.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How much of a failed program's stderr is shown: its last words.
const LAST_WORDS: usize = 400;

/// Output that is searched for a marker before it is given up.
const OUTPUT_MAX: usize = 1 << 20;

/// A program to be run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
}

impl Program {
    pub(crate) fn new<S: AsRef<OsStr>>(path: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        Self { path: path.to_owned(), args, env: Vec::new() }
    }

    /// With this variable beside those that it inherits.
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// The command line as one would type it, with the program's name instead of its path.
    pub(crate) fn shown(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        let words = std::iter::once(name).chain(self.args.iter().map(OsString::as_os_str));
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// Starts it with a stdin that is empty and a stdout that nobody reads.
    pub(crate) fn start(&self) -> anyhow::Result<Running> {
        self.start_with(Stdio::null(), Stdio::null())
    }

    /// Starts it.
    pub(crate) fn start_with(&self, stdin: Stdio, stdout: Stdio) -> anyhow::Result<Running> {
        // A file rather than a pipe: what outlives the program may keep a pipe open, and nobody has to read a file.
        let stderr = tempfile::tempfile().context("a file for stderr")?;
        let writer = stderr.try_clone().context("a file for stderr")?;
        let child = Command::new(&self.path)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(stdout)
            .stderr(writer)
            .spawn()
            .with_context(|| format!("start {}", self.path.display()))?;
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let mut running = Running { child, pidfd: None, stderr, what: self.shown() };
        running.pidfd = Some(pidfd.with_context(|| format!("watch {}", running.what))?);
        Ok(running)
    }

    /// How long it takes from its start until it has ended, with success.
    pub(crate) fn time_to_end(&self) -> anyhow::Result<Duration> {
        self.time_within(Stdio::null(), LIMIT)
    }

    /// The same with this stdin, and within this limit.
    pub(crate) fn time_within(&self, stdin: Stdio, limit: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let running = self.start_with(stdin, Stdio::null())?;
        running.finish(started + limit)?;
        Ok(started.elapsed())
    }

    /// How long it takes from its start until its output contains `marker`; any output will do for an empty one. It
    /// has ended, with success, when this returns.
    pub(crate) fn time_to_output(&self, marker: &[u8]) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let deadline = started + LIMIT;
        let mut running = self.start_with(Stdio::null(), Stdio::piped())?;
        let mut stdout = running.take_stdout()?;
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        let elapsed = loop {
            running.await_readable(&stdout, deadline)?;
            let n = stdout.read(&mut buffer).with_context(|| format!("read from {}", running.what))?;
            let elapsed = started.elapsed();
            seen.extend_from_slice(&buffer[..n]);
            if n > 0 && (marker.is_empty() || seen.windows(marker.len()).any(|window| window == marker)) {
                break elapsed;
            }
            if n == 0 || seen.len() > OUTPUT_MAX {
                let wanted = String::from_utf8_lossy(marker);
                bail!("{} printed no {wanted:?}; {}", running.what, running.last_words());
            }
        };
        running.finish(deadline)?;
        Ok(elapsed)
    }
}

/// A program that runs. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pidfd: Option<OwnedFd>,
    stderr: File,
    what: String,
}

impl Running {
    pub(crate) fn take_stdin(&mut self) -> anyhow::Result<ChildStdin> {
        self.child.stdin.take().with_context(|| format!("{} has no stdin to write to", self.what))
    }

    pub(crate) fn take_stdout(&mut self) -> anyhow::Result<ChildStdout> {
        self.child.stdout.take().with_context(|| format!("{} has no stdout to read from", self.what))
    }

    /// Its number, while it has not been waited for.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `deadline` and returns whether it has ended.
    pub(crate) fn ends_by(&self, deadline: Instant) -> anyhow::Result<bool> {
        await_readable(self.pidfd.as_ref().context("not watched")?, deadline)
    }

    /// Waits until `stdout` has something to read, or has ended.
    pub(crate) fn await_readable(&self, stdout: &ChildStdout, deadline: Instant) -> anyhow::Result<()> {
        if await_readable(stdout, deadline)? {
            return Ok(());
        }
        bail!("{} prints nothing more, and is not done either; {}", self.what, self.last_words())
    }

    /// Waits for its end, which must be a success.
    pub(crate) fn finish(mut self, deadline: Instant) -> anyhow::Result<()> {
        if !self.ends_by(deadline)? {
            bail!("{} is not done within its limit; {}", self.what, self.last_words());
        }
        let status = self.child.wait().with_context(|| format!("wait for {}", self.what))?;
        if !status.success() {
            bail!("{} failed ({status}); {}", self.what, self.last_words());
        }
        Ok(())
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn last_words(&self) -> String {
        let mut text = Vec::new();
        let read = (&self.stderr).rewind().and_then(|()| (&self.stderr).read_to_end(&mut text));
        if read.is_err() || text.is_empty() {
            return "it said nothing on stderr".to_owned();
        }
        let tail = &text[text.len().saturating_sub(LAST_WORDS)..];
        format!("its last words: {}", String::from_utf8_lossy(tail).trim())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until a read of `fd` would not block; `false` when the deadline passes first.
pub(crate) fn await_readable(fd: impl AsFd, deadline: Instant) -> anyhow::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("a limit")?;
        match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new(Path::new("/bin/sh"), ["-c", script])
    }

    #[test]
    fn a_failure_is_an_error_with_its_status_and_last_words() {
        let error = shell("echo 'no such thing' >&2; exit 3").time_to_end().unwrap_err().to_string();
        assert!(error.contains("no such thing") && error.contains('3'), "{error}");
    }

    #[test]
    fn output_is_timed_to_the_marker_and_the_end_is_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let flag = folder.path().join("flag");
        let script = format!("echo before; echo marker; echo after; : >'{}'", flag.display());
        shell(&script).time_to_output(b"marker").unwrap();
        assert!(flag.exists());
    }

    #[test]
    fn any_output_is_a_first_byte_but_none_is_an_error() {
        shell("printf x").time_to_output(b"").unwrap();
        let error = shell("true").time_to_output(b"").unwrap_err().to_string();
        assert!(error.contains("printed no"), "{error}");
    }

    #[test]
    fn one_that_hangs_is_killed_at_the_deadline() {
        let running = shell("exec sleep 1000").start().unwrap();
        let pid = running.child.id();
        let error = running.finish(Instant::now()).unwrap_err().to_string();
        assert!(error.contains("not done"), "{error}");
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_program_is_shown_as_it_would_be_typed() {
        assert_eq!(Program::new(Path::new("/usr/bin/runsc"), ["do", "true"]).shown(), "runsc do true");
    }
}
