//! Scans over settled data.
//!
//! On a shared machine instructions are steadier than times. Each row is a function of its own, and stands
//! under its own name in what callgrind says of one round:
//!
//! ```text
//! cargo build --release -p lightning_benches
//! valgrind --tool=callgrind --callgrind-out-file=scans.out target/release/lightning-bench scans --rounds 1
//! callgrind_annotate --inclusive=yes --threshold=100 scans.out | grep 'rs:.*::scans::'
//! ```
//!
//! The full scans come to [`ENTRIES`] entries, each row of short scans to [`OPENED`] scans.

use crate::{
    Bench,
    memory::{config, key, value},
    report::Report,
};
use lightning_db::Database;
use std::hint::black_box;

const ENTRIES: u64 = 100_000;
/// Short scans of a row.
const OPENED: u64 = 2_000;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let dir = tempfile::tempdir_in(&bench.dir).unwrap();
    let db = Database::create(dir.path().join("db"), config(64 << 20)).unwrap();
    for i in 0..ENTRIES {
        db.put(key(i), value(i)).unwrap();
    }
    db.compact().unwrap();
    // The first scan verifies the nodes.
    assert!(db.iter().unwrap().all(|entry| entry.is_ok()));
    for _ in 0..bench.rounds {
        report.time("settled: full scan, 100,000", ENTRIES, || forward(&db));
        report.time("settled: full scan in reverse", ENTRIES, || reverse(&db));
        report.time("settled: full scan, owned", ENTRIES, || owned(&db));
        report.time("settled: opened scan, nothing read", OPENED, || opened(&db));
        report.time("settled: scan of 10", OPENED, || tens(&db));
        report.time("settled: scan of 100", OPENED, || hundreds(&db));
        report.time("settled: scan of 10 in reverse", OPENED, || reverse_tens(&db));
    }
}

#[inline(never)]
fn forward(db: &Database) {
    let mut count = 0;
    db.for_each(.., |key, value| {
        black_box((key, value));
        count += 1;
    })
    .unwrap();
    assert_eq!(count, ENTRIES);
}

#[inline(never)]
fn reverse(db: &Database) {
    let (mut count, mut scan) = (0, db.range(..).unwrap());
    while let Some(entry) = scan.next_back_ref().unwrap() {
        black_box(entry);
        count += 1;
    }
    assert_eq!(count, ENTRIES);
}

#[inline(never)]
fn owned(db: &Database) {
    assert_eq!(db.iter().unwrap().map(black_box).count() as u64, ENTRIES);
}

#[inline(never)]
fn opened(db: &Database) {
    for i in 0..OPENED {
        black_box(db.range(key(i)..).unwrap());
    }
}

#[inline(never)]
fn tens(db: &Database) {
    (0..OPENED).for_each(|i| some(db, i, 10));
}

#[inline(never)]
fn hundreds(db: &Database) {
    (0..OPENED).for_each(|i| some(db, i, 100));
}

fn some(db: &Database, i: u64, count: usize) {
    let mut scan = db.range(key(i)..).unwrap();
    for _ in 0..count {
        let Some(entry) = scan.next_ref().unwrap() else { break };
        black_box(entry);
    }
}

#[inline(never)]
fn reverse_tens(db: &Database) {
    for i in 0..OPENED {
        let mut scan = db.range(..=key(i)).unwrap();
        for _ in 0..10 {
            let Some(entry) = scan.next_back_ref().unwrap() else { break };
            black_box(entry);
        }
    }
}
