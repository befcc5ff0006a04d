//! For the two failures that would make the simulator worthless: the engine breaks a promise in it
//! and nobody looks, or a seed does not replay.

use lightning_sim::database::run_seed;

/// A hundred seeds, run twice.
const SEEDS: std::ops::Range<u64> = 0..100;

fn hash(seed: u64) -> u64 {
    let outcome = run_seed(seed, None);
    assert!(outcome.violation.is_none(), "lightning-sim replay {seed}: {:?}", outcome.violation);
    outcome.trace_hash
}

#[test]
fn a_campaign_breaks_no_promise_and_runs_the_same_twice() {
    for seed in SEEDS {
        assert_eq!(hash(seed), hash(seed), "seed {seed} does not replay");
    }
}
