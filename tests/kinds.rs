//! How what is written comes into the tree is a matter of its keyspace: nothing else differs.

use lightning_db::{Database, Error, KeyspaceOptions, LightningDbConfig, Result, StorageKind};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Long enough for any machine.
const NEVER: Duration = Duration::from_secs(60);

fn config() -> LightningDbConfig {
    LightningDbConfig { memtable_size: 64 << 10, wal_segment_size: 1 << 20, ..Default::default() }
}

fn options(kind: StorageKind) -> KeyspaceOptions {
    KeyspaceOptions { storage_kind: Some(kind), ..Default::default() }
}

fn key(number: u64) -> Vec<u8> {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec()
}

/// Waits until the statistics are as they should be.
fn wait_until(db: &Database, done: impl Fn(&lightning_db::DatabaseStats) -> bool) -> Result<()> {
    let began = Instant::now();
    loop {
        let stats = db.stats()?;
        if done(&stats) {
            return Ok(());
        }
        assert!(began.elapsed() < NEVER, "{stats:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn check(db: &Database, name: &str, expected: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
    let keyspace = db.keyspace(name)?;
    let entries: BTreeMap<_, _> = keyspace.iter()?.collect::<Result<_>>()?;
    assert!(entries == *expected, "{} entries of {}", entries.len(), expected.len());
    for (key, value) in expected {
        assert_eq!(keyspace.get(key)?.as_ref(), Some(value));
    }
    Ok(())
}

#[test]
fn both_kinds_hold_the_same_and_one_has_no_sstables() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Database::create(&path, config())?;
    let tree = db.keyspace_with("tree", options(StorageKind::BTree))?;
    let hybrid = db.keyspace_with("hybrid", options(StorageKind::Hybrid))?;
    let both = [&tree, &hybrid];
    let mut expected = BTreeMap::new();
    for round in 0..6u64 {
        for number in 0..1000 {
            let (key, value) = (key(number * (round + 1)), vec![round as u8; 100]);
            both.iter().try_for_each(|keyspace| keyspace.put(&key, &value))?;
            expected.insert(key, value);
        }
        // Range deletes and deletes, older and newer than what is in the tree.
        let (start, end) = (vec![round as u8 * 40], vec![round as u8 * 40 + 20]);
        both.iter().try_for_each(|keyspace| keyspace.delete_range(&start[..]..&end[..]))?;
        expected.retain(|key, _| *key < start || *key >= end);
        let gone: Vec<_> = expected.keys().step_by(7).cloned().collect();
        both.iter().try_for_each(|keyspace| keyspace.delete_batch(&gone))?;
        gone.iter().for_each(|key| _ = expected.remove(key));
    }
    wait_until(&db, |stats| stats.sealed_memtables == 0 && stats.flushes > 5)?;
    let stats = db.stats()?;
    let of = |name| stats.keyspaces.iter().find(|keyspace| keyspace.name == name).unwrap();
    assert_eq!((of("tree").tables, of("tree").storage_kind), (0, StorageKind::BTree));
    assert!(of("tree").tree_depth > 0 && of("hybrid").tables > 0, "{stats:?}");
    assert_eq!(of("hybrid").storage_kind, StorageKind::Hybrid);
    check(&db, "tree", &expected)?;
    check(&db, "hybrid", &expected)?;
    drop((tree, hybrid, db));
    let db = Database::open(&path, config())?;
    assert_eq!(db.keyspace("tree")?.storage_kind()?, StorageKind::BTree);
    check(&db, "tree", &expected)?;
    check(&db, "hybrid", &expected)?;
    assert!(db.check_integrity()?.faults.is_empty());
    Ok(())
}

#[test]
fn a_keyspace_is_converted_in_place_while_it_is_read() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Database::create(&path, config())?;
    let users = db.keyspace("users")?;
    let mut expected = BTreeMap::new();
    for number in 0..3000 {
        users.put(key(number), [1; 100])?;
        expected.insert(key(number), vec![1; 100]);
    }
    let of = |stats: &lightning_db::DatabaseStats| stats.keyspaces[1].clone();
    wait_until(&db, |stats| of(stats).tables > 1 && stats.sealed_memtables == 0)?;
    let snapshot = users.snapshot()?;
    users.set_storage_kind(StorageKind::BTree)?;
    users.put("later", "than the snapshot")?;
    wait_until(&db, |stats| of(stats).tables == 0)?;
    assert_eq!(of(&db.stats()?).storage_kind, StorageKind::BTree);
    let seen: BTreeMap<_, _> = snapshot.iter()?.collect::<Result<_>>()?;
    assert!(seen == expected);
    expected.insert(b"later".to_vec(), b"than the snapshot".to_vec());
    check(&db, "users", &expected)?;
    // And back: nothing is to be done, and what comes is flushed.
    users.set_storage_kind(StorageKind::Hybrid)?;
    for number in 3000..5000 {
        users.put(key(number), [2; 100])?;
        expected.insert(key(number), vec![2; 100]);
    }
    wait_until(&db, |stats| of(stats).tables > 0)?;
    drop((snapshot, users, db));
    let db = Database::open(&path, config())?;
    assert_eq!(db.keyspace("users")?.storage_kind()?, StorageKind::Hybrid);
    check(&db, "users", &expected)
}

#[test]
fn the_configuration_says_what_new_keyspaces_are() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let config = LightningDbConfig { storage_kind: StorageKind::BTree, ..config() };
    let db = Database::create(&path, config)?;
    assert_eq!(db.keyspace("default")?.storage_kind()?, StorageKind::BTree);
    let (tree, hybrid) =
        (db.keyspace("tree")?, db.keyspace_with("hybrid", options(StorageKind::Hybrid))?);
    assert_eq!(tree.storage_kind()?, StorageKind::BTree);
    assert_eq!(hybrid.storage_kind()?, StorageKind::Hybrid);
    db.drop_keyspace("tree")?;
    assert!(matches!(tree.storage_kind(), Err(Error::KeyspaceNotFound { .. })));
    let refused = tree.set_storage_kind(StorageKind::Hybrid);
    assert!(matches!(refused, Err(Error::KeyspaceNotFound { .. })));
    db.close()?;
    assert!(matches!(hybrid.set_storage_kind(StorageKind::BTree), Err(Error::Closed)));
    drop((tree, hybrid, db));
    // What exists keeps its kind, whatever the configuration says.
    let db = Database::open(&path, self::config())?;
    assert_eq!(db.keyspace("default")?.storage_kind()?, StorageKind::BTree);
    assert_eq!(db.keyspace("hybrid")?.storage_kind()?, StorageKind::Hybrid);
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "integration_tests"), ignore = "waits for the background")]
fn a_few_sstables_are_merged_when_they_are_read_again_and_again() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::create(dir.path().join("db"), config())?;
    for number in 0..1000 {
        db.put(key(number), [1; 100])?;
    }
    wait_until(&db, |stats| stats.keyspaces[0].tables > 0 && stats.sealed_memtables == 0)?;
    let tables = db.stats()?.keyspaces[0].tables;
    assert!(tables < 8, "{tables}");
    let began = Instant::now();
    while db.stats()?.compactions == 0 {
        for number in 0..1000 {
            assert_eq!(db.get(key(number))?.as_deref(), Some(&[1; 100][..]));
        }
        assert!(began.elapsed() < NEVER, "{:?}", db.stats()?);
    }
    assert_eq!(db.stats()?.keyspaces[0].tables, 0);
    Ok(())
}
