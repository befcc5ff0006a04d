//! For the failures of a change feed: a commit is missing, comes twice, too early or out of order, the disk fills because
//! nobody reads, or somebody goes on behind a gap and is not told.

mod copies;
mod resumed;
mod space;

pub(crate) use copies::follow;

use crate::files::{Scratch, contents_of_files};
use lightning_db::{
    CommittedBatch, Database, Durability, Error, Keyspace, LightningDbConfig, Operation, Result,
    SeqNo, Subscription, WalSyncMode, WriteBatch, env::OsEnv,
};
use lightning_faults::{Call, FaultyEnv};
use std::{
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

/// Long enough for any machine; passing it means that something hangs.
const NEVER: Duration = Duration::from_secs(60);

/// So small that segments and memtables follow each other quickly.
fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 16 << 10,
        wal_segment_size: 16 << 10,
        cache_size: 64 << 10,
        max_memory: 1 << 20,
        ..Default::default()
    }
}

/// Nothing becomes durable unless somebody asks for it.
fn unsynced() -> LightningDbConfig {
    let wal_sync_interval = Duration::from_secs(3600);
    LightningDbConfig {
        memtable_size: 1 << 20,
        max_memory: 16 << 20,
        wal_segment_size: 1 << 20,
        wal_sync_interval,
        ..config()
    }
}

fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Operation {
    Operation::Put { key: key.as_ref().to_vec(), value: value.as_ref().to_vec() }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.into() }
}

/// All that is there now.
fn rest(commits: &mut Subscription) -> Result<Vec<CommittedBatch>> {
    std::iter::from_fn(|| commits.try_next().transpose()).collect()
}

fn seqs(batches: &[CommittedBatch]) -> Vec<u64> {
    batches.iter().map(|batch| batch.seq().0).collect()
}

/// How many files the log has.
fn segments(path: &Path) -> usize {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("wal-")).count()
}

/// Puts of a kilobyte, until so many more memtables were flushed.
fn put_until_flushed(db: &Database, keyspace: &Keyspace, flushes: u64) -> u64 {
    let before = db.stats().unwrap().flushes;
    let began = Instant::now();
    for number in 0.. {
        if db.stats().unwrap().flushes >= before + flushes {
            return number;
        }
        assert!(began.elapsed() < NEVER, "nothing is flushed");
        keyspace.put(format!("filler {number}"), [number as u8; 1000]).unwrap();
    }
    unreachable!("it counts to 2^64")
}

/// A subscription from the first SeqNo on that there is.
fn oldest(keyspace: &Keyspace) -> (u64, Subscription) {
    let mut from = 1;
    loop {
        match keyspace.subscribe(SeqNo(from)) {
            Ok(commits) => return (from, commits),
            // Meanwhile more may be let go of.
            Err(error) => from = lag(&error).1,
        }
    }
}

fn lag(error: &Error) -> (u64, u64) {
    match error {
        Error::Lagged { wanted, oldest } => (wanted.0, oldest.0),
        other => panic!("not Lagged: {other}"),
    }
}

#[test]
fn commits_come_in_order_each_once_and_only_what_they_did_to_the_keyspace() -> Result<()> {
    for wal_compression in [false, true] {
        let scratch = Scratch::in_memory();
        let db =
            Database::create(scratch.db(), LightningDbConfig { wal_compression, ..unsynced() })?;
        let (users, other) = (db.keyspace("users")?, db.keyspace("other")?);
        let long = vec![b'x'; 20_000];
        let mut batch = WriteBatch::new();
        batch.put_in(&users, "1", "Ada").put_in(&other, "1", "?").put_in(&users, "1", &long);
        batch
            .delete_in(&users, "2")
            .delete_range_in(&users, "3".."5")
            .delete_range_in(&users, "7"..);
        batch.put("in the default keyspace", "");
        assert_eq!(db.commit(batch, Durability::Async)?, SeqNo(7));
        other.put("2", "?")?; // 8
        users.delete("1")?; // 9
        db.checkpoint()?;
        let mut commits = db.subscribe(&users, SeqNo(0))?;
        let got = rest(&mut commits)?;
        assert_eq!(seqs(&got), [7, 9]);
        let range = |start: &str, end: Option<&str>| Operation::DeleteRange {
            start: start.into(),
            end: end.map(Into::into),
        };
        let expected = [
            put("1", "Ada"),
            put("1", &long),
            delete("2"),
            range("3", Some("5")),
            range("7", None),
        ];
        assert_eq!(got[0].operations(), expected);
        assert_eq!(got[1].operations(), [delete("1")]);
        assert!(got[0].wall_time() > Duration::from_secs(1_700_000_000));
        assert!(got[0].wall_time() <= got[1].wall_time());
        assert_eq!(commits.position(), SeqNo(10));
        // In the middle of a commit it begins with the whole of it, behind it with the next.
        let from = |seq| rest(&mut users.subscribe(SeqNo(seq))?).map(|got| seqs(&got));
        assert_eq!(from(7)?, [7, 9]);
        assert_eq!(from(8)?, [9]);
        assert_eq!(from(9)?, [9]);
        assert_eq!(from(10)?, [0; 0]);
        assert_eq!(seqs(&rest(&mut other.subscribe(SeqNo(3))?)?), [7, 8]);
        // What is still to come. A range that can have no key is left out.
        let mut later = users.subscribe(SeqNo(10))?;
        users.put("key", "10")?;
        users.delete_range("a".."a")?;
        let mut batch = WriteBatch::new();
        batch.delete_range_in(&users, "a".."a").delete_in(&users, "key");
        db.write(batch)?;
        db.checkpoint()?;
        for commits in [&mut later, &mut commits] {
            let got = rest(commits)?;
            assert_eq!(seqs(&got), [10, 13]);
            assert_eq!(got[1].operations(), [delete("key")]);
        }
    }
    Ok(())
}

#[test]
fn nothing_comes_before_it_is_durable() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    let space = db.keyspace("default")?;
    let mut from_the_end = space.subscribe(SeqNo(1))?;
    db.put("a", "1")?;
    let mut from_before = space.subscribe(SeqNo(1))?;
    for commits in [&mut from_the_end, &mut from_before] {
        assert_eq!(commits.next(Some(Duration::from_millis(30)))?, None);
    }
    thread::scope(|scope| {
        let waiting = scope.spawn(|| from_the_end.next(None));
        thread::sleep(Duration::from_millis(10));
        assert!(!waiting.is_finished());
        db.put_with("b", "2", Durability::Sync)?; // takes the first along
        let first = waiting.join().unwrap()?.unwrap();
        assert_eq!((first.seq(), first.operations()), (SeqNo(1), &[put("a", "1")][..]));
        Ok::<_, Error>(())
    })?;
    assert_eq!(seqs(&rest(&mut from_the_end)?), [2]);
    assert_eq!(seqs(&rest(&mut from_before)?), [1, 2]);
    Ok(())
}

#[test]
fn what_was_not_read_is_kept_over_segments_and_flushes_and_then_let_go() -> Result<()> {
    let scratch = Scratch::in_memory();
    let path = scratch.db();
    let db = Database::create(&path, config())?;
    let (space, other) = (db.keyspace("space")?, db.keyspace("other")?);
    let mut commits = space.subscribe(SeqNo(1))?;
    let slow = space.subscribe(SeqNo(1))?;
    space.put("first", "1")?;
    let mut total = 1;
    for _ in 0..30 {
        total += put_until_flushed(&db, &space, 1);
        other.put("another", "value")?;
    }
    db.checkpoint()?;
    let kept = segments(&path);
    assert!(kept > 20, "{kept} segments of 16 KiB");
    let got = rest(&mut commits)?;
    assert_eq!(got.len() as u64, total);
    assert!(got.is_sorted_by_key(CommittedBatch::seq));
    assert_eq!(commits.position(), SeqNo(total + 31));
    assert_eq!(got[0].operations(), [put("first", "1")]);
    drop(got);
    assert!(segments(&path) > 20, "another subscription has read nothing");
    drop(slow);
    let began = Instant::now();
    while segments(&path) > 12 {
        assert!(began.elapsed() < NEVER, "{} segments stay", segments(&path));
        put_until_flushed(&db, &other, 1);
        rest(&mut commits)?;
    }
    // It stands at the end, and the beginning is gone.
    let error = space.subscribe(SeqNo(1)).unwrap_err();
    let (wanted, from) = lag(&error);
    assert_eq!(wanted, 1);
    assert!(from > 1);
    assert_eq!(
        error.to_string(),
        format!(
            "the change feed cannot go on from sequence number 1: the log holds only what comes from \
             {from} on"
        )
    );
    let (from, _held) = oldest(&space);
    lag(&space.subscribe(SeqNo(from - 1)).unwrap_err());
    space.put("last", "1")?;
    db.checkpoint()?;
    assert_eq!(commits.next(Some(NEVER))?.unwrap().operations(), [put("last", "1")]);
    Ok(())
}

#[test]
fn a_subscription_that_is_left_alone_does_not_fill_the_disk() -> Result<()> {
    for wal_retention in [0, 100 << 10] {
        let scratch = Scratch::in_memory();
        let db = Database::create(scratch.db(), LightningDbConfig { wal_retention, ..config() })?;
        let space = db.keyspace("default")?;
        let mut commits = space.subscribe(SeqNo(1))?;
        for _ in 0..20 {
            put_until_flushed(&db, &space, 1);
        }
        let bytes = db.stats()?.wal_file_bytes;
        assert!(bytes < wal_retention + (400 << 10), "{bytes} bytes of log");
        let error = commits.next(Some(NEVER)).unwrap_err();
        let (wanted, oldest) = lag(&error);
        assert!(wanted == 1 && oldest > 1, "{error}");
        assert_eq!(lag(&commits.try_next().unwrap_err()), (1, oldest), "it stays so");
        let mut anew = space.subscribe(SeqNo(db.snapshot()?.seq().0 + 1))?;
        space.put_with("anew", "1", Durability::Sync)?;
        assert_eq!(rest(&mut anew)?.len(), 1);
    }
    Ok(())
}

/// What one waits for that is looked for may be used again meanwhile: that is no damage.
#[test]
fn a_segment_that_is_used_again_while_it_is_looked_for_is_not_taken_for_damage() -> Result<()> {
    let scratch = Scratch::in_memory();
    let writes = Arc::new(Mutex::new(None::<(Arc<Database>, Keyspace)>));
    let meanwhile = writes.clone();
    let rule = move |call: Call, path: &Path| {
        let segment = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("wal-"));
        if segment
            && call == Call::Read
            && let Some((db, keyspace)) = meanwhile.lock().unwrap().take()
        {
            put_until_flushed(&db, &keyspace, 8);
        }
        Ok(())
    };
    let env = FaultyEnv::new(OsEnv::new(), rule);
    let config = LightningDbConfig { wal_retention: 0, ..config() };
    let db = Database::create_with_env(env, scratch.db(), config)?;
    let space = db.keyspace("default")?;
    let mut lagged = 0;
    for _ in 0..20 {
        put_until_flushed(&db, &space, 1);
        db.checkpoint()?;
        let from = db.snapshot()?.seq();
        *writes.lock().unwrap() = Some((db.clone(), space.clone()));
        let first = space.subscribe(from).and_then(|mut commits| commits.try_next());
        *writes.lock().unwrap() = None;
        match first {
            Ok(commit) => assert_eq!(commit.map(|commit| commit.seq()), Some(from)),
            Err(error) => {
                let (wanted, oldest) = lag(&error);
                assert!(wanted == from.0 && oldest > wanted, "{error}");
                lagged += 1;
            }
        }
    }
    assert!(lagged > 0, "nothing was used again");
    Ok(())
}

#[test]
fn who_has_read_all_of_what_is_gone_goes_on() -> Result<()> {
    let scratch = Scratch::in_memory();
    let (memtable_size, max_memory) = (1 << 20, 8 << 20);
    let config = LightningDbConfig { memtable_size, max_memory, wal_retention: 0, ..config() };
    let db = Database::create(scratch.db(), config)?;
    let space = db.keyspace("default")?;
    let mut commits = space.subscribe(SeqNo(1))?;
    for number in 1..80 {
        // Some begin a segment, and then nothing needs the one before.
        space.put([number], [number; 1000])?;
        db.compact()?;
        assert_eq!(seqs(&rest(&mut commits)?), [number.into()]);
    }
    lag(&space.subscribe(SeqNo(1)).unwrap_err());
    Ok(())
}

#[test]
fn a_full_disk_takes_what_is_kept() -> Result<()> {
    let scratch = Scratch::in_memory();
    // How many segments there is space for.
    let most = Arc::new(AtomicUsize::new(usize::MAX));
    let allowed = most.clone();
    let rule = move |call: Call, path: &Path| {
        let segment = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("wal-"));
        let is_full = || segments(path.parent().unwrap()) > allowed.load(SeqCst);
        match segment && call == Call::Allocate && is_full() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    };
    let env = FaultyEnv::new(OsEnv::new(), rule);
    let db = Database::create_with_env(env, scratch.db(), config())?;
    let space = db.keyspace("default")?;
    let mut commits = space.subscribe(SeqNo(1))?;
    for _ in 0..5 {
        put_until_flushed(&db, &space, 1);
    }
    most.store(segments(&scratch.db()), SeqCst);
    let before = db.stats()?.wal_file_bytes;
    for number in 0..300 {
        let began = Instant::now();
        while let Err(error) = space.put([1, number as u8], [7; 1000]) {
            assert!(matches!(error, Error::NoSpace { .. }), "{error}");
            assert!(began.elapsed() < NEVER, "what is kept does not give way");
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(db.stats()?.wal_file_bytes <= before);
    db.checkpoint()?;
    let error = rest(&mut commits).unwrap_err();
    assert_eq!(lag(&error).0, 1, "{error}");
    Ok(())
}

#[test]
fn after_reopening_it_goes_on_with_what_the_log_still_holds() -> Result<()> {
    let scratch = Scratch::in_memory();
    let wal_sync_mode = WalSyncMode::Sync;
    let config = LightningDbConfig { wal_sync_mode, ..unsynced() };
    let (mut expected, mut path) = (vec![], scratch.db());
    // More openings than the log has pieces, and each piece has something.
    for opening in 0..12_u64 {
        let db = Database::open_or_create(&path, config.clone())?;
        let space = db.keyspace("default")?;
        let (first, mut commits) = oldest(&space);
        assert!(first == 1 || opening > 3, "it begins at {first} after {opening} openings");
        for from in first..=expected.len() as u64 + 1 {
            let got = seqs(&rest(&mut space.subscribe(SeqNo(from))?)?);
            assert_eq!(got, (from..=expected.len() as u64).collect::<Vec<_>>(), "from {from}");
        }
        for number in 0..opening % 4 {
            db.put(format!("{opening}"), format!("{number}"))?;
            expected.push(expected.len() as u64 + 1);
        }
        assert_eq!(seqs(&rest(&mut commits)?), expected[first as usize - 1..]);
        if opening % 3 == 2 {
            // As after a kill.
            let killed = scratch.path().join(format!("killed {opening}"));
            copy(&path, &killed, |_, _| {});
            path = killed;
        }
    }
    Ok(())
}

/// The files of an open database, as a kill or a loss of power may leave them.
fn copy(from: &Path, to: &Path, change: impl Fn(&str, &mut Vec<u8>)) {
    fs::create_dir_all(to).unwrap();
    for (name, mut bytes) in contents_of_files(from) {
        change(&name, &mut bytes);
        fs::write(to.join(name), bytes).unwrap();
    }
}

#[test]
fn a_torn_end_is_not_in_the_feed_and_what_was_copied_is_once() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    let marked = b"a value that is found by its bytes";
    db.put_with("a", "1", Durability::Sync)?;
    db.put("b", "2")?;
    db.put("c", marked)?;
    let [torn, whole] = ["torn", "whole"].map(|name| scratch.path().join(name));
    copy(&scratch.db(), &whole, |_, _| {});
    copy(&scratch.db(), &torn, |name, bytes| {
        let at = bytes.windows(marked.len()).position(|window| window == marked);
        if let (true, Some(at)) = (name.starts_with("wal-"), at) {
            bytes[at] ^= 1;
        }
    });
    for (path, last) in [(&torn, 2), (&whole, 3)] {
        let db = Database::open(path, unsynced())?;
        let space = db.keyspace("default")?;
        let mut commits = space.subscribe(SeqNo(1))?;
        assert_eq!(seqs(&rest(&mut commits)?), (1..=last).collect::<Vec<_>>());
        assert_eq!(seqs(&rest(&mut space.subscribe(SeqNo(2))?)?), (2..=last).collect::<Vec<_>>());
        db.put_with("d", "4", Durability::Sync)?;
        let next = commits.next(Some(NEVER))?.unwrap();
        assert_eq!((next.seq().0, next.operations()), (last + 1, &[put("d", "4")][..]));
    }
    Ok(())
}

#[test]
fn damage_is_told_with_its_file_and_place() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    let marked = b"a value that is found by its bytes";
    db.put("a", "1")?;
    db.put("b", marked)?;
    db.put_with("c", "3", Durability::Sync)?;
    let space = db.keyspace("default")?;
    let files = contents_of_files(&scratch.db());
    let at = |bytes: &[u8]| bytes.windows(marked.len()).position(|window| window == marked);
    let (name, at) = files.iter().find_map(|(name, bytes)| Some((name, at(bytes)?))).unwrap();
    let file = fs::OpenOptions::new().write(true).open(scratch.db().join(name)).unwrap();
    let write = |byte: &[u8]| std::os::unix::fs::FileExt::write_all_at(&file, byte, at as u64);
    write(b"X").unwrap();
    let mut commits = space.subscribe(SeqNo(1))?;
    assert_eq!(commits.try_next()?.unwrap().seq(), SeqNo(1));
    let Err(Error::Corruption(told)) = commits.try_next() else { panic!("damage is not noticed") };
    assert!(told.file.ends_with(name) && told.offset < at as u64, "{told}");
    assert!(told.offset > at as u64 - 200, "{told}");
    assert!(matches!(commits.try_next(), Err(Error::Corruption(_))));
    // It was read wrong, and is not any more.
    write(&marked[..1]).unwrap();
    assert_eq!(seqs(&rest(&mut commits)?), [2, 3]);
    assert_eq!(rest(&mut space.subscribe(SeqNo(1))?)?.len(), 3);
    Ok(())
}

#[test]
fn a_bulk_load_ends_it_and_one_begins_from_a_snapshot() -> Result<()> {
    let scratch = Scratch::in_memory();
    let mut db = Database::create(scratch.db(), unsynced())?;
    let loaded = [("a", "1"), ("b", "2")];
    let mut space = db.keyspace("loaded")?;
    db.put("elsewhere", "1")?;
    db.checkpoint()?;
    let before = db.snapshot()?.seq();
    let mut path = scratch.db();
    let mut attached = space.subscribe(SeqNo(2))?;
    let mut other = db.subscribe(&db.keyspace("default")?, SeqNo(1))?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| attached.next(None));
        thread::sleep(Duration::from_millis(10));
        space.bulk_load(loaded)?;
        lag(&waiting.join().unwrap().unwrap_err());
        Ok::<_, Error>(())
    })?;
    assert_eq!(seqs(&rest(&mut other)?), [1]);
    drop(other);
    for reopened in [None, Some("killed"), Some("closed")] {
        if let Some(how) = reopened {
            if how == "killed" {
                copy(&path, &scratch.path().join(how), |_, _| {});
                path = scratch.path().join(how);
            }
            drop((attached, space, db));
            db = Database::open(&path, unsynced())?;
            space = db.keyspace("loaded")?;
        }
        // Nothing was committed since the snapshot, which has nothing of the load.
        let behind = SeqNo(before.0 + 1);
        let (wanted, _) = lag(&space.subscribe(behind).unwrap_err());
        assert_eq!(wanted, behind.0);
        let snapshot = db.snapshot()?.of(&space);
        assert_eq!(snapshot.iter()?.count(), 2);
        let from = SeqNo(snapshot.seq().0 + 1);
        attached = space.subscribe(from)?;
        space.put("c", "3")?;
        db.checkpoint()?;
        assert_eq!(attached.next(Some(NEVER))?.unwrap().operations(), [put("c", "3")]);
        attached = space.subscribe(from)?; // not only once
        space.delete("c")?;
    }
    Ok(())
}

#[test]
fn nothing_is_kept_for_a_subscription_that_has_ended() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), config())?;
    let (loaded, dropped) = (db.keyspace("loaded")?, db.keyspace("dropped")?);
    let (mut of_loaded, mut of_dropped) =
        (loaded.subscribe(SeqNo(1))?, dropped.subscribe(SeqNo(1))?);
    loaded.bulk_load([("a", "1")])?;
    lag(&of_loaded.try_next().unwrap_err());
    db.drop_keyspace("dropped")?;
    assert!(matches!(of_dropped.try_next(), Err(Error::KeyspaceNotFound { .. })));
    put_until_flushed(&db, &db.keyspace("default")?, 30);
    let left = segments(&scratch.db());
    assert!(left < 15, "{left} segments of 16 KiB are kept");
    Ok(())
}

#[test]
fn a_transaction_is_one_commit_in_each_of_its_keyspaces() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), LightningDbConfig::durable())?;
    let (one, other) = (db.keyspace("one")?, db.keyspace("other")?);
    let tx = db.transaction().begin()?;
    tx.of(&one)?.put("a", "1")?;
    tx.of(&one)?.put("b", "2")?;
    tx.of(&other)?.put("c", "3")?;
    let aborted = db.transaction().begin()?;
    aborted.of(&one)?.put("a", "never")?;
    aborted.abort();
    let seq = tx.commit()?;
    for (keyspace, expected) in [(&one, &["a", "b"][..]), (&other, &["c"])] {
        let got = rest(&mut keyspace.subscribe(SeqNo(1))?)?;
        assert_eq!(seqs(&got), [seq.0]);
        let keys = got[0].operations().iter().map(|operation| match operation {
            Operation::Put { key, .. } => String::from_utf8_lossy(key),
            other => panic!("{other:?}"),
        });
        assert_eq!(keys.collect::<Vec<_>>(), expected);
    }
    Ok(())
}

#[test]
fn a_dropped_keyspace_ends_it_behind_what_was_committed_before() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    let space = db.keyspace("dropped")?;
    let mut commits = space.subscribe(SeqNo(1))?;
    space.put("a", "1")?;
    let mut waiting = space.subscribe(SeqNo(2))?;
    thread::scope(|scope| {
        let waits = scope.spawn(|| waiting.next(None));
        thread::sleep(Duration::from_millis(10));
        db.drop_keyspace("dropped")?;
        let error = waits.join().unwrap().unwrap_err();
        assert!(matches!(&error, Error::KeyspaceNotFound { name } if name == "dropped"), "{error}");
        Ok::<_, Error>(())
    })?;
    db.keyspace("dropped")?.put("b", "2")?; // one of the same name is another
    db.checkpoint()?;
    assert_eq!(commits.try_next()?.unwrap().operations(), [put("a", "1")]);
    for _ in 0..2 {
        assert!(matches!(commits.try_next(), Err(Error::KeyspaceNotFound { .. })));
    }
    assert!(matches!(space.subscribe(SeqNo(1)), Err(Error::KeyspaceNotFound { .. })));
    Ok(())
}

#[test]
fn closing_wakes_who_waits_and_poison_comes_behind_what_is_durable() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    let space = db.keyspace("default")?;
    let mut commits = space.subscribe(SeqNo(1))?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| commits.next(None));
        thread::sleep(Duration::from_millis(10));
        db.close()?;
        assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
        Ok::<_, Error>(())
    })?;
    assert!(matches!(commits.try_next(), Err(Error::Closed)));
    assert!(matches!(space.subscribe(SeqNo(1)), Err(Error::Closed)));

    let fails = Arc::new(AtomicBool::new(false));
    let failing = fails.clone();
    let rule = move |call: Call, path: &Path| {
        let segment = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("wal-"));
        match segment && call == Call::Sync && failing.load(SeqCst) {
            true => Err(io::Error::other("the disk is broken")),
            false => Ok(()),
        }
    };
    let scratch = Scratch::in_memory();
    let env = FaultyEnv::new(OsEnv::new(), rule);
    let db = Database::create_with_env(env, scratch.db(), unsynced())?;
    let space = db.keyspace("default")?;
    let mut early = space.subscribe(SeqNo(1))?;
    db.put_with("a", "1", Durability::Sync)?;
    let mut late = space.subscribe(SeqNo(2))?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| late.next(None));
        thread::sleep(Duration::from_millis(10));
        fails.store(true, SeqCst);
        db.put_with("b", "2", Durability::Sync).unwrap_err();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Poisoned { .. })));
    });
    assert_eq!(early.try_next()?.unwrap().operations(), [put("a", "1")]);
    assert!(matches!(early.try_next(), Err(Error::Poisoned { .. })));
    Ok(())
}

#[test]
fn large_values_come_whole_or_as_superseded() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db =
        Database::create(scratch.db(), LightningDbConfig { blob_threshold: 1000, ..unsynced() })?;
    let space = db.keyspace("default")?;
    let large = |n: u8| vec![n; 100_000];
    let mut commits = space.subscribe(SeqNo(1))?;
    for n in [1, 2] {
        db.put("kept", large(n))?;
        db.put("gone", large(n))?;
    }
    db.checkpoint()?;
    let mut got: Vec<_> =
        rest(&mut commits)?.into_iter().flat_map(|b| b.into_operations()).collect();
    let all = [1, 2].map(|n| [put("kept", large(n)), put("gone", large(n))]);
    assert!(got == all.as_flattened(), "a memtable holds the values");
    let mut again = space.subscribe(SeqNo(1))?; // it keeps the log, and not the values
    db.delete("gone")?;
    db.compact()?;
    let began = Instant::now();
    while db.stats()?.blobs > 1 {
        assert!(began.elapsed() < NEVER, "files stay");
        thread::sleep(Duration::from_millis(1));
    }
    got = rest(&mut again)?.into_iter().flat_map(|batch| batch.into_operations()).collect();
    let superseded = |key: &str| Operation::Superseded { key: key.into() };
    let expected = [
        superseded("kept"),
        superseded("gone"),
        put("kept", large(2)),
        superseded("gone"),
        delete("gone"),
    ];
    assert!(got == expected);
    Ok(())
}
