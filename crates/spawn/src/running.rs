//! A tool that runs.

use std::io::{self, PipeReader, Read};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmette_work::{OnCancel, Slot, Work};

use crate::child::Child;
use crate::error::Error;
use crate::tail;
use crate::tool::{Outcome, Tool};

impl Tool {
    /// Starts it. Its standard input and output are those of the command.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn start(self, work: &Work) -> Result<Running, Error> {
        Running::start(self, work)
    }

    /// Starts it, and reads its standard output as it comes.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn stream(self, work: &Work) -> Result<Stream, Error> {
        Stream::start(self, work)
    }

    /// Runs it to its end, and keeps the first `max` bytes of its standard output; the rest is read and dropped.
    ///
    /// # Errors
    /// [`Error::Start`], [`Error::TimedOut`], [`Error::Read`], [`Error::Cancelled`]. A bad end is no error here.
    pub fn outcome(self, max: usize, work: &Work) -> Result<Outcome, Error> {
        let mut stream = self.stream(work)?;
        let (mut output, mut rest) = (Vec::new(), 0);
        stream.copy_to_end(max, &mut output, &mut rest)?;
        let (status, message) = stream.end()?;
        Ok(Outcome { status, output, truncated: rest > 0, message })
    }

    /// Does what [`outcome`](Self::outcome) does, and takes a bad end for an error.
    ///
    /// # Errors
    /// Those, and [`Error::Failed`].
    pub fn output(self, max: usize, work: &Work) -> Result<Vec<u8>, Error> {
        let tool = self.name.clone();
        let Outcome { status, output, message, .. } = self.outcome(max, work)?;
        if status.success() { Ok(output) } else { Err(Error::Failed { tool, status, message }) }
    }
}

/// A tool that runs. Dropped before its end, it is ended, with everything that it has started.
#[derive(Debug)]
pub struct Running {
    tool: String,
    child: Child,
    /// Its last words, once nobody has its standard error any more.
    said: Arc<Slot<String>>,
    work: Work,
    time_max: Duration,
    deadline: Option<Instant>,
    clean_up_max: Duration,
    ended: bool,
}

impl Running {
    pub(crate) fn start(tool: Tool, work: &Work) -> Result<Self, Error> {
        let Tool { name, command, time_max, clean_up_max, ear } = tool;
        let failed = |source| Error::Start { tool: name.clone(), source };
        work.check()?;
        let (stderr, writer) = io::pipe().map_err(failed)?;
        // The listener first: if there is no thread for it, nothing has been started.
        let said = tail::start(stderr, ear).map_err(failed)?;
        let child = command.stderr(writer).spawn().map_err(failed)?;
        Ok(Self {
            tool: name,
            child,
            said,
            work: work.clone(),
            time_max,
            deadline: deadline(time_max),
            clean_up_max,
            ended: false,
        })
    }

    /// Its process id, which is its group's too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Waits for its end and for that of everything that has its standard error; returns how it ended, and its last words.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Cancelled`].
    pub fn end(&mut self) -> Result<(ExitStatus, String), Error> {
        let message = self.wait(&self.said.clone())?;
        let status = self.wait(&self.child.exit())?;
        self.ended = true;
        Ok((status, message))
    }

    /// Waits for its good end.
    ///
    /// # Errors
    /// Those of [`end`](Self::end), and [`Error::Failed`].
    pub fn finish(&mut self) -> Result<(), Error> {
        let (status, message) = self.end()?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Failed { tool: self.tool.clone(), status, message })
    }

    fn wait<T: Clone + Send + 'static>(&self, slot: &Arc<Slot<T>>) -> Result<T, Error> {
        match slot.wait_unless(self.work.cancel(), self.deadline)? {
            Some(value) => Ok(value),
            None => Err(self.timed_out()),
        }
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut { tool: self.tool.clone(), limit: self.time_max }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended || self.clean_up_max.is_zero() {
            return;
        }
        self.child.terminate();
        // The end of its standard error tells that all of them have ended.
        if let Some(deadline) = deadline(self.clean_up_max) {
            self.said.wait_until(deadline);
        }
    }
}

/// A running tool as a stream of what it writes to its standard output.
#[derive(Debug)]
pub struct Stream {
    running: Running,
    stdout: PipeReader,
    /// Has its end when the work is cancelled.
    wake: PipeReader,
    _on_cancel: OnCancel,
}

impl Stream {
    pub(crate) fn start(mut tool: Tool, work: &Work) -> Result<Self, Error> {
        let failed = |tool: &str| {
            let tool = tool.to_owned();
            move |source| Error::Start { tool, source }
        };
        let (stdout, writer) = io::pipe().map_err(failed(&tool.name))?;
        let (wake, waker) = io::pipe().map_err(failed(&tool.name))?;
        tool.command = tool.command.stdout(writer);
        let running = Running::start(tool, work)?;
        let _on_cancel = work.cancel().on_cancel(move || drop(waker));
        Ok(Self { running, stdout, wake, _on_cancel })
    }

    /// Its process id, which is its group's too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Waits for its end: see [`Running::end`].
    ///
    /// # Errors
    /// See there.
    pub fn end(&mut self) -> Result<(ExitStatus, String), Error> {
        self.running.end()
    }

    /// Waits for its good end: see [`Running::finish`].
    ///
    /// # Errors
    /// See there.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.running.finish()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.running.ended
    }

    /// Some of its output; 0 bytes are its end, and say nothing of how it ended.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Cancelled`], [`Error::Read`].
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            self.wait_readable()?;
            match self.stdout.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.unreadable(e)),
                Ok(read) => return Ok(read),
            }
        }
    }

    fn wait_readable(&self) -> Result<(), Error> {
        loop {
            self.running.work.check()?;
            let left = self.running.deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(self.running.timed_out());
            }
            // A limit too long for the kernel is a wait without one.
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut ready = [&self.stdout, &self.wake].map(|pipe| PollFd::new(pipe, PollFlags::IN));
            match poll(&mut ready, timeout.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) if ready[0].revents().is_empty() => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(self.unreadable(e.into())),
            }
        }
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::Read { tool: self.running.tool.clone(), source }
    }
}

impl Stream {
    /// Keeps the first `max` bytes, and counts the others.
    fn copy_to_end(&mut self, max: usize, kept: &mut Vec<u8>, rest: &mut u64) -> Result<(), Error> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            match self.read_some(&mut chunk)? {
                0 => return Ok(()),
                read => {
                    let keep = read.min(max - kept.len());
                    kept.extend_from_slice(&chunk[..keep]);
                    *rest += (read - keep) as u64;
                }
            }
        }
    }
}

/// A stream that ends only when the tool has ended well: output of one that failed is not whole.
impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.has_ended() || buffer.is_empty() {
            return Ok(0);
        }
        match self.read_some(buffer).map_err(io::Error::other)? {
            0 => self.finish().map(|()| 0).map_err(io::Error::other),
            read => Ok(read),
        }
    }
}

/// The deadline of a tool that starts now; `None` when its limit is longer than the clock goes.
fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, mpsc};

    use crate::Command;
    use vmette_work::{Cancel, is_cancelled};

    const MINUTE: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Tool {
        Tool::new("sh", Command::new("/bin/sh").args(["-c", script]), MINUTE)
    }

    #[test]
    fn output_comes_whole_and_lines_are_told() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = lines.clone();
        let tool = shell("echo one; printf 'a \\033[31mb\\n' >&2; echo two")
            .on_line(move |line| heard.lock().unwrap().push(line.to_owned()));
        let mut text = String::new();
        tool.stream(&Work::quiet()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
        assert_eq!(*lines.lock().unwrap(), ["a [31mb"], "without what a terminal would obey");
    }

    #[test]
    fn a_bad_end_is_an_error_with_the_cause() {
        for (script, shown) in [
            ("echo half; echo why >&2; exit 3", "sh failed (exit status: 3): why"),
            ("kill -9 $$", "signal: 9"),
        ] {
            let mut stream = shell(script).stream(&Work::quiet()).unwrap();
            let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains(shown), "{error}");
            let error = shell(script).output(100, &Work::quiet()).unwrap_err();
            assert!(error.to_string().contains(shown), "{error}");
        }
        let causes = shell("echo 'E: why' >&2; echo more >&2; exit 1").causes(|line| line.starts_with("E: "));
        let error = causes.output(100, &Work::quiet()).unwrap_err();
        assert!(error.to_string().ends_with(": E: why"), "{error}");
        let error =
            Tool::new("x", Command::new("/nonexistent/x"), MINUTE).output(1, &Work::quiet()).unwrap_err();
        assert!(error.to_string().starts_with("x cannot be started: "), "{error}");
    }

    #[test]
    fn a_loud_tool_neither_blocks_nor_fills_memory() {
        let script = "head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2";
        let outcome = shell(script).outcome(1_000_000, &Work::quiet()).unwrap();
        assert!(outcome.status.success() && outcome.truncated);
        assert_eq!(outcome.output.len(), 1_000_000);
        let outcome = shell("printf 123; exit 1").outcome(3, &Work::quiet()).unwrap();
        assert_eq!((outcome.output.as_slice(), outcome.truncated), (&b"123"[..], false));
        assert_eq!(outcome.status.code(), Some(1));
    }

    /// A tool that ignores every request, with a part that outlives it, and the end of its standard error.
    fn stubborn() -> (Tool, mpsc::Receiver<()>) {
        let (heard, all_gone) = mpsc::channel::<()>();
        let script = "trap '' TERM; (trap '' TERM; sleep 600) & echo x; wait; sleep 600";
        (shell(script).on_line(move |_| heard.send(()).unwrap()), all_gone)
    }

    #[test]
    fn cancelling_ends_the_wait_and_the_drop_everything_it_started() {
        for clean_up in [Duration::ZERO, Duration::from_millis(20)] {
            let cancel = Cancel::new();
            let (tool, all_gone) = stubborn();
            let mut stream = tool.clean_up(clean_up).stream(&Work::new(cancel.clone())).unwrap();
            stream.read_exact(&mut [0; 2]).unwrap();
            let (sender, reading) = mpsc::channel();
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    sender.send(()).unwrap();
                    stream.read_to_end(&mut Vec::new()).unwrap_err()
                });
                reading.recv().unwrap();
                cancel.cancel();
                assert!(is_cancelled(&reader.join().unwrap()));
            });
            assert!(matches!(stream.end(), Err(Error::Cancelled(_))));
            drop(stream);
            assert!(all_gone.recv().is_err(), "nobody has its standard error any more");
        }
    }

    #[test]
    fn a_request_to_end_comes_before_the_kill() {
        let (heard, lines) = mpsc::channel();
        let script = "trap 'echo cleaned up >&2; exit' TERM; echo x; while :; do sleep 0.1; done";
        let tool = shell(script).clean_up(MINUTE).on_line(move |line| heard.send(line.to_owned()).unwrap());
        let mut stream = tool.stream(&Work::quiet()).unwrap();
        stream.read_exact(&mut [0; 2]).unwrap();
        drop(stream);
        // Before that the shell may say of its `sleep` that it was terminated: the request is the whole group's.
        assert_eq!(lines.iter().last().as_deref(), Some("cleaned up"));
    }

    #[test]
    fn cancelled_work_starts_nothing() {
        let work = Work::quiet();
        work.cancel().cancel();
        assert!(matches!(shell("exit 0").output(1, &work), Err(Error::Cancelled(_))));
    }

    #[test]
    fn a_time_limit_ends_it() {
        let sleepers: [fn(Tool) -> Error; 2] = [
            |tool| tool.output(1, &Work::quiet()).unwrap_err(),
            |tool| tool.start(&Work::quiet()).unwrap().finish().unwrap_err(),
        ];
        for run in sleepers {
            let tool = Tool { time_max: Duration::from_millis(20), ..shell("sleep 600") };
            let error = run(tool);
            assert_eq!(
                error.to_string(),
                "sh took longer than 0.02 s, the longest that it may take, and was ended"
            );
        }
    }
}
