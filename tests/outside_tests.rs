//! For the failures that come from outside in the middle of something: a thread panics and all
//! others wait for it for ever, an error leaves files behind, a file cannot be read.

use crate::{
    files::{Scratch, contents_of_files},
    outside::{Outside, is_log, is_table, is_tree, under},
};
use lightning_db::{
    Database, Durability, Error, Keyspace, LightningDbConfig, WriteBatch, env::OsEnv,
};
use lightning_faults::Call;
use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, Instant},
};

/// Long enough for any machine; passing it means that something hangs.
const NEVER: Duration = Duration::from_secs(60);

fn config() -> LightningDbConfig {
    LightningDbConfig {
        memtable_size: 64 << 10,
        wal_segment_size: 64 << 10,
        cache_size: 64 << 10,
        max_memory: 4 << 20,
        wal_sync_interval: Duration::from_secs(3600),
        ..Default::default()
    }
}

/// Fails the test if `body` does not end.
fn soon<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(body()));
    wait.recv_timeout(NEVER).unwrap_or_else(|_| panic!("hangs: {what}"))
}

thread_local! {
    /// The next call of this kind that this thread makes on the log panics.
    static PANICS_AT: Cell<Option<Call>> = const { Cell::new(None) };
}

/// A database that a thread can be made to panic in.
fn panicking(path: &Path) -> Arc<Database> {
    let rule = |call: Call, path: &Path| {
        if is_log(path) && PANICS_AT.get() == Some(call) {
            PANICS_AT.set(None);
            panic!("as the test wants it");
        }
        Ok(())
    };
    Database::create_with_env(under(rule), path, config()).unwrap()
}

#[test]
fn a_panic_in_a_commit_ends_writing_and_nobody_waits_for_it() {
    for (call, durability) in [
        (Call::Write, Durability::Async),
        (Call::Write, Durability::Sync),
        (Call::Sync, Durability::Sync),
    ] {
        let scratch = Scratch::in_memory();
        let db = panicking(&scratch.db());
        db.put_with("before", "1", Durability::Sync).unwrap();
        PANICS_AT.set(Some(call));
        catch_unwind(AssertUnwindSafe(|| db.put_with("lost", "2", durability))).unwrap_err();
        let other = Arc::clone(&db);
        let error = soon("a put after a panic", move || {
            other.put_with("after", "3", Durability::Async).unwrap_err()
        });
        assert!(matches!(error, Error::Poisoned { .. }), "{call:?}: {error:?}");
        assert!(error.to_string().contains("panicked"), "{error}");
        assert_eq!(db.get("before").unwrap().unwrap(), b"1");
        assert!(db.get("lost").unwrap().is_none() && db.get("after").unwrap().is_none());
        let other = Arc::clone(&db);
        soon("closing after a panic", move || {
            other.close().unwrap_err();
            other.close().unwrap_err(); // it has not become durable meanwhile
        });
        drop(db);
        let db = Database::open(scratch.db(), config()).unwrap();
        assert_eq!(db.get("before").unwrap().unwrap(), b"1");
        assert!(db.get("after").unwrap().is_none());
        db.put("again", "4").unwrap();
    }
}

#[test]
fn a_panic_while_the_log_goes_on_ends_writing() {
    let scratch = Scratch::in_memory();
    let db = panicking(&scratch.db());
    // The first write of a commit that finds no room is the record that ends the segment.
    let value = vec![7; 40 << 10];
    db.put("first", &value).unwrap();
    std::thread::sleep(Duration::from_millis(200)); // segments are prepared by now
    PANICS_AT.set(Some(Call::Write));
    catch_unwind(AssertUnwindSafe(|| db.put("second", &value))).unwrap_err();
    let error = soon("a put after a panic", move || db.put("third", "3").unwrap_err());
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[test]
fn a_panic_in_a_background_thread_does_not_keep_writers_waiting() {
    let scratch = Scratch::in_memory();
    let rule = |call: Call, path: &Path| {
        assert!(call != Call::Write || !is_table(path), "as the test wants it");
        Ok(())
    };
    let db = Database::create_with_env(under(rule), scratch.db(), config()).unwrap();
    let error = soon("puts without a flush", move || {
        (0..u64::MAX).find_map(|n| db.put(n.to_be_bytes(), [0; 1000]).err()).unwrap()
    });
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[test]
fn closing_does_not_wait_for_a_merge() {
    let scratch = Scratch::in_memory();
    // What the merging thread wrote.
    let written = Arc::new(AtomicU64::new(0));
    let rule = {
        let written = Arc::clone(&written);
        move |call: Call, path: &Path| {
            let merging = std::thread::current().name() == Some("lightning-compact");
            if merging && is_tree(path) && call == Call::Write {
                written.fetch_add(1, SeqCst);
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        }
    };
    let config = LightningDbConfig {
        memtable_size: 8 << 20,
        wal_segment_size: 16 << 20,
        max_memory: 256 << 20,
        cache_size: 1 << 20,
        compression_enabled: false,
        ..config()
    };
    let env = under(rule);
    let db = Database::create_with_env(env, scratch.db(), config.clone()).unwrap();
    // Nine runs of keys that lie between each other's, so that the merge has much to write.
    let mut n = 0u64;
    while db.stats().unwrap().flushes < 9 {
        db.put(n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes(), [7; 4000]).unwrap();
        n += 1;
    }
    while written.load(SeqCst) < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(db.stats().unwrap().compactions, 0, "too fast for this test");
    let tables = db.stats().unwrap().keyspaces[0].tables as usize;
    let (start, writes) = (Instant::now(), written.load(SeqCst));
    db.close().unwrap();
    let took = start.elapsed();
    let writes = written.load(SeqCst) - writes;
    println!("closed after {took:?} and {writes} more writes; {n} entries");
    assert!(writes < 5, "{writes} writes after closing began");
    assert_eq!(db.stats().err().map(|e| e.to_string()), Some(Error::Closed.to_string()));
    drop(db);
    let after = contents_of_files(&scratch.db());
    let left = after.keys().filter(|name| name.ends_with(".sst")).count();
    assert!(left <= tables + 1, "{left} tables: what was given up was not removed");
    let db = Database::open(scratch.db(), config).unwrap();
    assert_eq!(db.iter().unwrap().count() as u64, n);
}

#[test]
fn a_segment_that_could_not_be_prepared_is_removed() {
    let scratch = Scratch::in_memory();
    let failing = Arc::new(AtomicBool::new(false));
    let rule = {
        let failing = Arc::clone(&failing);
        move |call: Call, _: &Path| match call == Call::SyncDir && failing.load(SeqCst) {
            true => Err(io::Error::other("as the test wants it")),
            false => Ok(()),
        }
    };
    let db = Database::create_with_env(under(rule), scratch.db(), config()).unwrap();
    std::thread::sleep(Duration::from_millis(200)); // segments are prepared by now
    failing.store(true, SeqCst);
    let mut refused = 0;
    while refused < 20 {
        match db.put("key", [7; 20 << 10]) {
            Ok(()) => {}
            Err(Error::Io { op, .. }) => {
                assert_eq!(op, "sync the directory");
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    let files = contents_of_files(&scratch.db());
    let segments = files.keys().filter(|name| name.starts_with("wal-")).count();
    assert!(segments < 12, "{segments} segments after {refused} failures: {:?}", files.keys());
    failing.store(false, SeqCst);
    soon("puts when directories can be synced again", move || {
        while db.put("key", "value").is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

fn no_space() -> io::Result<()> {
    Err(io::ErrorKind::StorageFull.into())
}

/// An environment in which no file can be made while the flag is set.
fn may_be_full() -> (Arc<Outside>, Arc<AtomicBool>) {
    let full = Arc::new(AtomicBool::new(false));
    let rule = {
        let full = Arc::clone(&full);
        move |call: Call, _: &Path| match call == Call::Create && full.load(SeqCst) {
            true => no_space(),
            false => Ok(()),
        }
    };
    (under(rule), full)
}

/// An environment in which no file can be made.
fn full_disk() -> Arc<Outside> {
    let (env, full) = may_be_full();
    full.store(true, SeqCst);
    env
}

fn lay_out(path: &Path, files: &BTreeMap<String, Vec<u8>>) {
    fs::create_dir(path).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(path.join(name), bytes).unwrap());
}

fn count_of_tables(db: &Path) -> usize {
    contents_of_files(db).keys().filter(|name| name.ends_with(".sst")).count()
}

#[test]
fn deleting_everything_frees_a_full_disk() {
    let scratch = Scratch::in_memory();
    let (env, full) = may_be_full();
    let config = LightningDbConfig { wal_segment_size: 256 << 10, ..config() };
    let db = Database::create_with_env(env, scratch.db(), config.clone()).unwrap();
    let other = db.keyspace("other").unwrap();
    other.put("stays", [7; 1000]).unwrap();
    let mut n = 0u64;
    while db.stats().unwrap().flushes < 5 {
        db.put(n.to_be_bytes(), [7; 1000]).unwrap();
        n += 1;
    }
    full.store(true, SeqCst);
    while db.put(n.to_be_bytes(), [7; 1000]).is_ok() {
        n += 1;
    }
    let snapshot = db.snapshot().unwrap();
    assert!(count_of_tables(&scratch.db()) > 1);
    db.delete_range(..).unwrap();
    assert_eq!(db.iter().unwrap().count(), 0);
    // What a snapshot may still read stays.
    assert_eq!(snapshot.iter().unwrap().count() as u64, n);
    drop(snapshot);
    let path = scratch.db();
    soon("freeing what was deleted", move || {
        while count_of_tables(&path) > 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(db.stats().unwrap().keyspaces[0].tables, 0);
    assert_eq!(other.get("stays").unwrap().unwrap(), [7; 1000]);
    full.store(false, SeqCst);
    let again = Arc::clone(&db);
    soon("a put when there is space", move || while again.put("new", "1").is_err() {});
    drop(other);
    db.close().unwrap();
    drop(db);
    let db = Database::open(scratch.db(), config).unwrap();
    assert_eq!(db.iter().unwrap().count(), 1);
}

#[test]
fn a_delete_survives_a_kill_together_with_what_it_freed() {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), config()).unwrap();
    let mut n = 0u64;
    while db.stats().unwrap().flushes < 3 {
        db.put(n.to_be_bytes(), [7; 1000]).unwrap();
        n += 1;
    }
    db.delete_range(..).unwrap();
    db.put("behind", "it").unwrap();
    let made = scratch.db();
    soon("freeing what was deleted", move || {
        while count_of_tables(&made) > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let killed = scratch.path().join("killed");
    fs::create_dir(&killed).unwrap();
    for (name, bytes) in contents_of_files(&scratch.db()) {
        fs::write(killed.join(name), bytes).unwrap();
    }
    let db = Database::open(&killed, config()).unwrap();
    assert_eq!(db.iter().unwrap().map(Result::unwrap).collect::<Vec<_>>().len(), 1);
    assert_eq!(db.get("behind").unwrap().unwrap(), b"it");
}

#[test]
fn merges_that_fail_do_not_hold_up_flushes() {
    let scratch = Scratch::in_memory();
    let rule = |call: Call, path: &Path| {
        let merging = std::thread::current().name() == Some("lightning-compact");
        match merging && call == Call::Create && is_tree(path) {
            true => no_space(),
            false => Ok(()),
        }
    };
    let config = LightningDbConfig { memtable_size: 16 << 10, ..config() };
    let db = Database::create_with_env(under(rule), scratch.db(), config).unwrap();
    soon("puts while nothing can be merged", move || {
        let mut n = 0u64;
        while db.stats().unwrap().flushes < 40 {
            // A writer that waits for a flush is told what failed.
            if let Err(error) = db.put(n.to_be_bytes(), [7; 1000]) {
                assert!(error.is_retryable(), "{error}");
            }
            n += 1;
        }
        // And a delete frees what could not be merged.
        db.delete_range(..).unwrap();
        while db.stats().unwrap().keyspaces[0].tables > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn keyspaces_that_cannot_be_merged_hold_up_no_other() {
    let scratch = Scratch::in_memory();
    let spoiling = Arc::new(AtomicBool::new(true));
    let spoilt = Mutex::new(BTreeSet::new());
    let spoils = Arc::clone(&spoiling);
    let rule = move |call: Call, path: &Path| {
        let merging = std::thread::current().name() == Some("lightning-compact");
        match call {
            Call::Create if is_table(path) && spoils.load(SeqCst) => {
                spoilt.lock().unwrap().insert(path.to_path_buf());
                Ok(())
            }
            Call::Read if merging && spoilt.lock().unwrap().contains(path) => {
                Err(io::Error::other("as the test wants it"))
            }
            _ => Ok(()),
        }
    };
    let config = LightningDbConfig { memtable_size: 16 << 10, ..config() };
    let db = Database::create_with_env(under(rule), scratch.db(), config).unwrap();
    let others = [db.keyspace("other").unwrap(), db.keyspace("third").unwrap()];
    soon("a merge beside two that fail", move || {
        let mut n = 0u64;
        let mut put = |keyspace: &Keyspace| {
            let _ = keyspace.put(n.to_be_bytes(), [7; 1000]);
            n += 1;
        };
        while db.stats().unwrap().keyspaces[1..].iter().any(|keyspace| keyspace.tables < 30) {
            others.iter().for_each(&mut put);
        }
        spoiling.store(false, SeqCst);
        // Never as many tables as those that fail have.
        let default = db.keyspace("default").unwrap();
        while db.stats().unwrap().keyspaces[0].tables < 12 {
            put(&default);
            if db.stats().unwrap().compactions > 0 {
                return;
            }
        }
        while db.stats().unwrap().compactions == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn what_is_not_synced_can_be_recovered_on_a_full_disk() {
    for (segment, value) in [(64 << 10, 500), (64 << 10, 60_000), (1 << 20, 20_000)] {
        let scratch = Scratch::in_memory();
        let (env, full) = may_be_full();
        let config = LightningDbConfig {
            memtable_size: 2 << 20,
            wal_segment_size: segment,
            max_memory: 64 << 20,
            ..config()
        };
        let db = Database::create_with_env(env, scratch.db(), config.clone()).unwrap();
        let mut n = 0u64;
        while n * value < 1 << 20 {
            db.put(n.to_be_bytes(), vec![7; value as usize]).unwrap();
            n += 1;
        }
        full.store(true, SeqCst);
        while n * value < 1 << 30 && db.put(n.to_be_bytes(), vec![7; value as usize]).is_ok() {
            n += 1;
        }
        let killed = scratch.path().join("killed");
        fs::create_dir(&killed).unwrap();
        for (name, bytes) in contents_of_files(&scratch.db()) {
            fs::write(killed.join(name), bytes).unwrap();
        }
        let (env, full) = may_be_full();
        full.store(true, SeqCst);
        let db = Database::open_with_env(env, &killed, config)
            .unwrap_or_else(|e| panic!("{segment} {value} {n}: {e}"));
        assert_eq!(db.iter().unwrap().count() as u64, n);
    }
}

#[test]
fn an_idle_log_gives_its_large_spares_back() {
    let scratch = Scratch::in_memory();
    let config = LightningDbConfig {
        memtable_size: 32 << 20,
        wal_segment_size: 64 << 20,
        max_memory: 256 << 20,
        blob_threshold: 16 << 20,
        wal_sync_interval: Duration::from_millis(10),
        ..config()
    };
    // Ten seconds pass in a tenth of one.
    let env = Outside::with_speed(OsEnv::new(), 100);
    let db = Database::create_with_env(env, scratch.db(), config.clone()).unwrap();
    for round in 0..3u8 {
        db.put([round], vec![round; 8 << 20]).unwrap();
        let before = db.stats().unwrap().wal_file_bytes;
        assert!(before >= 16 << 20, "{before}: its spares are as large as the commit");
        // At most those stay that hold the commits, unless these are in the tree by now. The files go one
        // after the other, and each is gone from the count before it is gone from the directory.
        let (idle, dir) = (Arc::clone(&db), scratch.db());
        let files = soon("giving spares back", move || {
            loop {
                let files = contents_of_files(&dir);
                let large = |(name, bytes): &(&String, &Vec<u8>)| {
                    name.starts_with("wal-") && bytes.len() > 2 << 20
                };
                if idle.stats().unwrap().wal_file_bytes <= before - (6 << 20)
                    && files.iter().filter(large).count() <= usize::from(round) + 1
                {
                    return files;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // No opening misses them, though nothing was written since that tells what was synced.
        let killed = scratch.path().join(format!("killed {round}"));
        lay_out(&killed, &files);
        let reopened = Database::open_with_env(full_disk(), &killed, config.clone()).unwrap();
        assert!(reopened.get([round]).unwrap().is_some());
        drop(reopened);
        db.put("small", "one").unwrap();
    }
    db.close().unwrap();
    drop(db);
    let db = Database::open(scratch.db(), config).unwrap();
    assert_eq!(db.iter().unwrap().count(), 4);
}

#[test]
fn an_opening_on_a_full_disk_succeeds_again_after_a_loss_of_power() {
    let scratch = Scratch::in_memory();
    let config = LightningDbConfig {
        memtable_size: 32 << 20,
        wal_segment_size: 8 << 20,
        max_memory: 256 << 20,
        ..config()
    };
    let db = Database::create(scratch.db(), config.clone()).unwrap();
    let log_bytes = || db.stats().unwrap().wal_file_bytes;
    let put = |n: u64| db.put(n.to_be_bytes(), vec![7; 60 << 10]).unwrap();
    // Fast until segments are large, then slowly into the next: of the two spares one is small then.
    (0..200).for_each(put);
    std::thread::sleep(Duration::from_millis(500));
    // (If commits had to wait at the end of the fast part, the next segment is large once more.)
    let mut n = 200;
    let is_small = (0..3).any(|_| {
        let before = log_bytes();
        while log_bytes() == before {
            put(n);
            n += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(200));
        log_bytes() < before + (2 << 20)
    });
    assert!(is_small, "the next spare is large");
    // In this segment something is durable, and much is not known to be.
    db.put_with("durable", "", Durability::Sync).unwrap();
    (n..n + 80).for_each(put);
    let killed = scratch.path().join("killed");
    lay_out(&killed, &contents_of_files(&scratch.db()));

    // What the disk has of the log.
    let synced = Arc::new(Mutex::new(BTreeMap::new()));
    let rule = {
        let synced = Arc::clone(&synced);
        move |call: Call, path: &Path| match call {
            Call::Create => no_space(),
            Call::Sync if is_log(path) => {
                let name = path.file_name().unwrap().to_str().unwrap().to_string();
                synced.lock().unwrap().insert(name, fs::read(path)?);
                Ok(())
            }
            _ => Ok(()),
        }
    };
    let opened = Database::open_with_env(under(rule), &killed, config.clone()).unwrap();
    let mut files = contents_of_files(&killed);
    files.extend(std::mem::take(&mut *synced.lock().unwrap()));
    drop(opened);
    let lost = scratch.path().join("lost");
    lay_out(&lost, &files);
    let db = Database::open_with_env(full_disk(), &lost, config).unwrap();
    assert_eq!(db.iter().unwrap().map(Result::unwrap).count() as u64, n + 81);
}

/// Any call of an opening may fail: the answer says which, and the next opening finds everything.
#[test]
fn an_opening_in_which_a_call_fails_says_what_failed() {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), config()).unwrap();
    let other = db.keyspace("other").unwrap();
    for n in 0..300u64 {
        db.put(n.to_be_bytes(), [7; 1000]).unwrap();
    }
    other.put("durable", "").unwrap();
    db.checkpoint().unwrap();
    other.put("not known to be durable", "").unwrap();
    let files = contents_of_files(&scratch.db());
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let mut refused = 0;
        for n in 0.. {
            let path = scratch.path().join(format!("{kind} {n}"));
            lay_out(&path, &files);
            let calls = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&calls);
            let rule = move |_: Call, _: &Path| match counted.fetch_add(1, SeqCst) == n {
                true => Err(io::Error::new(kind, "as the test wants it")),
                false => Ok(()),
            };
            let opened = Database::open_with_env(under(rule), &path, config());
            let reached = calls.load(SeqCst) > n;
            match opened {
                Ok(db) => drop(db),
                Err(Error::Io { path: at, .. } | Error::NoSpace { path: at, .. }) => {
                    assert!(at.starts_with(scratch.path()) && reached, "{}", at.display());
                    refused += 1;
                }
                Err(unclear) => panic!("call {n}: {unclear:?}"),
            }
            let db = Database::open(&path, config()).unwrap();
            assert_eq!(db.iter().unwrap().map(Result::unwrap).count(), 300);
            let keys = db.keyspace("other").unwrap().iter().unwrap().map(Result::unwrap).count();
            assert_eq!(keys, 2);
            drop(db);
            fs::remove_dir_all(&path).unwrap();
            if !reached {
                break;
            }
        }
        assert!(refused > 20, "{refused} calls failed the opening with {kind}");
    }
}

/// Nothing needs what an opening began that did not come to its end. But if the edit were lost that took it
/// into the log, only the segment itself could tell.
#[test]
fn a_segment_of_an_interrupted_opening_must_be_readable() {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), config()).unwrap();
    db.put("key", "value").unwrap();
    db.close().unwrap();
    drop(db);
    let edits = AtomicU64::new(0);
    let fails_second_edit = move |call: Call, path: &Path| {
        let edit = call == Call::Write && path.to_string_lossy().contains("manifest");
        match edit && edits.fetch_add(1, SeqCst) == 1 {
            true => Err(io::Error::other("as the test wants it")),
            false => Ok(()),
        }
    };
    let interrupted = Database::open_with_env(under(fails_second_edit), scratch.db(), config());
    assert!(matches!(interrupted, Err(Error::Io { .. })), "{interrupted:?}");
    let files = contents_of_files(&scratch.db());
    let mut refused = 0;
    for segment in files.keys().filter(|name| name.starts_with("wal-")) {
        for nth in 0..2 {
            let copy = scratch.path().join(format!("{segment} {nth}"));
            lay_out(&copy, &files);
            let (reads, name) = (AtomicU64::new(0), segment.clone());
            let rule = move |call: Call, path: &Path| {
                let read = call == Call::Read && path.ends_with(&name);
                match read && reads.fetch_add(1, SeqCst) == nth {
                    true => Err(io::Error::other("as the test wants it")),
                    false => Ok(()),
                }
            };
            match Database::open_with_env(under(rule), &copy, config()) {
                Ok(_) => assert_eq!(nth, 1, "{segment}: only that of a spare is its header alone"),
                Err(error) => {
                    assert!(matches!(error, Error::Io { .. }), "{error:?}");
                    assert!(contents_of_files(&copy) == files, "{error}");
                    refused += 1;
                }
            }
            let db = Database::open(&copy, config()).unwrap();
            assert_eq!(db.get("key").unwrap().unwrap(), b"value", "{segment}");
        }
    }
    assert!(refused >= 5, "{refused} refused");
}

#[test]
fn segments_without_a_manifest_are_no_empty_directory_whatever_they_are_called() {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), config()).unwrap();
    db.put("key", "value").unwrap();
    db.close().unwrap();
    drop(db);
    let mut files = contents_of_files(&scratch.db());
    files.retain(|name, _| name.starts_with("wal-"));
    let renamed = files.iter().map(|(name, bytes)| (name.replace("wal-0", "wal-1"), bytes.clone()));
    let lost = scratch.path().join("lost");
    lay_out(&lost, &renamed.collect());
    let before = contents_of_files(&lost);
    for open in [Database::create, Database::open_or_create] {
        assert!(open(lost.clone(), config()).unwrap_err().is_corruption());
    }
    assert!(contents_of_files(&lost) == before, "something was touched");
}

#[test]
fn a_commit_as_large_as_the_spare_goes_on() {
    let scratch = Scratch::in_memory();
    let config = LightningDbConfig { wal_segment_size: 16 << 10, ..config() };
    let db = Database::create(scratch.db(), config).unwrap();
    soon("commits of all sizes", move || {
        for len in (0..20_000).step_by(97) {
            // Ends in the middle of a block, behind which the next begins.
            db.put_with("key", "value", Durability::Sync).unwrap();
            db.put("key", vec![7; len]).unwrap();
        }
    });
}

/// A database of two keyspaces with tables and a log, closed or killed.
fn laid_out(path: &Path, closed: bool) -> LightningDbConfig {
    let config = LightningDbConfig { memtable_size: 16 << 10, ..config() };
    let made = path.with_extension("made");
    let db = Database::create(&made, config.clone()).unwrap();
    let other = db.keyspace("other").unwrap();
    let mut n = 0u64;
    while db.stats().unwrap().flushes < 3 {
        let mut batch = WriteBatch::new();
        batch.put(n.to_be_bytes(), [1; 200]).put_in(&other, n.to_be_bytes(), [2; 100]);
        batch.delete_range(vec![9]..vec![10]);
        db.write(batch).unwrap();
        n += 1;
    }
    while db.stats().unwrap().sealed_memtables > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    db.put("last", "one").unwrap();
    if closed {
        db.close().unwrap();
    }
    // As they stand while it is open: what a kill would leave.
    fs::create_dir(path).unwrap();
    for (name, bytes) in contents_of_files(&made) {
        fs::write(path.join(name), bytes).unwrap();
    }
    drop((other, db));
    fs::remove_dir_all(&made).unwrap();
    config
}

#[test]
fn an_opening_that_finds_a_damaged_table_changes_nothing() {
    for closed in [true, false] {
        let scratch = Scratch::in_memory();
        let config = laid_out(&scratch.db(), closed);
        let whole = contents_of_files(&scratch.db());
        let (mut tables, mut refused) = (0, 0);
        for name in whole.keys().filter(|name| name.ends_with(".sst")) {
            tables += 1;
            let len = whole[name].len();
            // Header, footer, and what stands before the footer: properties, index.
            for at in [10, 40, len - 1, len - 50, len - 130, len - 300] {
                let mut bytes = whole[name].clone();
                bytes[at] ^= 1;
                fs::write(scratch.db().join(name), bytes).unwrap();
                let damaged = contents_of_files(&scratch.db());
                let error = Database::open(scratch.db(), config.clone()).unwrap_err();
                let expected = matches!(error, Error::Corruption(_) | Error::Unsupported { .. });
                assert!(expected, "{name} at {at}: {error:?}");
                assert!(contents_of_files(&scratch.db()) == damaged, "{name} at {at}: {error}");
                refused += 1;
            }
            fs::remove_file(scratch.db().join(name)).unwrap();
            let without = contents_of_files(&scratch.db());
            assert!(Database::open(scratch.db(), config.clone()).unwrap_err().is_corruption());
            assert!(contents_of_files(&scratch.db()) == without, "{name}");
            fs::write(scratch.db().join(name), &whole[name]).unwrap();
        }
        println!("{tables} tables, {refused} refusals");
        let db = Database::open(scratch.db(), config).unwrap();
        assert_eq!(db.get("last").unwrap().unwrap(), b"one");
    }
}

#[test]
fn a_database_whose_log_cannot_be_read_does_not_open() {
    for closed in [true, false] {
        let scratch = Scratch::in_memory();
        let config = laid_out(&scratch.db(), closed);
        let whole = contents_of_files(&scratch.db());
        let segments: Vec<_> = whole.keys().filter(|name| name.starts_with("wal-")).collect();
        let mut refused = 0;
        for name in &segments {
            for call in [Call::Open, Call::Read] {
                let _old = fs::remove_dir_all(scratch.db());
                fs::create_dir(scratch.db()).unwrap();
                for (name, bytes) in &whole {
                    fs::write(scratch.db().join(name), bytes).unwrap();
                }
                let bad = scratch.db().join(name);
                let rule = move |called: Call, path: &Path| match called == call && path == bad {
                    true => Err(io::Error::other("as the test wants it")),
                    false => Ok(()),
                };
                let env = under(rule);
                let error = Database::open_with_env(env, scratch.db(), config.clone()).unwrap_err();
                assert!(matches!(error, Error::Io { .. }), "{error:?}");
                assert!(error.to_string().contains(name.as_str()), "{error}");
                assert!(contents_of_files(&scratch.db()) == whole, "{error}");
                refused += 1;
                let db = Database::open(scratch.db(), config.clone()).unwrap();
                assert_eq!(db.get("last").unwrap().unwrap(), b"one");
            }
        }
        assert!(refused >= 4, "closed: {closed}: {refused}");
    }
}

#[test]
fn a_header_that_went_to_another_segment_tells_of_the_one_that_lacks_it() {
    let scratch = Scratch::in_memory();
    let config = laid_out(&scratch.db(), false);
    let whole = contents_of_files(&scratch.db());
    let segments: Vec<_> = whole.keys().filter(|name| name.starts_with("wal-")).collect();
    let mut refused = 0;
    for (meant, hit) in segments.iter().flat_map(|a| segments.iter().map(move |b| (*a, *b))) {
        let mut files = whole.clone();
        let header = whole[meant][..4096].to_vec();
        files.get_mut(hit).unwrap()[..4096].copy_from_slice(&header);
        if meant != hit {
            files.get_mut(meant).unwrap()[..4096].fill(0);
        }
        let copy = scratch.path().join(format!("{meant} in {hit}"));
        lay_out(&copy, &files);
        let opened = Database::open(&copy, config.clone());
        if meant == hit {
            assert_eq!(opened.unwrap().get("last").unwrap().unwrap(), b"one");
            continue;
        }
        let error = opened.unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains(hit.as_str()), "{error}");
        assert!(error.to_string().contains(meant.as_str()), "{error}");
        assert!(contents_of_files(&copy) == files, "{error}");
        refused += 1;
    }
    assert!(refused >= 2, "{refused} of {segments:?}");
}
