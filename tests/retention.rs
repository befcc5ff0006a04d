//! For the failure of old moments: they are kept for ever and fill the memory, or end and show something else.

use crate::files::Scratch;
use lightning_db::{Database, Error, IsolationLevel, LightningDbConfig};
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// Waits for what the background does soon.
#[track_caller]
fn soon(mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never happens");
        thread::sleep(Duration::from_millis(5));
    }
}

fn too_old<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    match result {
        Err(Error::SnapshotTooOld) => true,
        Err(other) => panic!("{other}"),
        Ok(_) => false,
    }
}

#[test]
fn a_snapshot_ends_when_it_is_older_than_what_is_kept() {
    let scratch = Scratch::new();
    let config = LightningDbConfig {
        version_retention: Duration::from_millis(300),
        ..LightningDbConfig::default()
    };
    let db = Database::create(scratch.path(), config).unwrap();
    (0..1000_u32).for_each(|n| db.put(n.to_be_bytes(), "old").unwrap());
    let snapshot = db.snapshot().unwrap();
    let (clone, mut scan) = (snapshot.clone(), snapshot.iter().unwrap());
    let value = snapshot.get_ref(1_u32.to_be_bytes()).unwrap().unwrap();
    assert_eq!(scan.next().unwrap().unwrap().1, b"old");
    db.delete_range(..).unwrap();
    soon(|| too_old(snapshot.get(2_u32.to_be_bytes())));
    assert!(too_old(clone.contains_key("other")));
    assert!(too_old(snapshot.iter()) && too_old(snapshot.get_batch(&["key"])));
    assert!(too_old(snapshot.get_ref("key")) && too_old(snapshot.get_reader("key").map(drop)));
    // What a scan has at hand it may give out; then it ends, and stays ended.
    let last = scan.by_ref().find_map(Result::err);
    assert!(matches!(last, None | Some(Error::SnapshotTooOld)), "{last:?}");
    assert_eq!(&*value, b"old", "what was given out stays");
    assert_eq!(db.stats().unwrap().snapshots_ended, 1);
    assert_eq!(db.stats().unwrap().oldest_snapshot_age, None);
    // A younger one reads on.
    assert_eq!(db.snapshot().unwrap().iter().unwrap().count(), 0);
    // Transactions are no exception.
    let tx = db.transaction().timeout(Duration::MAX).begin().unwrap();
    soon(|| matches!(tx.get("key"), Err(Error::TransactionTimeout)));
    drop((value, scan, snapshot, clone, tx));
    soon(|| db.stats().unwrap().pinned_versions == 0);
}

fn small() -> LightningDbConfig {
    LightningDbConfig { memtable_size: 256 << 10, max_memory: 1 << 20, ..Default::default() }
}

/// Fills some memtables.
fn write(db: &Database, round: u32) {
    for n in 0..2000_u32 {
        db.put(n.to_be_bytes(), [round as u8; 400]).unwrap();
    }
}

#[test]
fn snapshots_do_not_fill_the_memory() {
    let scratch = Scratch::new();
    let db = Database::create(scratch.path(), small()).unwrap();
    let mut snapshots = vec![];
    for round in 0..30 {
        write(&db, round);
        snapshots.push((round as u8, db.snapshot().unwrap()));
    }
    db.compact().unwrap();
    soon(|| {
        let stats = db.stats().unwrap();
        stats.snapshots_ended > 0 && stats.memtable_bytes <= 3 << 20
    });
    // The oldest went first, and the others show what they showed.
    let mut ended = true;
    for (round, snapshot) in &snapshots {
        let found = snapshot.get(7_u32.to_be_bytes());
        assert!(ended || found.is_ok(), "a younger one ended before an older one");
        ended = found.is_err();
        match found {
            Ok(value) => assert_eq!(value.as_deref(), Some(&[*round; 400][..])),
            Err(error) => assert!(matches!(error, Error::SnapshotTooOld), "{error}"),
        }
    }
    assert!(!ended, "the youngest holds nothing that is not needed anyway");
    drop(snapshots);
    soon(|| db.stats().unwrap().pinned_versions == 0);
}

/// What a transaction holds is memory, too; one that holds nothing is left alone.
#[test]
fn transactions_do_not_fill_the_memory() {
    let scratch = Scratch::new();
    let db = Database::create(scratch.path(), small()).unwrap();
    let newest = db.transaction().isolation(IsolationLevel::ReadCommitted).begin().unwrap();
    let mut open = vec![];
    for round in 0..30 {
        write(&db, round);
        open.push(db.transaction().read_only().begin().unwrap());
    }
    db.compact().unwrap();
    soon(|| open[0].get("key").is_err());
    assert!(too_old(open[0].get("key")));
    open.pop().unwrap().get("key").unwrap();
    newest.put("key", "1").unwrap();
    newest.commit().unwrap();
}

/// Snapshots end while others read from them.
#[test]
fn who_reads_a_snapshot_that_ends_reads_it_or_is_told() {
    let scratch = Scratch::new();
    let config = LightningDbConfig { version_retention: Duration::from_millis(3), ..small() };
    let db: Arc<Database> = Database::create(scratch.path(), config).unwrap();
    write(&db, 0);
    let begun = Instant::now();
    let mut ended = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let snapshot = db.snapshot().unwrap();
        let Ok(Some(first)) = snapshot.get(7_u32.to_be_bytes()) else { continue };
        thread::scope(|scope| {
            let reader = || {
                let mut seen = 0;
                while let Ok(value) = snapshot.get(7_u32.to_be_bytes()) {
                    assert_eq!(value.as_ref(), Some(&first), "a snapshot changed");
                    seen += 1;
                }
                assert!(too_old(snapshot.get(7_u32.to_be_bytes())), "after {seen} reads");
            };
            let readers = [scope.spawn(reader), scope.spawn(reader)];
            for n in 0..200_u32 {
                db.put(7_u32.to_be_bytes(), [n as u8; 400]).unwrap();
            }
            db.checkpoint().unwrap();
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
        ended += 1;
    }
    assert!(ended > 0);
}
