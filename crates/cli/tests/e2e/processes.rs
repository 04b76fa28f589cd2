//! Processes that a program has started, watched until they are gone.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a killed process may take to be gone on a busy machine.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A handle for a process that is not yet reaped.
pub(crate) fn pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits for the end of a process; whether it came before the deadline.
pub(crate) fn await_end(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap();
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}

struct Watched {
    pid: u32,
    name: String,
    pidfd: OwnedFd,
}

/// Some processes.
pub(crate) struct Processes(Vec<Watched>);

impl Processes {
    /// The children of `ancestor`, and theirs.
    pub(crate) fn below(ancestor: u32) -> Self {
        let all = table();
        let mut family = vec![ancestor];
        let mut found = Vec::new();
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            next += 1;
            for (pid, _, name) in all.iter().filter(|(_, p, _)| *p == parent) {
                family.push(*pid);
                // It may have ended meanwhile.
                if let Some(pidfd) = pidfd(*pid) {
                    found.push(Watched { pid: *pid, name: name.clone(), pidfd });
                }
            }
        }
        Self(found)
    }

    pub(crate) fn named(self, name: &str) -> Self {
        Self(self.0.into_iter().filter(|process| process.name.starts_with(name)).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        for process in &self.0 {
            pidfd_send_signal(&process.pidfd, signal).unwrap();
        }
    }

    /// Asserts that all of them end, or have ended.
    pub(crate) fn are_gone(&self) {
        let deadline = Instant::now() + END_LIMIT;
        for Watched { pid, name, pidfd } in &self.0 {
            assert!(await_end(pidfd, deadline), "{name} ({pid}) still runs");
        }
    }
}

/// Every process, its parent and its name, as the kernel cut it.
fn table() -> Vec<(u32, u32, String)> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // A name may hold spaces and parentheses.
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let parent = tail.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent, name))
    })
    .collect()
}
