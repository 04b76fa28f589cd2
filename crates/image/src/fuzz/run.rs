//! Running a target.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::mutate::{Shape, mutate};

/// For how many seconds each target is run, instead of its number of runs.
const SECONDS_VARIABLE: &str = "VMETTE_TEST_FUZZ_SECONDS";
/// Most inputs that are kept.
const CORPUS_MAX: usize = 1000;
/// Fewest equal bytes that are written as a number of them.
const RUN_MIN: usize = 16;
/// Longest outcome that is told apart from others.
const OUTCOME_MAX: usize = 120;

/// A target of fuzzing.
pub(super) struct Target {
    pub(super) name: &'static str,
    pub(super) runs: u64,
    pub(super) shape: Shape,
    /// Says what came of its input: a refusal, or that there was none.
    pub(super) function: fn(&[u8]) -> String,
    /// Good inputs, and former findings.
    pub(super) seeds: Vec<Vec<u8>>,
}

impl Target {
    pub(super) fn run(self) {
        let seconds = std::env::var(SECONDS_VARIABLE).ok().map(|text| {
            text.parse().unwrap_or_else(|_| panic!("{SECONDS_VARIABLE}={text:?} is no number of seconds"))
        });
        let seed = if seconds.is_some() { fastrand::u64(..) } else { 1 };
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut random = fastrand::Rng::with_seed(seed);
        let mut outcomes = HashSet::new();
        let mut corpus = self.seeds.clone();
        for input in &self.seeds {
            outcomes.insert(class(&self.try_one(input, seed)));
        }
        let mut runs = 0_u64;
        while end.map_or(runs < self.runs, |end| Instant::now() < end) {
            let input = mutate(&corpus, self.seeds.len(), self.shape, &mut random);
            if outcomes.insert(class(&self.try_one(&input, seed))) && corpus.len() < CORPUS_MAX {
                corpus.push(input);
            }
            runs += 1;
        }
        // Seeds alone would be no fuzzing: something must have come of what was made of them.
        assert!(outcomes.len() > self.seeds.len().min(4), "{}: {outcomes:?}", self.name);
        println!("{}: {runs} runs from seed {seed}, {} outcomes", self.name, outcomes.len());
    }

    fn try_one(&self, input: &[u8], seed: u64) -> String {
        catch_unwind(AssertUnwindSafe(|| (self.function)(input)))
            .unwrap_or_else(|_| panic!("target {}, seed {seed}: found {}", self.name, as_rust(input)))
    }
}

/// An expression that comes to these bytes. Archives consist of zeros for the most part.
fn as_rust(input: &[u8]) -> String {
    let mut parts = Vec::new();
    let mut plain = 0;
    let mut at = 0;
    while at < input.len() {
        let run = input[at..].iter().take_while(|byte| **byte == input[at]).count();
        if run >= RUN_MIN {
            parts.push(format!("b\"{}\"", input[plain..at].escape_ascii()));
            parts.push(format!("&[{}; {run}]", input[at]));
            plain = at + run;
        }
        at += run;
    }
    parts.push(format!("b\"{}\"", input[plain..].escape_ascii()));
    format!("[&[][..], {}].concat()", parts.join(", "))
}

/// Outcomes that differ only in what they quote or count are one.
fn class(outcome: &str) -> String {
    let mut quoted = false;
    outcome
        .chars()
        .filter(|c| {
            quoted ^= *c == '"';
            !quoted && !c.is_ascii_digit()
        })
        .take(OUTCOME_MAX)
        .collect()
}
