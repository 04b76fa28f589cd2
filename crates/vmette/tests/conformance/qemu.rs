//! The suite on real machines, from a template that the first test makes.

use crate::suite::{self, Bench};

fn bench() -> Bench {
    Bench::new(tempfile::tempdir().unwrap(), None)
}

suite::tests!(bench);
