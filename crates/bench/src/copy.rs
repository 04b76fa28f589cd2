//! Bytes through a machine: into the command's stdin, out of its stdout, and compared on the way.

use std::io::{ErrorKind, Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::phase::Phase;
use crate::program::{Program, Running};
use crate::stats::Samples;

/// Bytes that are written at once, over and over.
const BLOCK: usize = 1 << 20;

/// A copy that is slower than this is broken.
const LIMIT: Duration = Duration::from_secs(240);

/// Copies `mib` MiB through `program`, which copies its stdin to its stdout; MiB a second, its start included.
pub(crate) fn measure(phase: Phase, program: &Program, mib: usize) -> anyhow::Result<Samples> {
    let block = block();
    let mut samples = Samples::default();
    for _ in phase.rounds() {
        let started = Instant::now();
        let mut running = program.start_with(Stdio::piped(), Stdio::piped())?;
        let mut stdin = running.take_stdin()?;
        thread::scope(|scope| {
            let block = &block;
            scope.spawn(move || {
                for _ in 0..mib {
                    // A program that has ended is reported by what it did not print.
                    if stdin.write_all(block).is_err() {
                        break;
                    }
                }
            });
            let compared = compare(&mut running, block, mib, started + LIMIT);
            if compared.is_err() {
                // The writer waits for a reader that may be stuck.
                running.kill();
            }
            compared
        })?;
        running.finish(started + LIMIT)?;
        samples.push(mib_of(mib * BLOCK) / started.elapsed().as_secs_f64());
    }
    Ok(samples)
}

/// Reads what was written, and nothing else.
fn compare(running: &mut Running, block: &[u8], mib: usize, deadline: Instant) -> anyhow::Result<()> {
    let mut stdout = running.take_stdout()?;
    let mut buffer = vec![0; BLOCK];
    let mut total = 0;
    loop {
        running.await_readable(&stdout, deadline)?;
        let n = match stdout.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("read what was copied"),
        };
        let (offset, read) = (total % BLOCK, &buffer[..n]);
        let (head, tail) = read.split_at(n.min(BLOCK - offset));
        if head != &block[offset..offset + head.len()] || tail != &block[..tail.len()] {
            bail!("bytes changed on their way, near byte {total}");
        }
        total += n;
    }
    ensure!(total == mib * BLOCK, "{total} bytes of {} came back", mib * BLOCK);
    Ok(())
}

/// Bytes that do not repeat within a block, so that a lost or repeated piece shows.
fn block() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(BLOCK);
    while bytes.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Whole MiB; a benchmark copies no fractions.
fn mib_of(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes / BLOCK).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::Plan;
    use std::path::Path;

    fn through(script: &str) -> anyhow::Result<Samples> {
        measure(Plan::QUICK.copy, &Program::new(Path::new("/bin/sh"), ["-c", script]), 3)
    }

    #[test]
    fn a_true_copy_has_a_rate() {
        assert!(through("cat").unwrap().summary().unwrap().median > 0.0);
    }

    #[test]
    fn missing_and_changed_bytes_are_errors() {
        let error = through("head -c 1000000").unwrap_err().to_string();
        assert!(error.contains("1000000 bytes of 3145728"), "{error}");
        let error = through("cat >/dev/null; head -c 3145728 /dev/zero").unwrap_err().to_string();
        assert!(error.contains("changed"), "{error}");
    }
}
