//! For the failures that would make the simulator worthless: the engine breaks a promise in it and
//! nobody looks, a seed does not replay, or nothing rare ever happens.

use lightning_sim::{MARKS, database::run_seed};
use std::collections::BTreeSet;

/// A hundred seeds, run twice.
const SEEDS: std::ops::Range<u64> = 0..100;

/// Rare branches that a hundred seeds must reach: about two thirds of those they do reach.
const MARKS_REACHED: usize = 30;

fn hash(seed: u64, marks: &mut BTreeSet<&'static str>) -> u64 {
    let outcome = run_seed(seed, None);
    assert!(outcome.violation.is_none(), "lightning-sim replay {seed}: {:?}", outcome.violation);
    marks.extend(outcome.marks.keys());
    outcome.trace_hash
}

#[test]
fn a_campaign_breaks_no_promise_and_runs_the_same_twice() {
    let mut marks = BTreeSet::new();
    for seed in SEEDS {
        let once = hash(seed, &mut marks);
        assert_eq!(once, hash(seed, &mut marks), "seed {seed} does not replay");
    }
    let reached = marks.len();
    assert!(reached >= MARKS_REACHED, "{reached} of {} marks: {marks:?}", MARKS.len());
}
