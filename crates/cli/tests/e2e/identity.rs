//! Machines that start from one saved state are not one machine.

use std::time::{Duration, SystemTime};

use crate::machine::Vmette;

/// How far a guest's clock may be off, including the time that a busy host takes to run the command.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

#[test]
fn two_runs_share_no_name_id_or_randomness() {
    let script = "hostname; cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid";
    let outcomes = [Vmette::script(script).exits(0), Vmette::script(script).exits(0)];
    let [one, two] = outcomes.each_ref().map(|outcome| outcome.text().lines().collect::<Vec<_>>());
    assert_eq!((one.len(), two.len()), (4, 4), "{outcomes:?}");
    for (one, two) in one.iter().zip(&two) {
        assert_ne!(one, two);
    }
    assert_eq!(one[1].len(), 32, "{outcomes:?}");
}

#[test]
fn the_name_is_known_in_all_its_places() {
    let script = "test $(hostname) = $(cat /etc/hostname) && grep -c $(hostname) /etc/hosts";
    Vmette::script(script).exits(0).printed("1\n");
}

#[test]
fn the_clock_is_right() {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    for options in [&["--quiet"][..], &["--quiet", "--no-template"]] {
        let before = now();
        let args = [options, &["--", "date", "+%s"]].concat();
        let outcome = Vmette::run(args).exits(0);
        let guest = Duration::from_secs(outcome.text().parse().unwrap());
        let range = before.saturating_sub(CLOCK_TOLERANCE)..=now() + CLOCK_TOLERANCE;
        assert!(range.contains(&guest), "{guest:?} is not in {range:?}");
    }
}
