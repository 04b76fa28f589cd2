//! How much memory a program and what it starts need at most.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::program::Program;

/// How often it is looked at. The kernel keeps each process's peak, so that only what a process gains in its last
/// moment can be missed.
const LOOK: Duration = Duration::from_millis(1);

/// Resident memory at its highest, in MiB: anonymous pages, and the files' that are mapped.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Peaks {
    /// The program's own memory at its highest, in MiB.
    pub(crate) own: f64,
    /// The memory of the programs that it started, each at its own peak, added up, in MiB.
    pub(crate) started: f64,
}

/// Runs it to its end, which must be a success.
pub(crate) fn measure(program: &Program, limit: Duration) -> anyhow::Result<Peaks> {
    let deadline = Instant::now() + limit;
    let running = program.start_with(Stdio::null(), Stdio::null())?;
    let pid = running.pid();
    let mut own = 0;
    // The last that was seen of each: before it becomes the program that it is to be, a process is a copy of its parent.
    let mut started = BTreeMap::new();
    while !running.ends_by(Instant::now() + LOOK)? && Instant::now() < deadline {
        own = peak(pid).unwrap_or(own);
        for child in children(pid) {
            if let Some(peak) = peak(child) {
                started.insert(child, peak);
            }
        }
    }
    running.finish(deadline)?;
    ensure!(own > 0, "it ended before its memory was looked at");
    let mib = |kib: u64| u32::try_from(kib).map(|kib| f64::from(kib) / 1024.0).context("that much memory");
    Ok(Peaks { own: mib(own)?, started: mib(started.values().sum())? })
}

/// In KiB. None for a process that has ended.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The children of all of its threads that were not waited for yet.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shell(script: &str) -> anyhow::Result<Peaks> {
        measure(&Program::new(Path::new("/bin/sh"), ["-c", script]), Duration::from_secs(60))
    }

    #[test]
    fn a_program_and_what_it_starts_are_told_apart() {
        // The first holds 40 MB at once, and waits for the other, which is gone before it ends.
        let peaks = shell("x=$(head -c 40000000 /dev/zero | tr '\\0' x); sleep 0.2").unwrap();
        assert!(peaks.own > 38.0 && peaks.started < peaks.own, "{peaks:?}");
        let peaks =
            shell("sh -c \"x=\\$(head -c 40000000 /dev/zero | tr '\\\\0' x); sleep 0.2\"; true").unwrap();
        assert!(peaks.own < 20.0 && peaks.started > 38.0, "{peaks:?}");
    }

    #[test]
    fn a_failure_is_an_error() {
        assert!(shell("sleep 0.1; exit 3").unwrap_err().to_string().contains('3'));
    }
}
