//! What the verbs leave in memory.

use super::*;

/// For a snapshot that holds, besides what it shows, whatever was merged while it was open.
#[test]
fn an_old_snapshot_keeps_one_old_tree_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let config = LightningDbConfig { memtable_size: 1 << 20, ..Default::default() };
    let db = Database::create(dir.path().join("db"), config).unwrap();
    let merge = |n: u32| {
        db.put(n.to_be_bytes(), [n as u8; 100]).unwrap();
        db.compact().unwrap();
    };
    (0..2).for_each(merge);
    let snapshot = db.snapshot().unwrap();
    (2..10).for_each(merge);
    let old_trees = || db.handle().db.old_trees();
    assert_eq!(old_trees(), 1, "the one that the snapshot reads");
    assert_eq!(snapshot.iter().unwrap().count(), 2);
    drop(snapshot);
    assert_eq!((old_trees(), db.iter().unwrap().count()), (0, 10));
}
