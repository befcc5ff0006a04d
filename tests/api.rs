//! What a caller may rely on, beside the contents: errors, limits, handles that outlive others.

use lightning_db::{Database, Durability, Error, LightningDbConfig, WriteBatch};
use std::{sync::Arc, time::Duration};

fn temp() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    (dir, path)
}

fn config() -> LightningDbConfig {
    LightningDbConfig { memtable_size: 1 << 20, ..Default::default() }
}

#[test]
fn creating_and_opening_say_what_is_wrong() {
    let (dir, path) = temp();
    assert!(matches!(Database::open(&path, config()), Err(Error::NotFound { .. })));
    let db = Database::create(&path, config()).unwrap();
    db.put("a", "1").unwrap();
    assert!(matches!(Database::open(&path, config()), Err(Error::Locked { .. })));
    assert!(matches!(Database::create(&path, config()), Err(Error::Locked { .. })));
    drop(db);
    assert!(matches!(Database::create(&path, config()), Err(Error::AlreadyExists { .. })));
    let db = Database::open(&path, config()).unwrap();
    assert_eq!(db.get("a").unwrap().unwrap(), b"1");

    let file = dir.path().join("file");
    std::fs::write(&file, "text").unwrap();
    assert!(matches!(Database::open_or_create(&file, config()), Err(Error::NotADatabase { .. })));
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("letter.txt"), "dear").unwrap();
    for result in [
        Database::open(&foreign, config()),
        Database::create(&foreign, config()),
        Database::open_or_create(&foreign, config()),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::NotADatabase { .. }), "{error}");
        assert!(error.to_string().contains("letter.txt"), "{error}");
    }
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);
}

#[test]
fn parents_are_created_and_a_bad_configuration_is_refused() {
    let (_dir, path) = temp();
    let deep = path.join("a/b/c");
    let bad = LightningDbConfig { compression_type: 9, ..config() };
    let error = Database::create(&deep, bad).unwrap_err();
    assert!(error.to_string().contains("compression_type"), "{error}");
    assert!(!path.exists());
    Database::create(&deep, config()).unwrap().put("k", "v").unwrap();
    Database::open(&deep, config()).unwrap();
}

#[test]
fn commits_that_are_compressed_in_the_log_come_back() {
    let (_dir, path) = temp();
    let config = LightningDbConfig { wal_compression: true, ..config() };
    let db = Database::create(&path, config.clone()).unwrap();
    let text =
        |n: u32| format!("line {n} of many, which are much alike\n").repeat(200).into_bytes();
    let noise = |n: u32| -> Vec<u8> {
        (n..n + 5000).flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes()).collect()
    };
    let mut expected = std::collections::BTreeMap::new();
    let before = db.stats().unwrap().log_bytes;
    for n in 0..50u32 {
        let value = [text(n), noise(n), b"short".to_vec()][n as usize % 3].clone();
        db.put(n.to_be_bytes(), &value).unwrap();
        expected.insert(n.to_be_bytes().to_vec(), value);
    }
    let (written, raw) =
        (db.stats().unwrap().log_bytes - before, expected.values().map(Vec::len).sum::<usize>());
    // Texts, which are a quarter of it, take next to nothing.
    assert!((written as usize) < raw * 8 / 10, "{written} of {raw}");
    let check = |db: &Database| {
        let entries = db.iter().unwrap().collect::<Result<std::collections::BTreeMap<_, _>, _>>();
        assert!(entries.unwrap() == expected);
    };
    check(&db);
    drop(db);
    // Twice: what is not known to be durable is copied by the first opening.
    for _ in 0..2 {
        let db = Database::open(&path, config.clone()).unwrap();
        check(&db);
    }
}

#[test]
fn limits_are_errors_and_leave_nothing_behind() {
    let (_dir, path) = temp();
    let db = Database::create(&path, config()).unwrap();
    let long = vec![7; 1025];
    assert!(matches!(db.put(&long, "v"), Err(Error::KeyTooLarge)));
    assert!(matches!(db.delete(&long), Err(Error::KeyTooLarge)));
    assert!(matches!(db.put(vec![1; 70_000], "v"), Err(Error::KeyTooLarge)));
    let huge = vec![0; (16 << 20) + 1];
    let mut batch = WriteBatch::new();
    batch.put("good", "1").put(&long, "2");
    assert!(matches!(db.write(batch), Err(Error::KeyTooLarge)));
    assert!(matches!(db.delete_range("b".."a"), Err(Error::InvertedRange)));
    assert!(matches!(db.range("b".."a"), Err(Error::InvertedRange)));
    assert_eq!(db.iter().unwrap().count(), 0);

    // What is just within the limits works: larger than a memtable, larger than a segment.
    db.put(&long[..1024], &huge[1..]).unwrap();
    db.put("", "").unwrap();
    drop(db);
    let db = Database::open(&path, config()).unwrap();
    assert_eq!(db.get(&long[..1024]).unwrap().unwrap(), &huge[1..]);
    assert_eq!(db.get("").unwrap().unwrap(), b"");
}

#[test]
fn after_close_every_handle_says_so() {
    let (_dir, path) = temp();
    let db = Database::create(&path, config()).unwrap();
    db.put("k", "v").unwrap();
    let (keyspace, snapshot) = (db.keyspace("other").unwrap(), db.snapshot().unwrap());
    let mut scan = db.iter().unwrap();
    db.close().unwrap();
    db.close().unwrap();
    assert!(matches!(db.put("k", "v"), Err(Error::Closed)));
    assert!(matches!(db.get("k"), Err(Error::Closed)));
    assert!(matches!(keyspace.get("k"), Err(Error::Closed)));
    assert!(matches!(snapshot.get("k"), Err(Error::Closed)));
    assert!(matches!(db.keyspace("third"), Err(Error::Closed)));
    assert!(matches!(db.stats(), Err(Error::Closed)));
    for _ in 0..2 {
        assert!(matches!(scan.next(), Some(Err(Error::Closed))));
    }
    // The directory is locked until the last of them is gone.
    assert!(matches!(Database::open(&path, config()), Err(Error::Locked { .. })));
    drop((db, keyspace, snapshot, scan));
    Database::open(&path, config()).unwrap();
}

#[test]
fn a_dropped_keyspace_is_gone_and_its_name_is_free() {
    let (_dir, path) = temp();
    let db = Database::create(&path, config()).unwrap();
    let old = db.keyspace("k").unwrap();
    old.put("a", "1").unwrap();
    let snapshot = old.snapshot().unwrap();
    db.drop_keyspace("k").unwrap();
    assert!(matches!(old.get("a"), Err(Error::KeyspaceNotFound { .. })));
    assert!(matches!(old.put("a", "2"), Err(Error::KeyspaceNotFound { .. })));
    assert_eq!(snapshot.get("a").unwrap().unwrap(), b"1");
    assert!(matches!(db.drop_keyspace("k"), Err(Error::KeyspaceNotFound { .. })));
    assert!(matches!(db.drop_keyspace("default"), Err(Error::InvalidArgument { .. })));
    let new = db.keyspace("k").unwrap();
    assert!(new.get("a").unwrap().is_none());
    new.put("b", "2").unwrap();
    drop((old, snapshot, new, db));
    let db = Database::open(&path, config()).unwrap();
    let new = db.keyspace("k").unwrap();
    assert!(new.get("a").unwrap().is_none());
    assert_eq!(new.get("b").unwrap().unwrap(), b"2");
}

#[test]
fn commits_of_many_threads_are_whole_and_ordered() {
    let (_dir, path) = temp();
    let config = LightningDbConfig {
        memtable_size: 64 << 10,
        wal_sync_interval: Duration::from_millis(1),
        ..config()
    };
    let db = Database::create(&path, config.clone()).unwrap();
    let threads: Vec<_> = (0..4u64)
        .map(|t| {
            let db = Arc::clone(&db);
            std::thread::spawn(move || {
                let mut last = 0;
                for i in 0..2000u64 {
                    let mut batch = WriteBatch::new();
                    let value = [t.to_le_bytes(), i.to_le_bytes()].concat();
                    batch.put(format!("x{}", i % 50), &value).put(format!("y{}", i % 50), &value);
                    let durability = match i % 100 {
                        0 => Durability::Sync,
                        _ => Durability::Default,
                    };
                    let seq = db.commit(batch, durability).unwrap().0;
                    assert!(seq > last);
                    last = seq;
                    // Both keys of a commit change together, in every snapshot.
                    let snapshot = db.snapshot().unwrap();
                    let k = i % 50;
                    let x = snapshot.get(format!("x{k}")).unwrap();
                    assert_eq!(x, snapshot.get(format!("y{k}")).unwrap());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(db.stats().unwrap().visible_seq, 4 * 2000 * 2);
    drop(db);
    let db = Database::open(&path, config).unwrap();
    for k in 0..50 {
        let x = db.get(format!("x{k}")).unwrap();
        assert!(x.is_some());
        assert_eq!(x, db.get(format!("y{k}")).unwrap());
    }
}

/// For a commit that hangs: more entries than a memtable's index holds, in few bytes.
#[test]
fn a_commit_of_many_small_operations_finds_room() {
    let (_dir, path) = temp();
    let config = LightningDbConfig { memtable_size: 8 << 10, ..config() };
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let db = Database::create(&path, config.clone()).unwrap();
        db.put("first", "").unwrap();
        for operations in [250, 500, 1000] {
            let mut batch = WriteBatch::new();
            (0..operations as u32).fold(&mut batch, |b, i| b.put(i.to_be_bytes(), ""));
            db.write(batch).unwrap();
            assert_eq!(db.iter().unwrap().count(), operations + 1);
        }
        drop(db);
        let db = Database::open(&path, config).unwrap();
        assert_eq!(db.iter().unwrap().count(), 1001);
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(60)).expect("a commit hangs, or failed");
}

#[test]
fn an_interval_may_be_for_ever() {
    let (_dir, path) = temp();
    let config = LightningDbConfig { wal_sync_interval: Duration::MAX, ..config() };
    let db = Database::create(&path, config).unwrap();
    db.put("key", "value").unwrap();
    std::thread::sleep(Duration::from_millis(100)); // the thread that syncs waits by now
    db.put("key", "value").unwrap();
    db.close().unwrap();
}
