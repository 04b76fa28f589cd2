//! Child processes that die with their owner and inherit nothing but what they are given.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{self, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::fs::Mode;
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use vmette_work::Slot;

use crate::command::{AtOurEnd, Command};
use crate::limits::Limits;

/// Highest signal number of the systems that vmette runs on.
const SIGNAL_MAX: libc::c_int = 64;

/// A child process, and the process group that it leads. Dropping it kills the group and reaps the child.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    leader: Arc<Leader>,
    exit: Arc<Slot<ExitStatus>>,
}

/// `None` once it was reaped: from then on its number may belong to a stranger and must not be signalled.
#[derive(Debug)]
struct Leader(Mutex<Option<process::Child>>);

impl Command {
    /// Starts it.
    ///
    /// # Errors
    /// The program is missing or cannot be executed, or the host has no room for one more process.
    pub fn spawn(self) -> io::Result<Child> {
        Child::spawn(self)
    }
}

impl Child {
    /// Starts it. The child leads a session of its own, so that the terminal's Ctrl-C reaches only its owner.
    pub(crate) fn spawn(command: Command) -> io::Result<Self> {
        let ended = || io::Error::other("the thread that starts processes has ended");
        let (answer, answered) = mpsc::channel();
        spawner()?.send((command, answer)).map_err(|_| ended())?;
        let child = answered.recv().map_err(|_| ended())??;
        Self::watched(child, |name, reap| thread::Builder::new().name(name).spawn(reap).map(drop))
    }

    /// The process, with a thread that reaps it. There is none without the other: dropping it waits for that thread.
    fn watched(
        child: process::Child,
        start_thread: impl FnOnce(String, Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let pid = child.id();
        let leader = Arc::new(Leader(Mutex::new(Some(child))));
        let exit = Arc::new(Slot::new());
        let (reaped, told) = (leader.clone(), exit.clone());
        if let Err(e) = start_thread(format!("wait-{pid}"), Box::new(move || reaped.reap(pid, &told))) {
            leader.signal(Signal::KILL);
            if let Some(mut child) = leader.lock().take() {
                // Fails only when something else in this program has reaped it.
                let _ = child.wait();
            }
            return Err(e);
        }
        Ok(Self { pid, leader, exit })
    }

    /// Its process id, which is its group's too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Set once it has been reaped.
    #[must_use]
    pub fn exit(&self) -> Arc<Slot<ExitStatus>> {
        self.exit.clone()
    }

    /// Kills its group, if it still runs. Does not wait.
    pub fn kill(&self) {
        self.leader.signal(Signal::KILL);
    }

    /// Asks its group to end, if it still runs. Does not wait.
    pub fn terminate(&self) {
        self.leader.signal(Signal::TERM);
    }

    /// A call that kills its group, for [`Cancel::on_cancel`](vmette_work::Cancel::on_cancel).
    pub fn killer(&self) -> impl FnOnce() + Send + 'static {
        let leader = self.leader.clone();
        move || leader.signal(Signal::KILL)
    }

    /// Waits for its end, and kills it when the deadline passes first (`None`).
    #[must_use]
    pub fn wait_or_kill(&self, deadline: Instant) -> Option<ExitStatus> {
        let status = self.exit.wait_until(deadline);
        if status.is_none() {
            self.kill();
            self.exit.wait();
        }
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        self.exit.wait();
    }
}

impl Leader {
    fn lock(&self) -> MutexGuard<'_, Option<process::Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &*self.lock() {
            // Fails only when all of the group have exited already.
            let _ = rustix::process::kill_process_group(Pid::from_child(child), signal);
        }
    }

    /// Waits without reaping, then reaps under the lock: between the two the number still belongs to the child.
    fn reap(&self, pid: u32, exit: &Slot<ExitStatus>) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(pid), options) {}
        }
        let mut child = self.lock();
        // `wait` fails when something else in this program has reaped all children.
        let status = child.as_mut().and_then(|child| child.wait().ok()).unwrap_or_default();
        *child = None;
        drop(child);
        exit.set(status);
    }
}

type Request = (Command, Sender<io::Result<process::Child>>);

/// The one thread that starts processes. The kernel sends the parent-death signal when the *thread* that forked ends,
/// so it must be one that lives as long as the program.
fn spawner() -> io::Result<Sender<Request>> {
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    if SPAWNER.get().is_none() {
        let (requests, queue) = mpsc::channel::<Request>();
        thread::Builder::new().name("spawn".into()).spawn(move || {
            for (command, answer) in queue {
                // The asker may have gone; its child then dies here.
                if let Err(mpsc::SendError(Ok(mut child))) = answer.send(start(command)) {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        })?;
        // Two threads may come here at once: the loser's sender is dropped and its thread ends.
        let _ = SPAWNER.set(Mutex::new(requests));
    }
    let sender = SPAWNER.get().ok_or_else(|| io::Error::other("no thread to start processes"))?;
    Ok(sender.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

fn start(command: Command) -> io::Result<process::Child> {
    let Command {
        program,
        args,
        environment,
        folder,
        inherit,
        stdin,
        stdout,
        stderr,
        limits,
        umask,
        at_our_end,
    } = command;
    if inherit.iter().any(|fd| fd.as_raw_fd() <= libc::STDERR_FILENO) {
        // A program that embeds this library has closed its standard streams; the child's would take the same numbers.
        return Err(io::Error::other(
            "standard input, output or error of this process is closed; open /dev/null on it",
        ));
    }
    let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
    let mut command = process::Command::new(program);
    // The environment may hold the user's secrets and the working folder may be one that wants to be unmounted.
    command.args(args).env_clear().envs(environment).current_dir(folder);
    command.stdin(stdio(stdin)).stdout(stdio(stdout)).stderr(stdio(stderr));
    let owner = rustix::process::getpid();
    let prepare = move || prepare(&inherit, &limits, umask, at_our_end, owner);
    // SAFETY: `prepare` runs between fork and exec in a program with threads. It makes system calls only: it takes no
    // lock and does not allocate, and the descriptors it names are owned by the closure and open.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Everything that is done to a child before it becomes its program.
fn prepare(
    inherit: &[OwnedFd],
    limits: &Limits,
    umask: u32,
    at_our_end: AtOurEnd,
    owner: Pid,
) -> io::Result<()> {
    rustix::process::setsid()?;
    heed_all_signals();
    rustix::process::umask(Mode::from_bits_truncate(umask as _));
    end_with_owner(at_our_end, owner)?;
    limits.set()?;
    close_on_exec();
    for fd in inherit {
        rustix::io::fcntl_setfd(fd.as_fd(), FdFlags::empty())?;
    }
    Ok(())
}

/// Gives every signal its default action: an ignored one would stay ignored in the program, and one that ignores `SIGCHLD`
/// never learns how its own children end. The library has unblocked them all already.
fn heed_all_signals() {
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: async-signal-safe, and the child has its own table of actions. Numbers that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

#[cfg(target_os = "linux")]
fn end_with_owner(at_our_end: AtOurEnd, owner: Pid) -> io::Result<()> {
    let signal = match at_our_end {
        AtOurEnd::Kill => Signal::KILL,
        AtOurEnd::Terminate => Signal::TERM,
    };
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    // The owner may have died before the line above: nobody would ever send the signal. Inside a PID namespace whose
    // parent is outside there is no number to compare.
    match rustix::process::getppid() {
        Some(parent) if parent != owner => {
            Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()))
        }
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_owner(_at_our_end: AtOurEnd, _owner: Pid) -> io::Result<()> {
    Ok(())
}

/// Marks every descriptor for closing: a program that embeds this library may have opened files without that mark, and
/// the child must not have them.
#[cfg(target_os = "linux")]
fn close_on_exec() {
    // SAFETY: a system call on plain numbers; with this flag it closes nothing now. Kernels before 5.11 refuse it, and
    // then what the Rust library opened is still marked.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

#[cfg(not(target_os = "linux"))]
fn close_on_exec() {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    fn shell(script: &str) -> Command {
        Command::new("/bin/sh").args(["-c", script])
    }

    fn output_of(command: Command) -> String {
        let (mut reader, writer) = io::pipe().unwrap();
        let child = command.stdout(writer).spawn().unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(child.exit().wait().success());
        text
    }

    #[test]
    fn a_child_has_the_descriptors_it_was_given_and_no_other() {
        // Numbers that the shell does not come by when it lists the folder.
        let open = |above| rustix::io::fcntl_dupfd_cloexec(io::stdin(), above).unwrap();
        let (given, leaked) = (open(500), open(600));
        rustix::io::fcntl_setfd(&leaked, FdFlags::empty()).unwrap();
        let (given_number, leaked_number) = (given.as_raw_fd(), leaked.as_raw_fd());
        let list = shell("for fd in /proc/self/fd/*; do echo \"${fd##*/}\"; done");
        let text = output_of(list.inherit(given));
        let numbers: Vec<&str> = text.lines().collect();
        assert!(numbers.contains(&given_number.to_string().as_str()), "{numbers:?}");
        assert!(!numbers.contains(&leaked_number.to_string().as_str()), "{numbers:?}");
    }

    #[test]
    fn a_child_sees_none_of_the_environment_but_what_it_is_given() {
        let names = |command: Command| {
            let text = output_of(command);
            text.lines().filter_map(|line| line.split('=').next()).map(str::to_owned).collect::<Vec<_>>()
        };
        let print = || Command::new("/usr/bin/env");
        assert_eq!(names(print()), ["PATH"]);
        let given = print().env("LC_ALL", "C").pass_on(&["CARGO_MANIFEST_DIR", "NO_SUCH"]);
        assert_eq!(names(given), ["CARGO_MANIFEST_DIR", "LC_ALL", "PATH"]);
        assert!(names(print().pass_on_everything()).contains(&"CARGO_PKG_NAME".to_owned()));
    }

    #[test]
    fn it_has_its_folder_and_its_limits() {
        assert_eq!(output_of(shell("pwd")), "/\n");
        assert_eq!(output_of(shell("pwd").folder("/usr")), "/usr\n");
        let limits = Limits { file: Some(4096), address_space: Some(1 << 30) };
        let text = output_of(shell("cat /proc/self/limits").limits(limits));
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).map(|limit| limit.parse().unwrap()).collect::<Vec<u64>>()
        };
        assert_eq!(of("Max file size"), [4096; 2]);
        assert_eq!(of("Max address space"), [1 << 30; 2]);
        assert_eq!(of("Max core file size"), [0; 2]);
    }

    /// Not a test: the owner in the test below, when that starts this program anew.
    #[test]
    #[ignore = "started by `what_the_owner_was_left_with_is_kept_from_its_children`"]
    fn an_owner_with_a_heritage() {
        rustix::process::umask(Mode::from_bits_truncate(0o777));
        let limits = Limits { file: Some(1 << 40), address_space: None };
        let script = "umask; grep ^SigIgn /proc/self/status; grep '^Max file size' /proc/self/limits";
        print!("heritage: {}", output_of(shell(script).limits(limits)));
        print!("heritage: {}", output_of(shell("umask").umask(0)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_the_owner_was_left_with_is_kept_from_its_children() {
        let output = process::Command::new("/bin/sh")
            .args(["-c", "trap '' CHLD TERM USR1; ulimit -f 8; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "child::tests::an_owner_with_a_heritage"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("heritage: 0022\n"), "{text}");
        let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        // The C library keeps signals 32 and 33 for itself.
        assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & !(3 << 31), 0, "{text}");
        assert!(text.contains("heritage: 0000\n"), "{text}");
        let limit = text.lines().find(|line| line.starts_with("Max file size")).unwrap();
        let words: Vec<&str> = limit.split_whitespace().collect();
        assert_eq!(words[3], words[4], "the owner's own hard limit: {limit}");
        assert!(words[3].parse::<u64>().unwrap() < 1 << 20, "{limit}");
    }

    #[test]
    fn it_outlives_the_thread_that_asked_for_it() {
        let (stdin, mut go) = io::pipe().unwrap();
        let ask = || shell("read line; exit 3").stdin(stdin).spawn().unwrap();
        let child = thread::scope(|scope| scope.spawn(ask).join().unwrap());
        go.write_all(b"\n").unwrap();
        assert_eq!(child.exit().wait().code(), Some(3));
    }

    #[test]
    fn dropping_and_killing_leave_nothing_behind() {
        let child = shell("exec sleep 1000").spawn().unwrap();
        let (pid, exit) = (child.pid(), child.exit());
        child.kill();
        child.kill();
        drop(child);
        assert_eq!(exit.get().and_then(|status| status.signal()), Some(libc::SIGKILL));
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn whatever_it_has_started_goes_with_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        let child = shell("sleep 1000 & echo started; wait").stdout(writer).spawn().unwrap();
        reader.read_exact(&mut [0; 8]).unwrap();
        drop(child);
        // Its end is that of the last process that has the pipe.
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_child_that_nobody_can_wait_for_is_ended_at_once() {
        let child = start(shell("exec sleep 1000")).unwrap();
        let pid = child.id();
        let no_thread = |_, _| Err(io::ErrorKind::WouldBlock.into());
        let error = Child::watched(child, no_thread).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_deadline_ends_a_child_that_does_not() {
        let child = shell("exec sleep 1000").spawn().unwrap();
        assert_eq!(child.wait_or_kill(Instant::now() + Duration::from_millis(1)), None);
        assert!(child.exit().get().is_some());
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let error = Command::new("/nonexistent/program").spawn().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// Not a test: the owner in the test below, when that starts this program anew.
    #[test]
    #[ignore = "started by `children_end_with_an_owner_that_is_killed`"]
    fn an_owner() {
        let stdout = || io::stdout().as_fd().try_clone_to_owned().unwrap();
        let _killed = shell("echo started; exec sleep 60").stdout(stdout()).spawn().unwrap();
        let cleans_up = shell("trap 'echo cleaned up; exit' TERM; echo started; while :; do sleep 0.1; done");
        let _asked = cleans_up.at_our_end(AtOurEnd::Terminate).stdout(stdout()).spawn().unwrap();
        // Until it is killed.
        let mut line = String::new();
        io::stdin().read_line(&mut line).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn children_end_with_an_owner_that_is_killed() {
        let mut owner = process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "child::tests::an_owner"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = io::BufReader::new(owner.stdout.take().unwrap());
        let mut text = String::new();
        while text.matches("started\n").count() < 2 {
            assert_ne!(io::BufRead::read_line(&mut output, &mut text).unwrap(), 0, "{text}");
        }
        owner.kill().unwrap();
        owner.wait().unwrap();
        // The children hold the pipe too: its end is theirs, which would come after a minute by itself.
        let killed = Instant::now();
        output.read_to_string(&mut text).unwrap();
        assert!(killed.elapsed() < Duration::from_secs(30));
        assert!(text.ends_with("cleaned up\n"), "{text}");
    }
}
