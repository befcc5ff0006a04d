//! Bulk loads: all or nothing, at one place among the commits.

use lightning_db::{Database, Error, Keyspace, LightningDbConfig, Result, env::OsEnv};
use lightning_faults::{Call, FaultyEnv};
use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

const ENTRIES: u64 = 20_000;

fn config() -> LightningDbConfig {
    LightningDbConfig { memtable_size: 1 << 20, max_key_size: 100, ..Default::default() }
}

fn create(dir: &tempfile::TempDir) -> Result<Arc<Database>> {
    Database::create(dir.path().join("db"), config())
}

fn entry(number: u64) -> ([u8; 8], [u8; 100]) {
    let mut value = [number as u8; 100];
    value[..8].copy_from_slice(&number.to_le_bytes());
    (number.to_be_bytes(), value)
}

fn entries() -> impl Iterator<Item = ([u8; 8], [u8; 100])> {
    (0..ENTRIES).map(entry)
}

/// Nothing is left of a load that failed, and the next one goes well.
fn assert_nothing_left(db: &Database) -> Result<()> {
    let report = db.check_integrity()?;
    assert!(report.faults.is_empty() && report.tree_nodes == 0, "{report:?}");
    assert_loads(db)
}

fn assert_loads(db: &Database) -> Result<()> {
    assert_eq!(db.first()?, None);
    assert_eq!(db.bulk_load(entries())?, ENTRIES);
    let mut number = 0;
    db.for_each(.., |key, value| {
        let (k, v) = entry(number);
        assert_eq!((key, value), (&k[..], &v[..]));
        number += 1;
    })?;
    assert_eq!(number, ENTRIES);
    Ok(())
}

#[test]
fn what_was_loaded_is_there_after_reopening_and_never_was_in_the_log() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = create(&dir)?;
    let before = db.stats()?.log_end_lsn;
    assert_loads(&db)?;
    assert_eq!(db.stats()?.log_end_lsn, before);
    let report = db.check_integrity()?;
    let tree = &report.trees[0];
    assert_eq!((tree.entries, tree.raw_bytes), (ENTRIES, ENTRIES * 108));
    assert!(tree.page_bytes * 9 < tree.raw_bytes * 10, "not packed: {tree:?}");
    drop(db);
    let db = Database::open(dir.path().join("db"), config())?;
    assert_eq!(db.iter()?.count() as u64, ENTRIES);
    assert_eq!(db.get(7_u64.to_be_bytes())?.as_deref(), Some(&entry(7).1[..]));
    assert!(matches!(db.bulk_load(entries()), Err(Error::NotEmpty { .. })));
    Ok(())
}

#[test]
fn a_load_of_nothing_is_a_load() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = create(&dir)?;
    assert_eq!(db.bulk_load(std::iter::empty::<(&str, &str)>())?, 0);
    assert_nothing_left(&db)
}

#[test]
fn a_bad_entry_is_named_and_nothing_is_loaded() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = create(&dir)?;
    let refused = |result: Result<u64>, wanted: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::BadEntry { .. }), "{error}");
        assert_eq!(error.to_string(), wanted);
    };
    refused(
        db.bulk_load([("a", ""), ("b", ""), ("b", "")]),
        "entry 3 of a bulk load, key \"b\": not greater than the one before it, \"b\"",
    );
    let far = entries().chain([(5_u64.to_be_bytes(), [0; 100])]);
    let error = db.bulk_load(far).unwrap_err().to_string();
    assert!(error.starts_with("entry 20001 of a bulk load, key \"\\x00\\x00"), "{error}");
    let long = "k".repeat(101);
    refused(
        db.bulk_load([("a".into(), ""), (long, "")]),
        &format!(
            "entry 2 of a bulk load, key \"{}\".. of 101 bytes: key is larger than max_key_size allows",
            "k".repeat(64)
        ),
    );
    assert_nothing_left(&db)
}

#[test]
fn what_the_input_fails_with_is_returned_as_it_is() -> Result<()> {
    #[derive(Debug)]
    enum Failed {
        Input(u64),
        Database(Error),
    }
    impl From<Error> for Failed {
        fn from(error: Error) -> Failed {
            Failed::Database(error)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let db = create(&dir)?;
    for at in [0, 1, ENTRIES / 2] {
        let input = entries().zip(0..).map(|(entry, n)| match n == at {
            true => Err(Failed::Input(n)),
            false => Ok(entry),
        });
        let failed = db.try_bulk_load(input);
        assert!(matches!(failed, Err(Failed::Input(n)) if n == at), "{failed:?}");
    }
    let again = [Ok(("b", "")), Ok(("a", "")), Err(Failed::Input(2))];
    let failed = db.try_bulk_load(again);
    assert!(matches!(failed, Err(Failed::Database(Error::BadEntry { number: 2, .. }))));
    assert_nothing_left(&db)
}

/// Tombstones in memory, in runs and over a tree hide nothing of what is loaded later.
#[test]
fn what_was_deleted_before_does_not_hide_what_is_loaded() -> Result<()> {
    for settled in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let db = create(&dir)?;
        entries().try_for_each(|(key, value)| db.put(key, value))?;
        if settled {
            db.compact()?;
        }
        (0..ENTRIES / 2).try_for_each(|number| db.delete(number.to_be_bytes()))?;
        assert!(matches!(db.bulk_load(entries()), Err(Error::NotEmpty { .. })));
        db.delete_range((ENTRIES / 2).to_be_bytes()..)?;
        let held = db.snapshot()?;
        assert_loads(&db)?;
        assert_eq!(held.first()?, None, "a snapshot from before sees a load");
        drop(held);
        db.compact()?;
        assert_eq!(db.iter()?.count() as u64, ENTRIES);
        assert!(db.check_integrity()?.faults.is_empty());
    }
    Ok(())
}

#[test]
fn what_is_committed_meanwhile_is_newer_than_what_is_loaded() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = create(&dir)?;
    let space = db.keyspace("space")?;
    let mut held = None;
    let input = entries().zip(0..).map(|(entry, n)| {
        match n {
            10 => {
                space.put(5_u64.to_be_bytes(), "put")?;
                space.delete(7_u64.to_be_bytes())?;
                space.delete_range(100_u64.to_be_bytes()..110_u64.to_be_bytes())?;
            }
            20 => {
                let second = space.bulk_load([("a", "b")]);
                assert!(matches!(second, Err(Error::InvalidArgument { .. })), "{second:?}");
                // Others have their own, and what is compacted is what nobody loads.
                db.bulk_load([("a", "b")])?;
                db.compact()?;
                assert_eq!(space.iter()?.count(), 1);
            }
            30 => held = Some(db.snapshot()?),
            // Each goes into a run of its own, and none is merged.
            40..70 => {
                db.put("c", "d")?;
                space.delete([n as u8, 0])?;
                db.compact()?;
            }
            _ => {}
        }
        Ok::<_, Error>(entry)
    });
    assert_eq!(space.try_bulk_load(input)?, ENTRIES);
    let check = || -> Result<()> {
        assert_eq!(space.get(5_u64.to_be_bytes())?.as_deref(), Some(&b"put"[..]));
        assert_eq!(space.get(7_u64.to_be_bytes())?, None);
        assert_eq!(space.range(100_u64.to_be_bytes()..110_u64.to_be_bytes())?.count(), 0);
        assert_eq!(space.iter()?.count() as u64, ENTRIES - 11);
        assert_eq!(db.iter()?.count(), 2);
        Ok(())
    };
    check()?;
    let held = held.map(|held| held.of(&space).iter().map(Iterator::count)).transpose()?;
    assert_eq!(held, Some(1));
    db.compact()?;
    check()?;
    assert_eq!(db.stats()?.keyspaces[1].tables, 0);
    assert!(db.check_integrity()?.faults.is_empty());
    Ok(())
}

#[test]
fn a_keyspace_that_is_dropped_and_a_database_that_is_closed_end_a_load() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = create(&dir)?;
    let gone = db.keyspace("gone")?;
    let dropping = entries().zip(0..).map(|(entry, n)| {
        if n == ENTRIES - 1 {
            db.drop_keyspace("gone")?;
        }
        Ok::<_, Error>(entry)
    });
    let failed = gone.try_bulk_load(dropping);
    assert!(matches!(failed, Err(Error::KeyspaceNotFound { .. })), "{failed:?}");
    assert!(matches!(gone.bulk_load(entries()), Err(Error::KeyspaceNotFound { .. })));
    let closing = entries().zip(0..).map(|(entry, n)| {
        if n == ENTRIES / 2 {
            db.close()?;
        }
        Ok::<_, Error>(entry)
    });
    let failed = db.try_bulk_load(closing);
    assert!(matches!(failed, Err(Error::Closed)), "{failed:?}");
    assert!(matches!(db.bulk_load(entries()), Err(Error::Closed)));
    drop((db, gone));
    assert_nothing_left(&*Database::open(dir.path().join("db"), config())?)
}

/// Two loads at once write to one file, beside merges.
#[test]
fn loads_of_several_keyspaces_and_merges_go_on_at_once() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let db = create(&dir)?;
    thread::scope(|scope| {
        for name in ["a", "b"] {
            let db = &db;
            scope.spawn(move || {
                for _ in 0..5 {
                    let space = db.keyspace(name).unwrap();
                    assert_eq!(space.bulk_load(entries()).unwrap(), ENTRIES);
                    assert!(
                        space
                            .iter()
                            .unwrap()
                            .map(Result::unwrap)
                            .eq(entries().map(|(key, value)| (key.to_vec(), value.to_vec())))
                    );
                    space.delete_range(..).unwrap();
                }
            });
        }
        for number in 0..ENTRIES {
            let (key, value) = entry(number);
            db.put(key, value).unwrap();
            if number % 2000 == 0 {
                db.compact().unwrap();
            }
        }
    });
    db.compact()?;
    assert_eq!(db.iter()?.count() as u64, ENTRIES);
    let report = db.check_integrity()?;
    assert!(report.faults.is_empty(), "{report:?}");
    Ok(())
}

/// Long enough for any machine; passing it means that something hangs.
const NEVER: Duration = Duration::from_secs(30);

/// Holds up writes to the file of the trees.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    /// A write is held up.
    holds: Mutex<bool>,
}

impl Gate {
    /// Lets one write wait until the gate is open, and all others pass.
    fn pass(&self, call: Call, path: &Path) {
        let is_held = call == Call::Write && path.extension().is_some_and(|e| e == "tree");
        if is_held
            && *self.closed.lock().unwrap()
            && !std::mem::replace(&mut *self.holds.lock().unwrap(), true)
        {
            let open = self.opened.wait_while(self.closed.lock().unwrap(), |closed| *closed);
            drop(open.unwrap());
        }
    }

    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }
}

fn runs(db: &Database, keyspace: &Keyspace) -> u64 {
    let stats = db.stats().unwrap();
    let found = stats.keyspaces.iter().find(|k| k.name == keyspace.name());
    found.map_or(0, |keyspace| keyspace.tables)
}

/// Fills memtables until it holds.
fn put_until(keyspace: &Keyspace, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    for number in 0_u64.. {
        if holds() {
            return;
        }
        assert!(began.elapsed() < NEVER, "flushes or merges do not come");
        keyspace.put(number.to_be_bytes(), [7; 500]).unwrap();
        // Flushes are to keep up: who puts must not wait for one.
        thread::sleep(Duration::from_millis(1));
    }
}

/// While a keyspace has too many runs flushes wait, and a load of the keyspace waits for a flush: nobody merges what
/// is being loaded, so the flush must be told not to wait for that.
#[test]
fn a_load_does_not_wait_for_a_flush_that_waits_for_it() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let rule = gate.clone();
    let rule = move |call: Call, path: &Path| {
        rule.pass(call, path);
        Ok(())
    };
    let env = FaultyEnv::new(OsEnv::new(), rule);
    let config = LightningDbConfig { memtable_size: 4 << 10, ..config() };
    let db = Database::create_with_env(env, dir.path().join("db"), config)?;
    let (busy, loaded) = (db.keyspace("busy")?, db.keyspace("loaded")?);
    busy.put("makes", "the file of the trees")?;
    db.compact()?;
    // The thread that merges is held up in another keyspace.
    gate.set(true);
    put_until(&busy, || *gate.holds.lock().unwrap());
    put_until(&loaded, || runs(&db, &loaded) >= 24);
    put_until(&loaded, || db.stats().unwrap().sealed_memtables > 0);
    loaded.delete_range(..)?;
    // All of memory is sealed: nothing else tells the flush to look again.
    let sealed = || db.stats().unwrap().sealed_memtables;
    let (before, whole) = (sealed(), db.clone());
    let compactor = thread::spawn(move || whole.compact());
    let began = Instant::now();
    while sealed() == before {
        assert!(began.elapsed() < NEVER, "nothing is sealed");
        thread::sleep(Duration::from_millis(1));
    }
    let (sender, receiver) = mpsc::channel();
    let load = loaded.clone();
    let loader = thread::spawn(move || sender.send(load.bulk_load([("key", "value")])));
    let told = receiver.recv_timeout(NEVER);
    gate.set(false);
    assert_eq!(told.expect("the load ends before the merge")?, 1);
    loader.join().unwrap().unwrap();
    compactor.join().unwrap()?;
    assert_eq!(loaded.iter()?.count(), 1);
    db.close()
}
