//! What a program writes to its standard output, read as it comes.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{CHILD_PATH, Limits, last_words};
use crate::context::Context;
use crate::error::{ProviderError, Result};

/// How soon a program is ended once it was cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(50);
/// How long a program may take to clean up after it was asked to end.
const CLEAN_UP_MAX: Duration = Duration::from_secs(10);
/// How much of what it printed is kept, in bytes: the end, where the cause is.
const PRINTED_MAX: usize = 16 << 10;
/// Longest line that is told, in bytes.
const LINE_MAX: u64 = 4096;
/// What programs get of the caller's environment: where temporary files go, and the way to the network.
const PASSED_ON: [&str; 9] = [
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// How a program is watched.
pub(crate) struct Watch {
    /// Its name.
    pub(crate) tool: &'static str,
    /// What it works on, for messages.
    pub(crate) subject: PathBuf,
    /// How long it may take in all.
    pub(crate) time_max: Duration,
    /// What it may take else.
    pub(crate) limits: Option<Limits>,
    /// Which of these lines tell why it failed; if none does, the last ones are taken to.
    pub(crate) is_cause: fn(&str) -> bool,
    /// Hears each line that it prints on its standard error.
    pub(crate) on_line: Box<dyn FnMut(&str) + Send>,
}

/// A running program, with a process group of its own, as a stream of what it writes. The stream ends only when the
/// program has ended well: what ended otherwise is not whole, and is an error that holds a [`ProviderError`]. Dropped
/// before, it ends the program and all that this started.
pub(crate) struct Output {
    tool: &'static str,
    subject: PathBuf,
    ctx: Context,
    child: Child,
    stdout: ChildStdout,
    /// Gets the end of what it printed, once all that have its standard error are gone.
    printed: Receiver<Vec<u8>>,
    deadline: Instant,
    time_max: Duration,
    clean_up_max: Duration,
    ended: bool,
}

impl Output {
    /// Starts the program, which should be [contained](super::contained), with its environment cleared but for what it
    /// needs.
    pub(crate) fn start(command: &mut Command, watch: Watch, ctx: &Context) -> Result<Self> {
        let Watch { tool, subject, time_max, limits, is_cause, on_line } = watch;
        let program = PathBuf::from(command.get_program());
        command.env_clear().env("PATH", CHILD_PATH).env("LC_ALL", "C");
        command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it starts is ended with it, and a Ctrl-C at the terminal reaches it through us alone.
            .process_group(0)
            .spawn()
            .map_err(ProviderError::io("cannot start", &program))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(ProviderError::Other(format!("{tool} has no output")));
        };
        let (sender, printed) = mpsc::channel();
        thread::spawn(move || {
            // Nobody listens when the stream was dropped.
            let _ = sender.send(tell(stderr, is_cause, on_line));
        });
        let deadline = Instant::now() + time_max;
        let ctx = ctx.clone();
        let (clean_up_max, ended) = (CLEAN_UP_MAX, false);
        let output =
            Self { tool, subject, ctx, child, stdout, printed, deadline, time_max, clean_up_max, ended };
        if let Some(limits) = limits {
            limits.set(&output.child).map_err(ProviderError::io("cannot limit", &program))?;
        }
        Ok(output)
    }

    /// Whether it may go on.
    fn check(&self) -> Result<()> {
        self.ctx.check_cancelled()?;
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(ProviderError::Other(format!(
            "{} for {} was ended after {} minutes, the longest that it may take",
            self.tool,
            self.subject.display(),
            self.time_max.as_secs() / 60
        )))
    }

    /// Until there is something to read.
    fn wait_readable(&self) -> Result<()> {
        let timeout = Timespec::try_from(CANCEL_CHECK).ok();
        loop {
            self.check()?;
            match poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], timeout.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(ProviderError::io("cannot read from", self.tool)(e.into())),
            }
        }
    }

    /// Its standard output has ended: how did it?
    fn finish(&mut self) -> Result<()> {
        let printed = loop {
            self.check()?;
            match self.printed.recv_timeout(CANCEL_CHECK) {
                Ok(printed) => break printed,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Vec::new(),
            }
        };
        // It has closed all its output, and has nothing left to do.
        let status = self.child.wait().map_err(ProviderError::io("cannot wait for", self.tool))?;
        self.ended = true;
        if status.success() {
            return Ok(());
        }
        Err(ProviderError::Tool {
            tool: self.tool,
            path: self.subject.clone(),
            status: status.to_string(),
            message: last_words(&printed),
        })
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        self.wait_readable().map_err(io::Error::other)?;
        match self.stdout.read(buffer) {
            Ok(0) => self.finish().map(|()| 0).map_err(io::Error::other),
            other => other,
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let group = Pid::from_child(&self.child);
        // It fails only for a group that is gone.
        let _ = kill_process_group(group, Signal::TERM);
        // The end of its standard error tells that all of them have ended.
        let _ = self.printed.recv_timeout(self.clean_up_max);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Tells each line, and keeps the last of the causes, or else of all. Ends when nobody has the other end any more.
fn tell(
    stderr: ChildStderr,
    is_cause: fn(&str) -> bool,
    mut on_line: Box<dyn FnMut(&str) + Send>,
) -> Vec<u8> {
    let mut reader = BufReader::new(stderr);
    let (mut causes, mut kept) = (Vec::new(), Vec::new());
    let mut line = Vec::new();
    while let Ok(1..) = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
        // What is printed may come from a mirror or a package: it must not reach a terminal as more than text.
        let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
        let text = text.trim();
        on_line(text);
        keep(&mut kept, text);
        if is_cause(text) {
            keep(&mut causes, text);
        }
        line.clear();
    }
    if causes.is_empty() { kept } else { causes }
}

fn keep(kept: &mut Vec<u8>, text: &str) {
    kept.extend_from_slice(text.as_bytes());
    kept.push(b'\n');
    kept.drain(..kept.len().saturating_sub(PRINTED_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    const LIMITS: Limits = Limits { file: 4096, address_space: 1 << 30 };

    fn start(script: &str, ctx: &Context) -> (Output, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = lines.clone();
        let watch = Watch {
            tool: "sh",
            subject: "nothing".into(),
            time_max: Duration::from_secs(60),
            limits: Some(LIMITS),
            is_cause: |line| line.starts_with("E: "),
            on_line: Box::new(move |line| heard.lock().unwrap().push(line.to_owned())),
        };
        (Output::start(Command::new("/bin/sh").args(["-c", script]), watch, ctx).unwrap(), lines)
    }

    fn ctx() -> Context {
        Context::new("/nonexistent")
    }

    #[test]
    fn what_it_writes_comes_whole_and_what_it_prints_is_told() {
        let (mut output, lines) = start("echo one; printf 'a \\033[31mb\\n' >&2; echo two", &ctx());
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
        assert_eq!(*lines.lock().unwrap(), ["a [31mb"], "without what a terminal would obey");
    }

    #[test]
    fn an_end_that_was_none_is_an_error_with_the_cause() {
        for (script, shown) in
            [("echo half; echo why >&2; exit 3", "exit status: 3"), ("kill -9 $$", "signal: 9")]
        {
            let (mut output, _) = start(script, &ctx());
            let e = output.read_to_end(&mut Vec::new()).unwrap_err().downcast::<ProviderError>().unwrap();
            assert!(e.to_string().contains(shown), "{e}");
        }
    }

    #[test]
    fn cancelling_ends_it_and_what_it_started() {
        let flag = Arc::new(AtomicBool::new(false));
        let cancelled = ctx().with_cancel_flag(flag.clone());
        let (heard, all_gone) = mpsc::channel::<()>();
        let watch = Watch {
            tool: "sh",
            subject: "nothing".into(),
            time_max: Duration::from_secs(60),
            limits: None,
            is_cause: |line| line.starts_with("E: "),
            on_line: Box::new(move |_| heard.send(()).unwrap()),
        };
        // The second takes no request to end, and outlives the first.
        let script = "(trap '' TERM; sleep 600) & echo x; wait";
        let mut output =
            Output::start(Command::new("/bin/sh").args(["-c", script]), watch, &cancelled).unwrap();
        output.clean_up_max = CANCEL_CHECK;
        output.read_exact(&mut [0; 1]).unwrap();
        flag.store(true, Ordering::SeqCst);
        let e = output.read_to_end(&mut Vec::new()).unwrap_err().downcast::<ProviderError>().unwrap();
        assert!(matches!(e, ProviderError::Cancelled));
        drop(output);
        assert!(all_gone.recv().is_err(), "nobody has its standard error any more");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn it_has_the_limits_that_it_was_given() {
        let (output, _) = start("sleep 600", &ctx());
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", output.child.id())).unwrap();
        let of = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).map(|limit| limit.parse().unwrap()).collect::<Vec<u64>>()
        };
        assert_eq!(of("Max file size"), [LIMITS.file; 2]);
        assert_eq!(of("Max address space"), [LIMITS.address_space; 2]);
        assert_eq!(of("Max core file size"), [0; 2]);
    }

    #[test]
    fn a_time_limit_ends_it() {
        let (mut output, _) = start("sleep 600", &ctx());
        output.deadline = Instant::now();
        let e = output.read(&mut [0; 1]).unwrap_err();
        assert!(e.to_string().contains("the longest"), "{e}");
    }
}
