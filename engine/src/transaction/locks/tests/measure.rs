//! How long things take. Asserts nothing:
//! `cargo test --release -p lightning_db --lib locks::tests::measure -- --ignored --nocapture`

use super::{threads::*, *};
#[expect(clippy::disallowed_types, reason = "measures real time, in no simulation")]
use std::time::Instant;

/// The best of ten times, as others may use the machine too.
fn timed(what: &str, work: impl Fn(u64)) {
    const ROUNDS: u64 = 20_000;
    let nanos = (0..10).map(|_| {
        #[expect(clippy::disallowed_types, reason = "measures real time, in no simulation")]
        let start = Instant::now();
        (0..ROUNDS).for_each(&work);
        start.elapsed().as_nanos() as u64 / ROUNDS
    });
    println!("{what:<52} {:6} ns", nanos.min().unwrap());
}

#[test]
#[ignore = "measures, and asserts nothing"]
fn measure_locks_that_nobody_waits_for() {
    let (_, _, locks) = locks();
    let one = |id: u64, n: u64| {
        let name = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let mut key = [7; 24];
        key[..8].copy_from_slice(&name);
        let target = Target::Key(KEYSPACE, &key);
        locks.lock(owner(id), target, Exclusive, None, NEVER).unwrap();
    };
    timed("one key, locked and unlocked", |n| {
        one(n, n);
        locks.unlock_all(n);
    });
    timed("ten keys, locked and unlocked together", |n| {
        (0..10).for_each(|key| one(n, n * 10 + key));
        locks.unlock_all(n);
    });
    (0..10_000).for_each(|n| one(u64::MAX, (n + 1) << 32));
    timed("one key beside 10 000 of another owner", |n| {
        one(n, n);
        locks.unlock_all(n);
    });
    one(u64::MAX - 1, 1 << 60);
    timed("a key that is held already", |_| one(u64::MAX - 1, 1 << 60));
}
