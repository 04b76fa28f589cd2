//! How often something is measured: as often as it should be, unless it takes too long.

use std::time::{Duration, Instant};

/// A part of the benchmark, bounded in repetitions and in time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    /// Rounds on a machine that is fast enough.
    pub(crate) most: usize,
    /// Rounds in any case.
    pub(crate) least: usize,
    /// No further round begins after that, once the least number was made.
    pub(crate) budget: Duration,
}

impl Phase {
    const fn new(least: usize, most: usize, seconds: u64) -> Self {
        Self { most, least, budget: Duration::from_secs(seconds) }
    }

    /// Counts the rounds; the time starts with the first one.
    pub(crate) fn rounds(self) -> impl Iterator<Item = usize> {
        let mut started = None;
        (0..self.most).take_while(move |&round| {
            let started = *started.get_or_insert_with(Instant::now);
            round < self.least || started.elapsed() < self.budget
        })
    }
}

/// The whole benchmark's phases. The budgets add up to six minutes and a half.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Starts that take a fraction of a second, and what happens in a live session.
    pub(crate) short: Phase,
    /// Boots that take seconds.
    pub(crate) cold: Phase,
    /// Many machines at once.
    pub(crate) fleet: Phase,
    /// Bytes through stdin and stdout.
    pub(crate) copy: Phase,
    /// Bytes through a share.
    pub(crate) share: Phase,
    /// How much is copied through stdin and stdout, in MiB.
    pub(crate) copy_mib: usize,
    /// Listing many images.
    pub(crate) listing: Phase,
    /// Pulling the Debian image.
    pub(crate) pull: Phase,
    /// Pulling the large image.
    pub(crate) large: Phase,
    /// Includes a Debian image, which takes a minute to make.
    pub(crate) debian: bool,
    /// How large the large image is, in MiB.
    pub(crate) large_mib: usize,
}

impl Plan {
    /// The phase that `docs/BENCHMARKS.md` is made of.
    pub(crate) const FULL: Self = Self {
        short: Phase::new(11, 21, 75),
        cold: Phase::new(5, 11, 105),
        fleet: Phase::new(1, 5, 25),
        copy: Phase::new(1, 3, 45),
        share: Phase::new(1, 5, 30),
        copy_mib: 1024,
        listing: Phase::new(5, 21, 5),
        pull: Phase::new(5, 9, 40),
        large: Phase::new(1, 3, 40),
        debian: true,
        large_mib: 1024,
    };

    /// A first impression, for whoever has changed something.
    pub(crate) const QUICK: Self = Self {
        short: Phase::new(3, 5, 10),
        cold: Phase::new(1, 2, 10),
        fleet: Phase::new(1, 1, 1),
        copy: Phase::new(1, 1, 1),
        share: Phase::new(1, 1, 1),
        copy_mib: 128,
        listing: Phase::new(3, 5, 1),
        pull: Phase::new(1, 1, 1),
        large: Phase::new(1, 1, 1),
        debian: false,
        large_mib: 64,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_phase_makes_all_its_rounds() {
        assert_eq!(Phase::new(1, 4, 3600).rounds().count(), 4);
    }

    #[test]
    fn a_slow_phase_still_makes_the_least() {
        assert_eq!(Phase::new(3, 100, 0).rounds().count(), 3);
    }

    #[test]
    fn the_full_plan_fits_into_its_time_and_repeats_the_short_ones() {
        let Plan { short, cold, fleet, copy, share, listing, pull, large, .. } = Plan::FULL;
        let phases = [short, cold, fleet, copy, share, listing, pull, large];
        let seconds: u64 = phases.iter().map(|phase| phase.budget.as_secs()).sum();
        assert!(seconds <= 390, "{seconds} s leave no room for the last rounds");
        assert!(short.least >= 11);
    }
}
