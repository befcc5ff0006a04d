//! A million entries through flushes into sstables, and back.

use crate::{
    Bench,
    memory::{config, in_two_threads, key, value},
    report::Report,
};
use lightning_db::Database;

const ENTRIES: u64 = 1_000_000;

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let entries: Vec<_> = (0..ENTRIES).map(|i| (key(i), value(i))).collect();
    // Read in another order than written.
    let mut order: Vec<u64> = (0..ENTRIES).collect();
    order.sort_unstable_by_key(|i| i.wrapping_mul(0xd6e8_feb8_6659_fd93));
    for _ in 0..bench.rounds {
        let dir = tempfile::tempdir_in(&bench.dir).unwrap();
        let path = dir.path().join("db");
        let db = Database::create(&path, config(64 << 20)).unwrap();
        report.time("put, Async, one thread, 1 M", ENTRIES, || {
            for (key, value) in &entries {
                db.put(key, value).unwrap();
            }
        });
        db.close().unwrap();
        drop(db);
        let dir2 = tempfile::tempdir_in(&bench.dir).unwrap();
        let db2 = Database::create(dir2.path().join("db"), config(64 << 20)).unwrap();
        report.time("put, Async, two threads, 1 M", ENTRIES, || {
            in_two_threads(&db2, &entries, |db, (key, value)| db.put(key, value).unwrap());
        });
        drop(db2);
        let db = report.time("open, 1 M (whole, not per entry)", 1, || {
            Database::open(&path, config(64 << 20)).unwrap()
        });
        let get = |db: &Database, i: &u64| {
            std::hint::black_box(db.get(entries[*i as usize].0).unwrap().unwrap());
        };
        order.iter().for_each(|i| get(&db, i)); // warms the cache
        report.time("get, one thread, 1 M, cached", ENTRIES, || {
            order.iter().for_each(|i| get(&db, i));
        });
        report.time("get, two threads, 1 M, cached", ENTRIES, || {
            in_two_threads(&db, &order, get);
        });
        report.time("get of a missing key, 1 M", ENTRIES, || {
            for i in 0..ENTRIES {
                assert!(!db.contains_key(key(ENTRIES + i)).unwrap());
            }
        });
        report.time("scan, one thread, 1 M", ENTRIES, || {
            let mut count = 0;
            db.for_each(.., |_, _| count += 1).unwrap();
            assert_eq!(count, ENTRIES);
        });
    }
}
