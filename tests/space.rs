//! Space comes back: what was deleted takes none for long, whether somebody asks for it or not.

use crate::outside::{Outside, under};
use lightning_db::{Database, Error, LightningDbConfig, Result, WalSyncMode, env::OsEnv};
use lightning_faults::Call;
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

const ENTRIES: u64 = 40_000;
const LIVE_EVERY: u64 = 10;
const VALUE: [u8; 150] = [7; 150];
/// Long enough for any machine.
const NEVER: Duration = Duration::from_secs(60);

fn config() -> LightningDbConfig {
    LightningDbConfig { memtable_size: 1 << 20, wal_segment_size: 1 << 20, ..Default::default() }
}

fn key(number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Puts many entries, has them settled, and deletes nine of ten.
fn fill_and_empty(db: &Database) -> Result<()> {
    for number in 0..ENTRIES {
        db.put(key(number), VALUE)?;
    }
    db.compact()?;
    (0..ENTRIES).filter(|n| n % LIVE_EVERY != 0).try_for_each(|number| db.delete(key(number)))
}

/// Length of the file of the trees.
fn tree_len(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut trees = files.filter(|file| file.file_name().to_string_lossy().ends_with(".tree"));
    trees.next().map_or(0, |file| file.metadata().unwrap().len())
}

#[test]
fn the_file_of_the_trees_becomes_shorter_and_grows_again() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Database::create(&path, config())?;
    // What comes first stays, and lies in front.
    let stays = |db: &Database| (0..1000).try_for_each(|n| db.put(key(n), VALUE));
    stays(&db)?;
    db.compact()?;
    let mut db = db;
    for round in 1..4u64 {
        let other = db.keyspace("other")?;
        (0..ENTRIES / 4).try_for_each(|n| other.put(key(n), [round as u8; 150]))?;
        db.compact()?;
        let (long, snapshot) = (tree_len(&path), db.snapshot()?.of(&other));
        assert!(long > 1 << 20, "{long}");
        other.delete_range(..)?;
        db.compact()?;
        // Somebody still looks at what was deleted.
        for n in 0..ENTRIES / 4 {
            assert_eq!(snapshot.get(key(n))?.unwrap(), [round as u8; 150]);
        }
        assert_eq!(tree_len(&path), long);
        drop(snapshot);
        db.compact()?;
        let short = tree_len(&path);
        assert!(short < 600 << 10, "{short} of {long}");
        for n in 0..1000 {
            assert_eq!(db.get(key(n))?.as_deref(), Some(&VALUE[..]));
        }
        assert!(db.check_integrity()?.faults.is_empty());
        if round == 2 {
            drop((other, db));
            db = Database::open(&path, config())?;
            assert_eq!(db.iter()?.count(), 1000);
        }
    }
    Ok(())
}

/// Bytes of the disk that the files take whose names end like this.
fn taken(dir: &Path, ending: &str) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = files.filter(|file| file.file_name().to_string_lossy().ends_with(ending));
    files.map(|file| file.metadata().unwrap().blocks() * 512).sum()
}

/// The settled data take little more than their bytes: one entry has 24 of key and 150 of value.
fn assert_small(db: &Database, dir: &Path) -> Result<()> {
    let live = ENTRIES / LIVE_EVERY * 174;
    assert_eq!(taken(dir, ".sst"), 0);
    let tree = taken(dir, ".tree");
    assert!(tree > live / 2 && tree * 10 < live * 13, "{tree} bytes for {live}");
    assert_eq!(db.stats()?.keyspaces[0].tables, 0);
    let report = db.check_integrity()?;
    assert!(report.faults.is_empty() && report.entries == ENTRIES / LIVE_EVERY, "{report:?}");
    for number in 0..ENTRIES {
        let expected = (number % LIVE_EVERY == 0).then_some(&VALUE[..]);
        assert_eq!(db.get(key(number))?.as_deref(), expected);
    }
    Ok(())
}

/// A log that has nothing more to hold has small segments only.
#[test]
fn compacting_gives_large_segments_back_that_the_log_has_in_reserve() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let config = LightningDbConfig { wal_segment_size: 8 << 20, ..config() };
    let db = Database::create(&path, config.clone())?;
    for number in 0..3 * ENTRIES {
        db.put(key(number), VALUE)?;
    }
    assert!(db.stats()?.wal_file_bytes > 16 << 20, "{}", db.stats()?.wal_file_bytes);
    db.compact()?;
    assert!(db.stats()?.wal_file_bytes < 6 << 20, "{}", db.stats()?.wal_file_bytes);
    db.put("more", "data")?;
    drop(db);
    let db = Database::open(&path, config)?;
    assert_eq!(db.iter()?.count() as u64, 3 * ENTRIES + 1);
    Ok(())
}

/// Each commit that waits for the disk alone takes a block of the log: the log would be many times as long as the
/// memtable before that is full.
#[test]
fn the_log_of_single_durable_commits_stays_short() -> Result<()> {
    const COMMITS: u64 = 6000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let config = LightningDbConfig {
        wal_sync_mode: WalSyncMode::Sync,
        memtable_size: 2 << 20, // holds all of them
        ..config()
    };
    let db = Database::create(&path, config.clone())?;
    let mut longest = 0;
    for number in 0..COMMITS {
        db.put(key(number), VALUE)?;
        if number % 100 == 0 {
            longest = longest.max(db.stats()?.wal_file_bytes);
        }
    }
    // Without flushes it would be 24 MiB. A flush takes a while.
    assert!(longest < 18 << 20 && db.stats()?.flushes > 2, "{longest} {:?}", db.stats()?);
    db.compact()?;
    assert!(db.stats()?.wal_file_bytes < 6 << 20, "{}", db.stats()?.wal_file_bytes);
    assert_eq!(db.iter()?.count() as u64, COMMITS);
    drop(db);
    assert_eq!(Database::open(&path, config)?.iter()?.count() as u64, COMMITS);
    Ok(())
}

/// Whoever asks is told; everything else goes on.
#[test]
fn a_file_system_that_takes_no_space_back_does_not_hold_up_merges() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let refuses = |call: Call, _: &Path| match call {
        Call::Punch => Err(io::Error::other("as the test wants it")),
        _ => Ok(()),
    };
    let db = Database::create_with_env(under(refuses), dir.path().join("db"), config())?;
    for number in 0..ENTRIES {
        db.put(key(number), VALUE)?;
    }
    let refused = db.compact();
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    let merges = db.stats()?.compactions;
    for number in 0..5 * ENTRIES {
        db.put(key(number), VALUE)?;
    }
    let start = Instant::now();
    while db.stats()?.compactions == merges {
        assert!(start.elapsed() < NEVER, "nothing is merged");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(db.iter()?.count() as u64, 5 * ENTRIES);
    Ok(())
}

#[test]
fn compacting_gives_the_space_of_deletes_back_at_once() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Database::create(&path, config())?;
    fill_and_empty(&db)?;
    assert!(taken(&path, ".tree") > ENTRIES * 174);
    db.compact()?;
    assert_small(&db, &path)?;
    // What was given up is used again.
    for number in 0..ENTRIES {
        db.put(key(number), VALUE)?;
    }
    db.compact()?;
    let report = db.check_integrity()?;
    assert!(report.faults.is_empty() && report.entries == ENTRIES, "{report:?}");
    db.close()?;
    drop(db);
    let db = Database::open(&path, config())?;
    assert_eq!(db.scan(None, None)?.count() as u64, ENTRIES);
    db.delete_range(..)?;
    db.compact()?;
    assert!(taken(&path, ".tree") <= 8192 && db.check_integrity()?.faults.is_empty());
    Ok(())
}

/// Nobody asks for anything; a minute of the database's time is half a second of ours.
#[test]
fn idling_gives_the_space_of_deletes_back() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let env = Outside::with_speed(OsEnv::new(), 100);
    let db = Database::create_with_env(env, &path, config())?;
    fill_and_empty(&db)?;
    let began = Instant::now();
    let limit = ENTRIES / LIVE_EVERY * 174 * 13 / 10;
    while taken(&path, ".sst") > 0 || taken(&path, ".tree") > limit {
        assert!(began.elapsed() < NEVER, "not within 100 minutes of idling");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_small(&db, &path)
}

/// For deletes that are few bytes themselves: a range, and keys that follow each other. Somebody looks at what was there
/// for a while.
#[test]
fn idling_gives_the_space_back_that_few_deletes_free() -> Result<()> {
    for range in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let env = Outside::with_speed(OsEnv::new(), 100);
        let db = Database::create_with_env(env, &path, config())?;
        let key = |n: u64| n.to_be_bytes();
        for number in 0..ENTRIES {
            db.put(key(number), VALUE)?;
        }
        db.compact()?;
        let full = tree_len(&path);
        let snapshot = db.snapshot()?;
        let live = ENTRIES / LIVE_EVERY;
        match range {
            true => db.delete_range(..key(ENTRIES - live))?,
            // A tenth is more than a sixteenth.
            false => (0..live).try_for_each(|n| db.delete(key(n)))?,
        }
        let freed = if range { full / 10 * 9 } else { full / 10 };
        let began = Instant::now();
        let wait_until = |done: &dyn Fn() -> bool| {
            while !done() {
                assert!(began.elapsed() < NEVER, "not within 100 minutes of idling");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        wait_until(&|| db.stats().is_ok_and(|stats| stats.compactions > 1));
        assert_eq!(snapshot.get(key(0))?.as_deref(), Some(&VALUE[..]));
        assert!(taken(&path, ".tree") >= full);
        drop(snapshot);
        let limit = (full - freed) / 10 * 11;
        wait_until(&|| taken(&path, ".sst") == 0 && taken(&path, ".tree") <= limit);
        let left = if range { live } else { ENTRIES - live };
        assert_eq!(db.iter()?.count() as u64, left);
    }
    Ok(())
}

#[test]
fn compacting_what_is_compact_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::create(dir.path().join("db"), config()).unwrap();
    db.put("a", "1").unwrap();
    db.compact().unwrap();
    let before = db.stats().unwrap();
    for _ in 0..3 {
        db.compact().unwrap();
    }
    let after = db.stats().unwrap();
    assert_eq!((before.flushes, before.compactions), (after.flushes, after.compactions));
}
