//! Single puts into one memtable, log included, against a map that grows.

use crate::{Bench, report::Report};
use crossbeam_skiplist::SkipMap;
use lightning_db::{Database, LightningDbConfig};
use std::{collections::HashMap, sync::Arc};

pub(crate) const KEY_BYTES: usize = 24;
pub(crate) const VALUE_BYTES: usize = 150;
const ENTRIES: u64 = 300_000;

/// Keys in random order: a counter through a mixing function, so that none comes twice.
pub(crate) fn key(i: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let mut x = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in key.chunks_exact_mut(8) {
        x ^= x >> 30;
        x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 27;
        x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        part.copy_from_slice(&x.to_be_bytes());
    }
    key
}

pub(crate) fn value(i: u64) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    value[..8].copy_from_slice(&i.to_le_bytes());
    value[8..32].copy_from_slice(&key(i));
    value
}

/// The configuration of every measurement: compression off, and one memtable that holds it all.
pub(crate) fn config(memtable_size: usize) -> LightningDbConfig {
    LightningDbConfig {
        memtable_size,
        max_memory: 8 << 30,
        cache_size: 512 << 20,
        compression_enabled: false,
        ..Default::default()
    }
}

pub(crate) fn run(bench: &Bench, report: &mut Report) {
    let entries: Vec<_> = (0..ENTRIES).map(|i| (key(i), value(i))).collect();
    for _ in 0..bench.rounds {
        report.time("HashMap<Box, Box>: insert, growing", ENTRIES, || {
            let mut map: HashMap<Box<[u8]>, Box<[u8]>> = HashMap::new();
            for (key, value) in &entries {
                map.insert(key.as_slice().into(), value.as_slice().into());
            }
            std::mem::forget(std::hint::black_box(map));
        });
        report.time("crossbeam SkipMap<Box, Box>: insert", ENTRIES, || {
            let map: SkipMap<Box<[u8]>, Box<[u8]>> = SkipMap::new();
            for (key, value) in &entries {
                map.insert(key.as_slice().into(), value.as_slice().into());
            }
            std::mem::forget(std::hint::black_box(map));
        });
        let dir = tempfile::tempdir_in(&bench.dir).unwrap();
        let db = Database::create(dir.path().join("db"), config(128 << 20)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        report.time("put, Async, one thread, one memtable", ENTRIES, || {
            for (key, value) in &entries {
                db.put(key, value).unwrap();
            }
        });
        report.time("get, one thread, one memtable", ENTRIES, || {
            for (key, _) in &entries {
                std::hint::black_box(db.get(key).unwrap().unwrap());
            }
        });
        report.time("get_ref, one thread, one memtable", ENTRIES, || {
            for (key, _) in &entries {
                std::hint::black_box(db.get_ref(key).unwrap().unwrap());
            }
        });
        report.time("scan, one thread, one memtable", ENTRIES, || {
            let mut bytes = 0;
            db.for_each(.., |k, v| bytes += k.len() + v.len()).unwrap();
            assert_eq!(bytes as u64, ENTRIES * (KEY_BYTES + VALUE_BYTES) as u64);
        });
        drop(db);
        let dir = tempfile::tempdir_in(&bench.dir).unwrap();
        let db = Database::create(dir.path().join("db"), config(128 << 20)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        report.time("put, Async, two threads, one memtable", ENTRIES, || {
            in_two_threads(&db, &entries, |db, (key, value)| db.put(key, value).unwrap());
        });
    }
}

/// Runs `each` for every entry, half of them in each of two threads.
pub(crate) fn in_two_threads<E: Sync>(
    db: &Arc<Database>,
    entries: &[E],
    each: impl Fn(&Database, &E) + Sync,
) {
    std::thread::scope(|scope| {
        for half in entries.chunks(entries.len().div_ceil(2)) {
            let each = &each;
            scope.spawn(move || half.iter().for_each(|entry| each(db, entry)));
        }
    });
}
