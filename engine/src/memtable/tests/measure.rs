//! How long things take. Asserts nothing:
//! `cargo test --release -p lightning_db --lib memtable::tests::measure -- --ignored --nocapture`

use super::*;
use std::hint::black_box;
#[expect(
    clippy::disallowed_types,
    reason = "measures real time, in no simulation"
)]
use std::time::Instant;

const ENTRIES: usize = 300_000;
const KEY_BYTES: usize = 24;
const VALUE_BYTES: usize = 150;

fn timed(what: &str, entries: usize, work: impl FnOnce()) {
    #[expect(
        clippy::disallowed_types,
        reason = "measures real time, in no simulation"
    )]
    let start = Instant::now();
    work();
    let each = start.elapsed().as_nanos() as f64 / entries as f64;
    println!("{what:<44} {each:8.1} ns each");
}

fn fill(memtable: &Memtable, keys: &[[u8; KEY_BYTES]], first: u64) {
    let bytes = Memtable::entry_bytes(KEY_BYTES, VALUE_BYTES);
    for (key, seq) in keys.iter().zip(first..) {
        let hash = Memtable::hash(KeyspaceId(0), key);
        memtable.prefetch(hash);
        let mut r = memtable.reserve(1, bytes).unwrap();
        let value = [seq as u8; VALUE_BYTES];
        memtable.insert(
            &mut r,
            KeyspaceId(0),
            hash,
            key,
            SeqNo(seq),
            Kind::Put,
            &value,
        );
    }
}

fn look_up(memtable: &Memtable, keys: impl Iterator<Item = [u8; KEY_BYTES]>) {
    for key in keys {
        let hash = Memtable::hash(KeyspaceId(0), &key);
        black_box(memtable.get(KeyspaceId(0), hash, &key, SeqNo::MAX));
    }
}

/// Each lookup's key depends on what the last one found.
fn look_up_dependent(memtable: &Memtable, keys: &[[u8; KEY_BYTES]]) {
    let mut at = 0;
    for _ in 0..keys.len() {
        let key = &keys[at];
        let hash = Memtable::hash(KeyspaceId(0), key);
        let found = memtable.get(KeyspaceId(0), hash, key, SeqNo::MAX);
        // Always 0, but nobody knows before the value is there.
        let zero = found.map_or(0, |(_, _, value)| usize::from(value[0] ^ value[1]));
        at = (at + 7919 + zero) % keys.len();
    }
    black_box(at);
}

#[test]
#[ignore = "measures"]
fn insert_get_sort_scan() {
    let mut random = Random(1);
    let keys: Vec<[u8; KEY_BYTES]> = (0..ENTRIES)
        .map(|_| {
            let mut key = [0; KEY_BYTES];
            key.chunks_mut(8)
                .for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()));
            key
        })
        .collect();
    for round in 0..3 {
        println!("round {round}");
        let memtable = Arc::new(Memtable::new(128 << 20, SeqNo(1)).unwrap());
        timed("populate 128 MiB, per KiB", 128 << 10, || {
            memtable.populate(usize::MAX)
        });
        timed("insert", ENTRIES, || fill(&memtable, &keys, 1));
        timed("get, in insertion order", ENTRIES, || {
            look_up(&memtable, keys.iter().copied())
        });
        let mut shuffled = keys.clone();
        (1..ENTRIES).for_each(|i| shuffled.swap(i, random.below(i + 1)));
        timed("get, shuffled", ENTRIES, || {
            look_up(&memtable, shuffled.iter().copied())
        });
        timed("get, each depends on the last", ENTRIES, || {
            look_up_dependent(&memtable, &shuffled);
        });
        let mut missing = shuffled.clone();
        missing.iter_mut().for_each(|key| key[3] ^= 1);
        timed("get, missing", ENTRIES, || {
            look_up(&memtable, missing.iter().copied())
        });
        timed("first cursor: sort all chunks", ENTRIES, || {
            drop(memtable.cursor(KeyspaceId(0), SeqNo::MAX));
        });
        let scan = |what| {
            timed(what, ENTRIES, || {
                let mut cursor = memtable.cursor(KeyspaceId(0), SeqNo::MAX);
                cursor.seek_first().unwrap();
                while let Some(entry) = cursor.entry() {
                    black_box(entry);
                    cursor.next().unwrap();
                }
            });
        };
        let seeks = |what| {
            timed(what, 20_000, || {
                for key in &shuffled[..20_000] {
                    let mut cursor = memtable.cursor(KeyspaceId(0), SeqNo::MAX);
                    cursor.seek(key).unwrap();
                    black_box(cursor.entry());
                }
            });
        };
        scan("scan all of 74 chunks");
        seeks("cursor and seek in 74 chunks");
        timed("merge by doubling", ENTRIES, || {
            while memtable.sort_chunks() {}
        });
        scan("scan all, merged");
        seeks("cursor and seek, merged");
        timed("put, then cursor and seek", 20_000, || {
            for (i, key) in shuffled[..20_000].iter().enumerate() {
                fill(&memtable, &[*key], (ENTRIES + i + 1) as u64);
                let mut cursor = memtable.cursor(KeyspaceId(0), SeqNo::MAX);
                cursor.seek(key).unwrap();
                black_box(cursor.entry());
            }
        });
        timed("update", ENTRIES - 20_000, || {
            fill(&memtable, &shuffled[20_000..], (ENTRIES + 20_001) as u64);
        });
    }
}
