//! Gets of settled data: everything is in a tree.
//!
//! To be counted by callgrind too (`--cache-sim=yes` for misses), in a build of its own, for valgrind hides what
//! rustix looks for:
//!
//! ```text
//! RUSTFLAGS="--cfg rustix_use_libc" cargo build --release -p lightning_benches --target-dir target/callgrind
//! valgrind --tool=callgrind --toggle-collect='*gets::measured*' target/callgrind/release/lightning-bench \
//!     gets --entries 100000 --rounds 1 --only 'get in a snapshot'
//! ```
//!
//! What it counts is to be divided by half of the entries for each row that `--only` names.

use crate::{
    Bench,
    memory::{KEY_BYTES, config, key, value},
    report::Report,
};
use lightning_db::{Database, WriteBatch};
use std::hint::black_box;

type Key = [u8; KEY_BYTES];

/// A name, and what is measured.
type Row<'a> = (&'static str, Box<dyn Fn() + 'a>);

/// Keys of a batch of gets.
const KEYS: usize = 100;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let dir = tempfile::tempdir_in(&bench.dir).unwrap();
    let db = Database::create(dir.path().join("db"), config(64 << 20)).unwrap();
    for first in (0..bench.entries).step_by(1000) {
        let mut batch = WriteBatch::new();
        for i in first..bench.entries.min(first + 1000) {
            batch.put(key(i), value(i));
        }
        db.write(batch).unwrap();
    }
    db.compact().unwrap();
    let gets = bench.entries / 2;
    let mut random = bench.entries;
    let mut any = || {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((u128::from(random) * u128::from(bench.entries)) >> 64) as u64
    };
    let keys: Vec<Key> = (0..gets).map(|_| key(any())).collect();
    let missing: Vec<Key> = (0..gets).map(|i| key(bench.entries + i)).collect();
    let get = |key: &Key| {
        black_box(db.get(key).unwrap().unwrap());
    };
    keys.iter().for_each(get); // brings it into memory
    let chained = || {
        let mut i = 0;
        for step in 0..gets {
            let value = db.get(key(i)).unwrap().unwrap();
            let word = value.last_chunk::<8>().copied().map_or(0, u64::from_le_bytes);
            i = (i ^ word).wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)) % bench.entries;
        }
    };
    let mut rows: Vec<Row<'_>> = vec![
        ("get, settled", Box::new(|| keys.iter().for_each(get))),
        ("get, settled, key from the value before", Box::new(chained)),
        ("get in a snapshot, settled", {
            let snapshot = db.snapshot().unwrap();
            let keys = &keys;
            Box::new(move || {
                for key in keys {
                    black_box(snapshot.get(key).unwrap().unwrap());
                }
            })
        }),
    ];
    rows.push((
        "get of a missing key, settled",
        Box::new(|| missing.iter().for_each(|key| assert!(db.get(key).unwrap().is_none()))),
    ));
    rows.push((
        "get_batch of 100, settled",
        Box::new(|| {
            for keys in keys.chunks(KEYS) {
                black_box(db.get_batch(keys).unwrap());
            }
        }),
    ));
    rows.push((
        "get_batch_with of 100, settled",
        Box::new(|| {
            let mut bytes = 0;
            for keys in keys.chunks(KEYS) {
                let with = |_, value: Option<&[u8]>| bytes += sum(value.unwrap());
                db.get_batch_with(keys, with).unwrap();
            }
            black_box(bytes);
        }),
    ));
    for _ in 0..bench.rounds {
        for (name, row) in &rows {
            if name.contains(&*bench.only) {
                report.time(name, gets, || measured(row));
            }
        }
    }
}

/// What a profiler is to count.
#[inline(never)]
fn measured(row: &dyn Fn()) {
    row();
}

fn sum(value: &[u8]) -> u64 {
    let (words, _) = value.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word)).fold(0, u64::wrapping_add)
}
