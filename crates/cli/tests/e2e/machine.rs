//! The real program, run as a user runs it: what it is given, what it printed, how it ended, what it left.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use vmette_testing::lane;

use crate::processes::{Processes, await_end, pidfd};
use crate::stream::Stream;

/// Longest that one run may take. Other tests and an emulated machine share two cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(150);

/// How long the end may take once it is waited for.
const GRACE: Duration = Duration::from_secs(20);

/// The program under test.
pub(crate) const VMETTE: &str = env!("CARGO_BIN_EXE_vmette");

/// The cache that all tests share, so that the kernel is fetched and the template made once.
pub(crate) fn shared_cache() -> PathBuf {
    let path = lane::shared_cache(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    private_folder(&path);
    path
}

pub(crate) fn private_folder(path: &Path) {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(path).unwrap();
}

/// An invocation that is being put together.
pub(crate) struct Vmette {
    command: Command,
    input: Vec<u8>,
    temp: Option<TempDir>,
}

impl Vmette {
    /// `vmette` with these arguments.
    pub(crate) fn new<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::from_program(VMETTE, args)
    }

    /// `vmette run` with these arguments.
    pub(crate) fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::new(
            std::iter::once(OsString::from("run")).chain(args.into_iter().map(|a| a.as_ref().to_owned())),
        )
    }

    /// `vmette run -- sh -c SCRIPT`.
    pub(crate) fn script(script: &str) -> Self {
        Self::run(["--", "sh", "-c", script])
    }

    /// Any program that becomes vmette, or starts it.
    pub(crate) fn from_program<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let temp = tempfile::tempdir().unwrap();
        // The suite may itself run behind `nohup`, or in the background of a script.
        let mut command = Command::new("/usr/bin/env");
        command.arg("--default-signal=HUP,INT,QUIT").arg(program.as_ref());
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command
            .args(args)
            .envs(lane::environment())
            .env("VMETTE_CACHE_DIR", shared_cache())
            .env("TMPDIR", temp.path())
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self { command, input: Vec::new(), temp: Some(temp) }
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn cache(self, path: &Path) -> Self {
        self.env("VMETTE_CACHE_DIR", path)
    }

    /// Temporary files go there, and whoever owns the folder looks after it.
    pub(crate) fn temp(mut self, path: &Path) -> Self {
        self.temp = None;
        self.env("TMPDIR", path)
    }

    pub(crate) fn dir(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self.command.stdin(Stdio::piped());
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", self.command));
        let input = child.stdin.take().map(|mut stdin| {
            let bytes = std::mem::take(&mut self.input);
            // Whoever closes its stdin early does not want the rest.
            std::thread::spawn(move || drop(stdin.write_all(&bytes)))
        });
        Running {
            pidfd: pidfd(child.id()).expect("the program is our child"),
            stdout: child.stdout.take().map(Stream::of),
            stderr: child.stderr.take().map(Stream::of),
            child: Some(child),
            input,
            temp: self.temp,
            deadline: Instant::now() + LIMIT,
        }
    }

    /// Runs it to its end.
    pub(crate) fn outcome(self) -> Outcome {
        self.start().wait()
    }

    /// Runs it to its end, which has to be this exit status.
    pub(crate) fn exits(self, code: i32) -> Outcome {
        let outcome = self.outcome();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        outcome
    }
}

/// What would change the program under test, but not the mark by which leftovers of a suite are known.
fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("VMETTE_") && name != "VMETTE_SUITE" && !name.starts_with("VMETTE_TEST")
}

/// An invocation that runs. Dropping it kills it, so that a failed test leaves nothing.
pub(crate) struct Running {
    child: Option<Child>,
    pidfd: OwnedFd,
    pub(crate) stdout: Option<Stream>,
    pub(crate) stderr: Option<Stream>,
    input: Option<JoinHandle<()>>,
    temp: Option<TempDir>,
    deadline: Instant,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Waits until stdout has `text`.
    pub(crate) fn has_printed(&mut self, text: &str) {
        let (stderr, deadline) = (&self.stderr, self.deadline);
        let explain = || stderr.as_ref().map(Stream::text).unwrap_or_default();
        self.stdout.as_mut().unwrap().until(text, deadline, explain);
    }

    /// Waits until stderr has `text`.
    pub(crate) fn has_said(&mut self, text: &str) {
        self.stderr.as_mut().unwrap().until(text, self.deadline, String::new);
    }

    /// Everything that it has started and that has not ended.
    pub(crate) fn processes(&self) -> Processes {
        Processes::below(self.pid())
    }

    /// Waits until a process of that name runs.
    pub(crate) fn process(&self, name: &str) -> Processes {
        loop {
            let found = self.processes().named(name);
            if !found.is_empty() {
                return found;
            }
            assert!(Instant::now() < self.deadline, "no {name} was started");
            // There is no event for the start of somebody else's child.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(&self.pidfd, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Outcome {
        // Some tests need longer until they wait.
        let in_time = await_end(&self.pidfd, self.deadline.max(Instant::now() + GRACE));
        let mut child = self.child.take().unwrap();
        if !in_time {
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        if let Some(input) = self.input.take() {
            input.join().unwrap();
        }
        let outcome = Outcome {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.take().map(Stream::rest).unwrap_or_default(),
            stderr: String::from_utf8_lossy(&self.stderr.take().map(Stream::rest).unwrap_or_default())
                .into_owned(),
        };
        assert!(in_time, "not over within {LIMIT:?}: {outcome:?}");
        if let Some(temp) = self.temp.take().filter(|_| status.code().is_some()) {
            let left = entries(temp.path());
            assert!(left.is_empty(), "left behind: {left:?}; {outcome:?}");
        }
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How a run ended, and what it printed.
pub(crate) struct Outcome {
    /// `None`: killed by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// What is on stdout, without the line's end.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim_end_matches('\n')
    }

    /// Asserts that stdout is exactly this.
    pub(crate) fn printed(&self, expected: impl AsRef<[u8]>) -> &Self {
        let expected = expected.as_ref();
        assert!(self.stdout == expected, "expected {:?}: {self:?}", String::from_utf8_lossy(expected));
        self
    }

    /// Asserts that stderr has all of these.
    pub(crate) fn said<const N: usize>(&self, words: [&str; N]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?}: {self:?}");
        }
        self
    }

    /// Asserts that stdout and stderr together have all of these.
    pub(crate) fn showed<const N: usize>(&self, words: [&str; N]) -> &Self {
        for word in words {
            let on_stdout = String::from_utf8_lossy(&self.stdout).contains(word);
            assert!(on_stdout || self.stderr.contains(word), "no {word:?}: {self:?}");
        }
        self
    }

    /// vmette's own warnings.
    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with("[vmette] warning:")).collect()
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 4000;
        let stdout = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(SHOWN)]);
        writeln!(f, "exit code {:?}, signal {:?}", self.code, self.signal)?;
        writeln!(f, "--- stdout ({} bytes)\n{stdout}\n--- stderr\n{}", self.stdout.len(), self.stderr)
    }
}

/// The names of what is in a folder.
pub(crate) fn entries(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Reads a file in whole.
pub(crate) fn text_of(path: &Path) -> String {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text
}
