//! What happens in a session: its start, its first command and later ones, its memory, its end.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::process::{Pid, PidfdFlags};
use vmette::{Config, ExecOptions, ExitStatus, Session, StartedFrom, WorkloadStrategy};

use crate::program::{LIMIT, await_readable};
use crate::starts::milliseconds;
use crate::stats::Samples;

/// Commands in each session after its first.
const EXECS: usize = 10;

/// Pings in each session.
const PINGS: usize = 20;

/// Milliseconds, but for the memory.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) ready: Samples,
    pub(crate) first_exec: Samples,
    pub(crate) exec: Samples,
    pub(crate) ping: Samples,
    pub(crate) teardown: Samples,
    /// MiB that no other process shares.
    pub(crate) private_memory: Samples,
}

impl Live {
    /// Measures one session from its start to its end.
    pub(crate) fn measure(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let session = Session::start(&config())?;
        self.ready.push(milliseconds(started.elapsed()));
        ensure_from_template(&session)?;

        self.first_exec.push(exec_true(&session)?);
        let processes = session.processes();
        ensure!(!processes.is_empty(), "a session without processes");
        let kib = processes.iter().map(|&pid| anonymous_kib(pid)).sum::<anyhow::Result<u32>>()?;
        self.private_memory.push(f64::from(kib) / 1024.0);

        for _ in 0..EXECS {
            self.exec.push(exec_true(&session)?);
        }
        for _ in 0..PINGS {
            let started = Instant::now();
            session.ping()?;
            self.ping.push(milliseconds(started.elapsed()));
        }
        self.teardown.push(teardown(session, &processes)?);
        Ok(())
    }
}

/// A machine that waits for commands.
pub(crate) fn config() -> Config {
    Config::default().with(|c| c.command.workload = WorkloadStrategy::Agent)
}

/// A benchmark of templates that runs without one measures something else.
pub(crate) fn ensure_from_template(session: &Session) -> anyhow::Result<()> {
    let report = session.report();
    ensure!(
        report.started_from == StartedFrom::Template,
        "the session did not start from a template: {}",
        report.notes.join("; ")
    );
    Ok(())
}

fn exec_true(session: &Session) -> anyhow::Result<f64> {
    let started = Instant::now();
    let status = session.exec(&ExecOptions::argv(["true"]))?.wait()?;
    let elapsed = started.elapsed();
    ensure!(status == ExitStatus::Code(0), "`true` in the guest ended with {status:?}");
    Ok(milliseconds(elapsed))
}

/// From asking for the end until the last process is gone.
fn teardown(session: Session, processes: &[u32]) -> anyhow::Result<f64> {
    let watched = processes.iter().map(|&pid| watch(pid)).collect::<anyhow::Result<Vec<_>>>()?;
    let started = Instant::now();
    session.stop();
    drop(session);
    for (pidfd, pid) in watched.iter().zip(processes) {
        ensure!(await_readable(pidfd, started + LIMIT)?, "process {pid} outlives its session");
    }
    let elapsed = started.elapsed();
    for pid in processes {
        ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} was not reaped");
    }
    Ok(milliseconds(elapsed))
}

fn watch(pid: u32) -> anyhow::Result<OwnedFd> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.with_context(|| format!("{pid} is not the number of a process"))?;
    rustix::process::pidfd_open(number, PidfdFlags::empty()).with_context(|| format!("watch process {pid}"))
}

/// Memory of a process that is its own: of the template's pages only those that it has changed.
fn anonymous_kib(pid: u32) -> anyhow::Result<u32> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    field_kib(&text, "RssAnon").with_context(|| format!("no RssAnon in {path}"))
}

/// The value of a `Name:   123 kB` line.
fn field_kib(text: &str, name: &str) -> Option<u32> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    lines.next()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_proc_status_is_found_by_its_whole_name() {
        let text = "RssAnonymous:\t 1 kB\nVmRSS:\t 70000 kB\nRssAnon:\t   28672 kB\n";
        assert_eq!(field_kib(text, "RssAnon"), Some(28672));
        assert_eq!(field_kib(text, "RssFile"), None);
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        assert!(anonymous_kib(std::process::id()).unwrap() > 0);
    }
}
