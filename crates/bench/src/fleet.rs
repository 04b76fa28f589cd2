//! Many machines at once.

use std::time::Instant;

use crate::phase::Phase;
use crate::program::{LIMIT, Program};
use crate::starts::milliseconds;
use crate::stats::Samples;

/// Machines that are started at once.
pub(crate) const SIZE: usize = 16;

/// The outcome of starting them all.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// Milliseconds from the first start until the last one's end, of the rounds without a failure.
    pub(crate) all_done: Samples,
    /// Machines started, over all rounds.
    pub(crate) started: usize,
    /// The errors, one text for each machine that failed.
    pub(crate) failures: Vec<String>,
}

/// Starts `size` of `program` at once and waits for all of them.
pub(crate) fn measure(phase: Phase, program: &Program, size: usize) -> Fleet {
    let mut fleet = Fleet::default();
    for _ in phase.rounds() {
        let failed_before = fleet.failures.len();
        let started = Instant::now();
        let running: Vec<_> = (0..size).map(|_| program.start()).collect();
        for one in running {
            if let Err(error) = one.and_then(|one| one.finish(started + LIMIT)) {
                fleet.failures.push(error.to_string());
            }
        }
        let elapsed = started.elapsed();
        fleet.started += size;
        if fleet.failures.len() == failed_before {
            fleet.all_done.push(milliseconds(elapsed));
        }
    }
    fleet
}
