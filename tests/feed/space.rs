//! For the failures of keeping log for somebody who reads it: the space is missed elsewhere, or kept though all was read.

use super::{NEVER, config, lag, put_until_flushed, rest};
use crate::files::Scratch;
use lightning_db::{Database, Error, Keyspace, LightningDbConfig, Result, SeqNo, env::OsEnv};
use lightning_faults::{Call, FaultyEnv};
use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

fn is_segment(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-"))
}

/// Bytes of the log's files.
fn log_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let segments = entries.filter(|entry| is_segment(&entry.path()));
    segments.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// A database with a segment or more of log for each of `flushes`, all of it in files by now, and kept.
fn with_kept_log(
    db: &Database,
    keyspace: &Keyspace,
    flushes: u64,
) -> Result<lightning_db::Subscription> {
    let commits = keyspace.subscribe(SeqNo(db.snapshot()?.seq().0 + 1))?;
    put_until_flushed(db, keyspace, flushes);
    db.compact()?;
    Ok(commits)
}

#[test]
fn loads_and_edits_on_a_full_disk_take_what_is_kept() -> Result<()> {
    let scratch = Scratch::in_memory();
    let most = Arc::new(AtomicU64::new(u64::MAX));
    let allowed = most.clone();
    let rule = move |call: Call, path: &Path| {
        let spare = path.file_name().is_some_and(|name| name == "manifest-spare");
        let grows = call == Call::Allocate || spare && matches!(call, Call::Open | Call::Create);
        let is_full = || log_bytes(path.parent().unwrap()) > allowed.load(SeqCst);
        match grows && !is_segment(path) && is_full() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    };
    let env = FaultyEnv::new(OsEnv::new(), rule);
    let db = Database::create_with_env(env, scratch.db(), config())?;
    let space = db.keyspace("default")?;
    let loaded = db.keyspace("loaded")?;
    let load = || {
        let entries = (0..4000_u32).map(|number| (number.to_be_bytes(), [number as u8; 500]));
        loaded.bulk_load(entries).map(drop)
    };
    // The manifest is rolled over now and then.
    let edits = || {
        for _ in 0..100 {
            db.keyspace("another")?;
            db.drop_keyspace("another")?;
        }
        Ok(())
    };
    for call in [&load as &dyn Fn() -> Result<()>, &edits] {
        let mut commits = with_kept_log(&db, &space, 10)?;
        most.store(log_bytes(&scratch.db()) - (50 << 10), SeqCst);
        let (mut refused, began) = (0, Instant::now());
        while let Err(error) = call() {
            assert!(matches!(error, Error::NoSpace { .. }), "{error}");
            assert!(began.elapsed() < NEVER / 6, "what is kept does not give way");
            refused += 1;
            thread::sleep(Duration::from_millis(1));
        }
        assert!(refused > 0, "the disk was not full");
        lag(&rest(&mut commits).unwrap_err());
        most.store(u64::MAX, SeqCst);
    }
    Ok(())
}

#[test]
fn a_large_commit_on_a_full_disk_takes_the_space_of_small_segments() -> Result<()> {
    const COMMIT: u64 = 100 << 10;
    let scratch = Scratch::in_memory();
    let most = Arc::new(AtomicU64::new(u64::MAX));
    let allowed = most.clone();
    let rule = move |call: Call, path: &Path| {
        let is_full =
            || log_bytes(path.parent().unwrap()).saturating_add(COMMIT) > allowed.load(SeqCst);
        match is_segment(path) && call == Call::Allocate && is_full() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    };
    let env = FaultyEnv::new(OsEnv::new(), rule);
    let config = LightningDbConfig { max_memory: 4 << 20, ..config() };
    let db = Database::create_with_env(env, scratch.db(), config)?;
    let space = db.keyspace("default")?;
    let mut commits = with_kept_log(&db, &space, 40)?;
    thread::sleep(Duration::from_millis(50)); // the next segments are ready
    most.store(log_bytes(&scratch.db()), SeqCst);
    space.put("large", vec![7; COMMIT as usize])?;
    lag(&rest(&mut commits).unwrap_err());
    Ok(())
}

#[test]
fn a_large_segment_that_was_read_to_its_end_is_not_kept() -> Result<()> {
    let scratch = Scratch::in_memory();
    let config = LightningDbConfig {
        memtable_size: 4 << 20,
        max_memory: 32 << 20,
        wal_segment_size: 8 << 20,
        ..LightningDbConfig::default()
    };
    let db = Database::create(scratch.db(), config)?;
    let space = db.keyspace("default")?;
    let mut commits = space.subscribe(SeqNo(1))?;
    for number in 0..4_000_u32 {
        space.put(number.to_be_bytes(), [7; 1000])?;
    }
    let large = db.stats()?.wal_file_bytes;
    assert!(large > 8 << 20, "{large} bytes of log");
    // The log leaves its large segment, and it is read to the end.
    for _ in 0..3 {
        db.compact()?;
        rest(&mut commits)?;
    }
    let left = db.stats()?.wal_file_bytes;
    assert!(left < 8 << 20, "{left} bytes of log are kept for nobody");
    Ok(())
}
