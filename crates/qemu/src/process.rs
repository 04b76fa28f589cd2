//! Child processes that die with their owner and inherit nothing but what they are given.

#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::io::FdFlags;
use rustix::process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions};
use vmette_vmm::Slot;

/// What to start.
#[derive(Debug)]
pub(crate) struct Spawn {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Descriptors that the child keeps, under the same numbers.
    pub(crate) inherit: Vec<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// A child process. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    /// `None` once it was reaped: from then on its number may belong to a stranger and must not be signalled.
    child: Arc<Mutex<Option<Child>>>,
    exit: Arc<Slot<ExitStatus>>,
}

impl Process {
    /// Starts it. The child leads a session of its own, so that the terminal's Ctrl-C reaches only its owner.
    pub(crate) fn spawn(spawn: Spawn) -> io::Result<Self> {
        let (answer, answered) = mpsc::channel();
        spawner()?
            .send((spawn, answer))
            .map_err(|_| io::Error::other("the thread that starts processes has ended"))?;
        let child =
            answered.recv().map_err(|_| io::Error::other("the thread that starts processes has ended"))??;
        Self::watched(child, |name, reap| thread::Builder::new().name(name).spawn(reap).map(drop))
    }

    /// The process, with a thread that reaps it. There is none without the other: whoever drops it waits for that thread.
    fn watched(
        child: Child,
        start_thread: impl FnOnce(String, Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let pid = child.id();
        let child = Arc::new(Mutex::new(Some(child)));
        let exit = Arc::new(Slot::new());
        let (reaped, told) = (child.clone(), exit.clone());
        if let Err(e) = start_thread(format!("wait-{pid}"), Box::new(move || reap(pid, &reaped, &told))) {
            if let Some(mut child) = lock(&child).take() {
                // Both fail only when it has exited, and was reaped, already.
                let _ = child.kill();
                let _ = child.wait();
            }
            return Err(e);
        }
        Ok(Self { pid, child, exit })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Set once it has been reaped.
    pub(crate) fn exit(&self) -> Arc<Slot<ExitStatus>> {
        self.exit.clone()
    }

    /// Kills it, if it still runs. Does not wait.
    pub(crate) fn kill(&self) {
        if let Some(child) = lock(&self.child).as_mut() {
            // Fails only when it has exited already.
            let _ = child.kill();
        }
    }

    /// Waits for its end, and kills it when the deadline passes first (`None`).
    pub(crate) fn wait_or_kill(&self, deadline: Instant) -> Option<ExitStatus> {
        let status = self.exit.wait_until(deadline);
        if status.is_none() {
            self.kill();
            self.exit.wait();
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.exit.wait();
    }
}

fn lock(child: &Mutex<Option<Child>>) -> MutexGuard<'_, Option<Child>> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits without reaping, then reaps under the lock: between the two the number still belongs to the child.
fn reap(pid: u32, child: &Mutex<Option<Child>>, exit: &Slot<ExitStatus>) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(pid), options) {}
    }
    let mut child = lock(child);
    // `wait` fails when something else in this program has reaped all children.
    let status = child.as_mut().and_then(|child| child.wait().ok()).unwrap_or_default();
    *child = None;
    drop(child);
    exit.set(status);
}

type Request = (Spawn, Sender<io::Result<Child>>);

/// The one thread that starts processes. The kernel sends the parent-death signal when the *thread* that forked ends,
/// so it must be one that lives as long as the program.
fn spawner() -> io::Result<Sender<Request>> {
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    if SPAWNER.get().is_none() {
        let (requests, queue) = mpsc::channel::<Request>();
        thread::Builder::new().name("spawn".into()).spawn(move || {
            for (spawn, answer) in queue {
                // The asker may have gone; its child then dies here.
                if let Err(mpsc::SendError(Ok(mut child))) = answer.send(start(spawn)) {
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

fn start(spawn: Spawn) -> io::Result<Child> {
    let Spawn { program, args, inherit, stdin, stdout, stderr } = spawn;
    if inherit.iter().any(|fd| number(fd) <= libc::STDERR_FILENO) {
        // A program that embeds this library has closed its standard streams; the child's would take the same numbers.
        return Err(io::Error::other(
            "standard input, output or error of this process is closed; open /dev/null on it",
        ));
    }
    let mut command = Command::new(program);
    let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
    // The environment may hold the user's secrets and the working directory may be one that wants to be unmounted.
    command.args(args).env_clear().current_dir("/");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(stdio(stdin)).stdout(stdio(stdout)).stderr(stdio(stderr));
    let owner = rustix::process::getpid();
    let prepare = move || prepare_child(&inherit, owner);
    // SAFETY: `prepare_child` runs between fork and exec in a program with threads. It makes system calls only: it
    // takes no lock and does not allocate, and the descriptors it names are owned by the closure and open.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

fn prepare_child(inherit: &[OwnedFd], owner: Pid) -> io::Result<()> {
    rustix::process::setsid()?;
    die_with_owner(owner)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // A core file would hold the guest's memory.
    rustix::process::setrlimit(Resource::Core, none)?;
    close_on_exec();
    for fd in inherit {
        rustix::io::fcntl_setfd(fd.as_fd(), FdFlags::empty())?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn die_with_owner(owner: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
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
fn die_with_owner(_owner: Pid) -> io::Result<()> {
    Ok(())
}

/// Marks every descriptor for closing: a program that embeds this library may have opened files without that mark, and
/// they are none of the child's business.
#[cfg(target_os = "linux")]
fn close_on_exec() {
    // SAFETY: a system call on plain numbers; with this flag it closes nothing now. Kernels before 5.11 refuse it, and
    // then what the Rust library opened is still marked.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

#[cfg(not(target_os = "linux"))]
fn close_on_exec() {}

/// The number under which a child will find a descriptor that it inherits.
pub(crate) fn number(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    fn shell(script: &str) -> Spawn {
        Spawn {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            inherit: Vec::new(),
            stdin: None,
            stdout: None,
            stderr: None,
        }
    }

    fn output_of(mut spawn: Spawn) -> String {
        let (mut reader, writer) = io::pipe().unwrap();
        spawn.stdout = Some(writer.into());
        let process = Process::spawn(spawn).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(process.exit().wait().success());
        text
    }

    #[test]
    fn a_child_has_the_descriptors_it_was_given_and_no_other() {
        // Numbers that the shell does not come by when it lists the folder.
        let open = |above| rustix::io::fcntl_dupfd_cloexec(io::stdin(), above).unwrap();
        let (given, leaked) = (open(500), open(600));
        rustix::io::fcntl_setfd(&leaked, FdFlags::empty()).unwrap();
        let (given_number, leaked_number) = (number(&given), number(&leaked));
        let mut spawn = shell("for fd in /proc/self/fd/*; do echo \"${fd##*/}\"; done");
        spawn.inherit.push(given);
        let text = output_of(spawn);
        let numbers: Vec<&str> = text.lines().collect();
        assert!(numbers.contains(&given_number.to_string().as_str()), "{numbers:?}");
        assert!(!numbers.contains(&leaked_number.to_string().as_str()), "{numbers:?}");
    }

    #[test]
    fn a_child_sees_none_of_the_environment_but_the_path() {
        let text = output_of(shell("tr '\\0' '\\n' < /proc/self/environ"));
        let names: Vec<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        assert!(names.iter().all(|name| ["PATH", "PWD", "OLDPWD", "_", "SHLVL"].contains(name)), "{names:?}");
    }

    #[test]
    fn it_outlives_the_thread_that_asked_for_it() {
        let ask = || Process::spawn(shell("read line; exit 3")).unwrap();
        let process = thread::spawn(ask).join().unwrap();
        assert_eq!(process.exit().wait().code(), Some(3));
    }

    #[test]
    fn dropping_and_killing_leave_nothing_behind() {
        let process = Process::spawn(shell("exec sleep 1000")).unwrap();
        let (pid, exit) = (process.pid(), process.exit());
        process.kill();
        process.kill();
        drop(process);
        assert_eq!(exit.get().and_then(|status| status.signal()), Some(libc::SIGKILL));
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_child_that_nobody_can_wait_for_is_ended_at_once() {
        let child = start(shell("exec sleep 1000")).unwrap();
        let pid = child.id();
        let no_thread = |_, _| Err(io::ErrorKind::WouldBlock.into());
        let error = Process::watched(child, no_thread).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_deadline_ends_a_child_that_does_not() {
        let process = Process::spawn(shell("exec sleep 1000")).unwrap();
        assert_eq!(process.wait_or_kill(Instant::now() + Duration::from_millis(1)), None);
        assert!(process.exit().get().is_some());
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let spawn = Spawn { program: "/nonexistent/program".into(), ..shell("") };
        assert_eq!(Process::spawn(spawn).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Not a test: the owner in the test below, when that starts this program anew.
    #[test]
    #[ignore = "started by `children_die_with_an_owner_that_is_killed`"]
    fn an_owner() {
        let mut spawn = shell("echo started; exec sleep 60");
        spawn.stdout = Some(io::stdout().as_fd().try_clone_to_owned().unwrap());
        let _process = Process::spawn(spawn).unwrap();
        // Until it is killed.
        let mut line = String::new();
        io::stdin().read_line(&mut line).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn children_die_with_an_owner_that_is_killed() {
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "process::tests::an_owner"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = io::BufReader::new(owner.stdout.take().unwrap());
        let mut line = String::new();
        while !line.ends_with("started\n") {
            assert_ne!(io::BufRead::read_line(&mut output, &mut line).unwrap(), 0, "{line}");
        }
        owner.kill().unwrap();
        owner.wait().unwrap();
        // The child holds the pipe too: its end is the child's, which would come after a minute by itself.
        let killed = Instant::now();
        output.read_to_string(&mut line).unwrap();
        assert!(killed.elapsed() < Duration::from_secs(30));
    }
}
