//! For damage that comes behind the first read: what was found good once is not asked again, unless that is wished.

use crate::files::{Scratch, contents_of_files};
use lightning_db::{Database, Error, LightningDbConfig};
use std::fs;

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 64 << 10,
        wal_segment_size: 64 << 10,
        cache_size: 64 << 10,
        max_memory: 4 << 20,
        ..Default::default()
    }
}

#[test]
fn with_paranoia_damage_is_found_behind_the_first_read_too() {
    for enable_paranoia_checks in [false, true] {
        let scratch = Scratch::in_memory();
        let config =
            LightningDbConfig { enable_paranoia_checks, compression_enabled: false, ..config() };
        let db = Database::create(scratch.db(), config).unwrap();
        let values = [*b"found by its bytes, in a tree", *b"found by its bytes, in a file"];
        db.put("a", values[0]).unwrap();
        db.compact().unwrap();
        db.put("b", values[1]).unwrap();
        let sstables = |db: &Database| db.stats().unwrap().keyspaces[0].tables;
        while sstables(&db) == 0 {
            // Until the memtable is flushed.
            db.put("c", vec![7; 1000]).unwrap();
        }
        let read = |key| db.get(key).map(Option::unwrap);
        assert_eq!([read("a").unwrap(), read("b").unwrap()], values.map(|value| value.to_vec()));
        let files = contents_of_files(&scratch.db());
        for ((ending, key), value) in [(".tree", "a"), (".sst", "b")].into_iter().zip(values) {
            let at = |bytes: &[u8]| bytes.windows(value.len()).position(|w| w == value);
            let found = files.iter().filter(|(name, _)| name.ends_with(ending));
            let (name, at) = found.filter_map(|(n, bytes)| Some((n, at(bytes)?))).next().unwrap();
            let file = fs::OpenOptions::new().write(true).open(scratch.db().join(name)).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"X", at as u64).unwrap();
            match (enable_paranoia_checks, read(key)) {
                (true, Err(Error::Corruption(told))) => assert!(told.file.ends_with(name)),
                (false, Ok(kept)) => assert_eq!(kept, value),
                (_, other) => panic!("{ending} {enable_paranoia_checks}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_merge_gives_damage_no_checksum_of_its_own() {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), config()).unwrap();
    let value = *b"a value that is found by its bytes";
    db.put("a", value).unwrap();
    db.put("b", "1").unwrap();
    db.compact().unwrap();
    assert_eq!(db.get("a").unwrap().unwrap(), value); // verified, where it is mapped
    let files = contents_of_files(&scratch.db());
    let (name, bytes) = files.iter().find(|(name, _)| name.ends_with(".tree")).unwrap();
    let at = bytes.windows(value.len()).position(|window| window == value).unwrap();
    let file = fs::OpenOptions::new().write(true).open(scratch.db().join(name)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"X", at as u64).unwrap();
    db.put("b", "2").unwrap();
    let told = db.compact().unwrap_err();
    assert!(matches!(&told, Error::Corruption(_)) && told.to_string().contains(name), "{told}");
    db.close().unwrap();
    drop(db);
    let db = Database::open(scratch.db(), config()).unwrap();
    assert!(matches!(db.get("a"), Err(Error::Corruption(_))));
    assert_eq!(db.check_integrity().unwrap().faults.len(), 1);
}
