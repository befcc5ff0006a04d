//! For an entry that counts as missing because nothing of memory leads to it: tables of hints that become larger
//! while merges leave hints in them, and that have no room for all.

use crate::{files::Scratch, random::Random};
use lightning_db::{Database, LightningDbConfig, Result};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

const ROUNDS: u64 = if cfg!(feature = "integration_tests") { 20 } else { 3 };
const KEYS: u64 = 4000;

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 64 << 10,
        wal_segment_size: 64 << 10,
        cache_size: 1 << 20,
        ..Default::default()
    }
}

/// Entries of keyspaces that are loaded, each twice as large as the one before: so long the tables grow.
fn load_others(db: &Database) -> Result<()> {
    for n in 0..6_u64 {
        let loaded = (0..1000 << n).map(|key: u64| (key.to_be_bytes(), [n as u8; 50]));
        db.keyspace(&format!("other {n}"))?.bulk_load(loaded)?;
    }
    Ok(())
}

/// Every key that may be there, one by one and together.
fn assert_has(db: &Database, entries: &BTreeMap<u64, u64>) -> Result<()> {
    let keys: Vec<_> = (0..KEYS).map(u64::to_be_bytes).collect();
    let together = db.get_batch(&keys)?;
    for (key, together) in (0..KEYS).zip(together) {
        let expected = entries.get(&key).map(|value| value.to_be_bytes().to_vec());
        assert_eq!(db.get(key.to_be_bytes())?, expected, "{key}");
        assert_eq!(together, expected, "{key}, of many");
    }
    Ok(())
}

#[test]
fn no_entry_is_denied_while_tables_of_hints_grow_and_lose_some() -> Result<()> {
    for round in 0..ROUNDS {
        let scratch = Scratch::in_memory();
        let db = Database::create(scratch.db(), config())?;
        let (mut random, mut entries, mut merges) = (Random::new(round), BTreeMap::new(), 0);
        let loaded = AtomicBool::new(false);
        thread::scope(|scope| {
            let loads = scope.spawn(|| {
                let done = load_others(&db);
                loaded.store(true, SeqCst);
                done
            });
            while !loaded.load(SeqCst) || merges < 5 {
                for _ in 0..300 {
                    // Half of the keys are never there.
                    let (key, value) = (random.below(KEYS / 2) * 2, random.next());
                    match random.below(4) {
                        0 => {
                            entries.remove(&key);
                            db.delete(key.to_be_bytes())?;
                        }
                        _ => {
                            entries.insert(key, value);
                            db.put(key.to_be_bytes(), value.to_be_bytes())?;
                        }
                    }
                }
                db.compact()?;
                merges += 1;
                assert_has(&db, &entries)?;
            }
            loads.join().expect("no panic")
        })?;
        for n in 0..6_u64 {
            let other = db.keyspace(&format!("other {n}"))?;
            for key in (0..1000 << n).step_by(7) {
                let found = other.get(u64::to_be_bytes(key))?;
                assert!(found.is_some_and(|value| *value == [n as u8; 50]), "{key} of {n}");
            }
            assert!(other.get(u64::to_be_bytes(1000 << n))?.is_none());
        }
        assert_has(&db, &entries)?;
        db.close()?;
    }
    Ok(())
}
