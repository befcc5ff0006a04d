//! For the failure of a transaction: it sees what it should not, loses what it was told, or half of it stays.

mod tries;

use crate::{files::Scratch, random::Random};
use lightning_db::{
    Database, Durability, Error, IsolationLevel, LightningDbConfig, Result, Transaction,
    TransactionOptions, WriteBatch,
};
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

const LEVELS: [IsolationLevel; 3] =
    [IsolationLevel::ReadCommitted, IsolationLevel::Snapshot, IsolationLevel::Serializable];

fn database(scratch: &Scratch) -> Arc<Database> {
    Database::create(scratch.path(), LightningDbConfig::default()).unwrap()
}

fn begin(db: &Database, level: IsolationLevel) -> Transaction {
    db.transaction().isolation(level).begin().unwrap()
}

fn conflicts<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::TransactionConflict)), "{result:?}");
}

fn text(db: &Database, key: &str) -> Option<String> {
    db.get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

#[test]
fn nobody_sees_a_transaction_before_its_commit() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    db.put("gone", "1").unwrap();
    for level in LEVELS {
        let tx = begin(&db, level);
        tx.put("a", "1").unwrap();
        tx.delete("gone").unwrap();
        assert_eq!(tx.get("a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(tx.get("gone").unwrap(), None);
        assert_eq!((text(&db, "a"), text(&db, "gone")), (None, Some("1".into())));
        let seq = tx.commit().unwrap();
        assert_eq!(seq, db.snapshot().unwrap().seq());
        assert_eq!((text(&db, "a"), text(&db, "gone")), (Some("1".into()), None));
        db.write({
            let mut batch = WriteBatch::new();
            batch.delete("a").put("gone", "1");
            batch
        })
        .unwrap();
    }
}

#[test]
fn what_is_dropped_or_aborted_never_was() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let before = db.stats().unwrap();
    let tx = begin(&db, IsolationLevel::Snapshot);
    tx.put("a", "1").unwrap();
    drop(tx);
    let tx = begin(&db, IsolationLevel::Snapshot);
    tx.put("a", "1").unwrap();
    let same = tx.of(&db.keyspace("other").unwrap()).unwrap();
    tx.abort();
    assert!(matches!(same.put("b", "2"), Err(Error::TransactionEnded { how: "aborted" })));
    assert!(matches!(same.commit(), Err(Error::TransactionEnded { .. })));
    assert_eq!(db.iter().unwrap().count(), 0);
    let after = db.stats().unwrap();
    assert_eq!(after.transactions_aborted, before.transactions_aborted + 2);
    assert_eq!(after.open_transactions, 0);
    assert_eq!(after.visible_seq, before.visible_seq);
}

#[test]
fn the_first_to_commit_wins() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    for other_is_plain in [false, true] {
        let tx = begin(&db, IsolationLevel::Snapshot);
        tx.put("key", "mine").unwrap();
        match other_is_plain {
            true => db.put("key", "plain").unwrap(),
            false => {
                let other = begin(&db, IsolationLevel::Snapshot);
                other.put("key", "plain").unwrap();
                other.commit().unwrap();
            }
        }
        conflicts(tx.commit());
        assert_eq!(text(&db, "key").as_deref(), Some("plain"));
    }
    // A batch, a delete, a range delete around the key.
    let others: [fn(&Database) -> Result<()>; 3] = [
        |db| db.put_batch(&[("a", "1"), ("key", "2")]),
        |db| db.delete("key"),
        |db| db.delete_range("j".."l"),
    ];
    for other in others {
        let tx = begin(&db, IsolationLevel::Snapshot);
        tx.put("key", "mine").unwrap();
        other(&db).unwrap();
        conflicts(tx.commit());
        let unrelated = begin(&db, IsolationLevel::Snapshot);
        unrelated.put("unrelated", "1").unwrap();
        other(&db).unwrap();
        unrelated.commit().unwrap();
    }
}

#[test]
fn a_deleted_range_counts_as_written() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let tx = begin(&db, IsolationLevel::Snapshot);
    tx.delete_range("b".."d").unwrap();
    db.put("c", "new").unwrap();
    conflicts(tx.commit());
    assert_eq!(text(&db, "c").as_deref(), Some("new"));
    let tx = begin(&db, IsolationLevel::Snapshot);
    tx.delete_range("b".."d").unwrap();
    db.put("d", "beside").unwrap();
    tx.commit().unwrap();
    assert_eq!(text(&db, "c"), None);
}

#[test]
fn the_same_key_of_another_keyspace_is_another_key() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let other = db.keyspace("other").unwrap();
    for level in LEVELS {
        let tx = begin(&db, level);
        tx.get("key").unwrap();
        assert_eq!(tx.iter().unwrap().count(), 0);
        tx.put("key", "1").unwrap();
        other.put("key", "2").unwrap();
        tx.of(&other).unwrap().put("key 2", "3").unwrap();
        tx.commit().unwrap();
        assert_eq!(other.get("key").unwrap().as_deref(), Some(&b"2"[..]));
        db.delete("key").unwrap();
    }
}

/// Each of two transactions reads what the other writes: allowed under Snapshot, not under Serializable.
#[test]
fn write_skew_occurs_under_snapshot_and_never_under_serializable() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let run = |level| {
        db.put_batch(&[("x", "1"), ("y", "1")]).unwrap();
        let (one, two) = (begin(&db, level), begin(&db, level));
        for tx in [&one, &two] {
            let both = [tx.get("x").unwrap(), tx.get("y").unwrap()];
            assert!(both.iter().all(|value| value.as_deref() == Some(b"1")));
        }
        one.put("x", "0").unwrap();
        two.put("y", "0").unwrap();
        one.commit().unwrap();
        two.commit()
    };
    run(IsolationLevel::Snapshot).unwrap();
    assert_eq!((text(&db, "x"), text(&db, "y")), (Some("0".into()), Some("0".into())));
    conflicts(run(IsolationLevel::Serializable));
    assert_eq!(text(&db, "y").as_deref(), Some("1"));
}

/// A range that a transaction has read gets an entry.
#[test]
fn phantoms_fail_serializable_transactions_only() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    type Read = fn(&Transaction);
    let reads: [Read; 4] = [
        |tx| assert_eq!(tx.range("b".."d").unwrap().count(), 0),
        |tx| assert_eq!(tx.range("b".."d").unwrap().rev().count(), 0),
        |tx| assert_eq!(tx.scan_prefix("c").unwrap().count(), 0),
        |tx| assert!(tx.get("c").unwrap().is_none()),
    ];
    for level in LEVELS {
        for read in reads {
            let tx = begin(&db, level);
            read(&tx);
            tx.put("result", "0").unwrap();
            db.put("c", "phantom").unwrap();
            match level {
                IsolationLevel::Serializable => conflicts(tx.commit()),
                _ => _ = tx.commit().unwrap(),
            }
            db.delete("c").unwrap();
        }
    }
}

/// Only what a scan came to counts as read.
#[test]
fn a_scan_reads_no_further_than_it_goes() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let all: Vec<_> = ('a'..='f').map(|key| (key.to_string(), "1")).collect();
    db.put_batch(&all).unwrap();
    let after_two = |key: &str, back: bool| {
        let tx = begin(&db, IsolationLevel::Serializable);
        let mut scan = tx.iter().unwrap();
        for _ in 0..2 {
            if back { scan.next_back() } else { scan.next() }.unwrap().unwrap();
        }
        tx.put("result", "1").unwrap();
        db.put(key, "2").unwrap();
        tx.commit()
    };
    conflicts(after_two("a", false));
    conflicts(after_two("ab", false));
    db.delete("ab").unwrap();
    conflicts(after_two("b", false));
    after_two("c", false).unwrap();
    db.delete("result").unwrap();
    conflicts(after_two("e", true));
    db.delete("result").unwrap();
    conflicts(after_two("ef", true));
    db.delete("result").unwrap();
    after_two("d", true).unwrap();
}

#[test]
fn read_committed_reads_what_is_newest_and_fails_only_for_update() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let tx = begin(&db, IsolationLevel::ReadCommitted);
    assert_eq!(tx.get("key").unwrap(), None);
    db.put("key", "1").unwrap();
    assert_eq!(tx.get("key").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(tx.iter().unwrap().count(), 1);
    tx.put("key", "mine").unwrap();
    db.put("key", "2").unwrap();
    tx.commit().unwrap();
    assert_eq!(text(&db, "key").as_deref(), Some("mine"));

    let tx = begin(&db, IsolationLevel::ReadCommitted);
    assert!(tx.get_for_update("key").unwrap().is_some());
    tx.put("other", "1").unwrap();
    db.put("key", "3").unwrap();
    conflicts(tx.commit());
    // What was committed before the read is no conflict.
    let tx = begin(&db, IsolationLevel::ReadCommitted);
    db.put("key", "4").unwrap();
    assert_eq!(tx.get_for_update("key").unwrap().as_deref(), Some(&b"4"[..]));
    tx.put("key", "5").unwrap();
    tx.commit().unwrap();
}

#[test]
fn a_read_only_transaction_refuses_writes_and_never_fails() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    db.put("key", "1").unwrap();
    for level in LEVELS {
        let tx = db.transaction().isolation(level).read_only().begin().unwrap();
        let before = tx.get("key").unwrap();
        db.put("key", "2").unwrap();
        let seen = tx.get("key").unwrap();
        assert_eq!(seen == before, level != IsolationLevel::ReadCommitted);
        assert!(matches!(tx.put("key", "3"), Err(Error::ReadOnlyTransaction)));
        assert!(matches!(tx.delete("key"), Err(Error::ReadOnlyTransaction)));
        assert!(matches!(tx.delete_range(..), Err(Error::ReadOnlyTransaction)));
        assert!(matches!(tx.get_for_update("key"), Err(Error::ReadOnlyTransaction)));
        tx.commit().unwrap();
        db.put("key", "1").unwrap();
    }
}

#[test]
fn savepoints_nest_and_go_back() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    db.put("old", "1").unwrap();
    let tx = begin(&db, IsolationLevel::Snapshot);
    tx.put("a", "1").unwrap();
    let outer = tx.savepoint().unwrap();
    tx.put("a", "2").unwrap();
    tx.delete_range(..).unwrap();
    let inner = tx.savepoint().unwrap();
    tx.put("b", "1").unwrap();
    assert_eq!(tx.iter().unwrap().count(), 1);
    tx.rollback_to(inner).unwrap();
    assert_eq!(tx.iter().unwrap().count(), 0);
    tx.put("c", "1").unwrap();
    tx.rollback_to(inner).unwrap(); // it is still there
    tx.rollback_to(outer).unwrap();
    let refused = tx.rollback_to(inner);
    assert!(
        matches!(refused, Err(Error::InvalidArgument { what: "savepoint", .. })),
        "{refused:?}"
    );
    let stranger = begin(&db, IsolationLevel::Snapshot);
    assert!(matches!(stranger.rollback_to(outer), Err(Error::InvalidArgument { .. })));
    let keys: Vec<_> = tx.iter().unwrap().map(|entry| entry.unwrap().0).collect();
    assert_eq!(keys, [b"a".to_vec(), b"old".to_vec()]);
    tx.commit().unwrap();
    assert_eq!((text(&db, "a").as_deref(), text(&db, "old").as_deref()), (Some("1"), Some("1")));
}

/// Going back does not forget what was read.
#[test]
fn what_was_read_counts_after_going_back() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let tx = begin(&db, IsolationLevel::Serializable);
    let savepoint = tx.savepoint().unwrap();
    tx.get("read").unwrap();
    tx.rollback_to(savepoint).unwrap();
    tx.put("written", "1").unwrap();
    db.put("read", "1").unwrap();
    conflicts(tx.commit());
}

/// What a transaction sees against a map, in every direction, over flushes, merges and savepoints.
#[test]
fn a_transaction_sees_its_own_writes_over_what_is_committed() {
    for seed in 0..if cfg!(feature = "integration_tests") { 100 } else { 30 } {
        let mut random = Random::new(seed);
        let scratch = Scratch::new();
        let db = database(&scratch);
        let key = |random: &mut Random| format!("{:02}", random.below(20));
        let mut committed = BTreeMap::new();
        for n in 0..random.below(30) {
            let key = key(&mut random);
            db.put(&key, n.to_string()).unwrap();
            committed.insert(key.into_bytes(), n.to_string().into_bytes());
            if random.below(10) == 0 {
                db.compact().unwrap();
            }
        }
        let level = LEVELS[random.below(3) as usize];
        let tx = begin(&db, level);
        let (mut seen, mut saved) = (committed, vec![]);
        for n in 0..60 {
            match random.below(8) {
                0 | 1 => {
                    let (key, value) = (key(&mut random), format!("own {n}"));
                    tx.put(&key, &value).unwrap();
                    seen.insert(key.into_bytes(), value.into_bytes());
                }
                2 => {
                    let key = key(&mut random);
                    tx.delete(&key).unwrap();
                    seen.remove(key.as_bytes());
                }
                3 => {
                    let (a, b) = (key(&mut random), key(&mut random));
                    let (start, end) = (a.clone().min(b.clone()), a.max(b));
                    tx.delete_range(&start[..]..&end[..]).unwrap();
                    seen.retain(|key, _| !(start.as_bytes()..end.as_bytes()).contains(&&key[..]));
                }
                4 if random.below(2) == 0 => {
                    saved.push((tx.savepoint().unwrap(), seen.clone()));
                }
                4 if !saved.is_empty() => {
                    saved.truncate(1 + random.below(saved.len() as u64) as usize);
                    let (savepoint, then) = saved.last().unwrap();
                    tx.rollback_to(*savepoint).unwrap();
                    seen.clone_from(then);
                }
                5 => {
                    let key = key(&mut random);
                    assert_eq!(tx.get(&key).unwrap(), seen.get(key.as_bytes()).cloned(), "{seed}");
                    let keys = [&key[..], "00", "19"];
                    let expected = keys.map(|key| seen.get(key.as_bytes()).cloned());
                    assert_eq!(tx.get_batch(&keys).unwrap(), expected, "{seed}");
                }
                _ => walk(&tx, &seen, &mut random, seed),
            }
        }
        tx.commit().unwrap();
        let all: Vec<_> = db.iter().unwrap().map(Result::unwrap).collect();
        assert_eq!(all, seen.into_iter().collect::<Vec<_>>(), "{seed}");
    }
}

/// Walks a range from both ends, turn by turn as it comes.
fn walk(tx: &Transaction, seen: &BTreeMap<Vec<u8>, Vec<u8>>, random: &mut Random, seed: u64) {
    let (a, b) = (format!("{:02}", random.below(21)), format!("{:02}", random.below(21)));
    let (start, end) = (a.clone().min(b.clone()).into_bytes(), a.max(b).into_bytes());
    let mut expected: Vec<_> = seen.range(start.clone()..end.clone()).collect();
    let reversed = random.below(2) == 0;
    let mut scan = match reversed {
        true => tx.scan_reverse(Some(&start), Some(&end)).unwrap(),
        false => tx.scan(Some(&start), Some(&end)).unwrap(),
    };
    if reversed {
        expected.reverse();
    }
    let mut expected = expected.into_iter();
    loop {
        let (found, wanted) = match random.below(3) {
            0 => (scan.next_back(), expected.next_back()),
            _ => (scan.next(), expected.next()),
        };
        let found = found.map(Result::unwrap);
        assert_eq!(found.as_ref().map(|(key, value)| (key, value)), wanted, "{seed}");
        if wanted.is_none() {
            return;
        }
    }
}

#[test]
fn ids_name_transactions() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let tx = db.begin_transaction().unwrap();
    db.put_tx(tx, b"a", b"1").unwrap();
    db.put_tx(tx, b"b", b"2").unwrap();
    db.delete_tx(tx, b"b").unwrap();
    assert_eq!(db.get_tx(tx, b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(db.scan_tx(tx, None, None).unwrap().count(), 1);
    db.commit_transaction(tx).unwrap();
    assert_eq!(text(&db, "a").as_deref(), Some("1"));
    for result in [
        db.put_tx(tx, b"a", b"2"),
        db.delete_tx(tx, b"a"),
        db.commit_transaction(tx),
        db.abort_transaction(tx),
        db.get_tx(tx, b"a").map(|_| ()),
        db.scan_tx(tx, None, None).map(|_| ()),
    ] {
        assert!(matches!(result, Err(Error::TransactionEnded { .. })), "{result:?}");
    }
    // Of another database, and of an earlier opening.
    let other_scratch = Scratch::new();
    let other = database(&other_scratch);
    let foreign = other.begin_transaction().unwrap();
    assert!(matches!(db.get_tx(foreign, b"a"), Err(Error::TransactionNotFound { .. })));
    let tx = db.begin_transaction().unwrap();
    drop(db);
    let db = Database::open(scratch.path(), LightningDbConfig::default()).unwrap();
    db.begin_transaction().unwrap();
    assert!(matches!(db.put_tx(tx, b"a", b"3"), Err(Error::TransactionNotFound { .. })));
    let options = TransactionOptions { snapshot: false, ..Default::default() };
    let tx = db.begin_transaction_with_options(options).unwrap();
    db.put("new", "1").unwrap();
    assert!(db.get_tx(tx, b"new").unwrap().is_some());
}

#[test]
fn a_keyspace_of_another_database_is_refused() {
    let (scratch, other_scratch) = (Scratch::new(), Scratch::new());
    let (db, other) = (database(&scratch), database(&other_scratch));
    let foreign = other.keyspace("foreign").unwrap();
    let tx = begin(&db, IsolationLevel::Snapshot);
    assert!(matches!(tx.of(&foreign), Err(Error::InvalidArgument { what: "keyspace", .. })));
    tx.put("goes", "on").unwrap();
    tx.commit().unwrap();
}

#[test]
fn no_more_transactions_than_allowed() {
    let scratch = Scratch::new();
    let config = LightningDbConfig { max_active_transactions: 3, ..Default::default() };
    let db = Database::create(scratch.path(), config).unwrap();
    let mut open: Vec<_> = (0..3).map(|_| db.transaction().begin().unwrap()).collect();
    let refused = db.begin_transaction();
    assert!(matches!(refused, Err(Error::TooManyTransactions { max: 3 })), "{refused:?}");
    assert!(refused.unwrap_err().is_retryable());
    open.pop();
    let id = db.begin_transaction().unwrap();
    assert!(db.transaction().read_only().begin().is_err());
    db.abort_transaction(id).unwrap();
    assert_eq!(db.stats().unwrap().open_transactions, 2);
}

#[test]
fn a_transaction_ends_when_its_time_is_over() {
    let scratch = Scratch::new();
    let config =
        LightningDbConfig { transaction_timeout: Duration::from_millis(200), ..Default::default() };
    let db = Database::create(scratch.path(), config).unwrap();
    let (by_id, tx) = (db.begin_transaction().unwrap(), db.transaction().begin().unwrap());
    let patient = db.transaction().timeout(Duration::MAX).begin().unwrap();
    db.put_tx(by_id, b"a", b"1").unwrap();
    tx.put("b", "1").unwrap();
    patient.put("c", "1").unwrap();
    // Without anybody asking for it.
    let began = Instant::now();
    while db.stats().unwrap().open_transactions > 1 && began.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(db.stats().unwrap().open_transactions, 1);
    assert!(matches!(db.commit_transaction(by_id), Err(Error::TransactionTimeout)));
    assert!(matches!(tx.get("b"), Err(Error::TransactionTimeout)));
    assert!(matches!(tx.commit(), Err(Error::TransactionTimeout)));
    patient.commit().unwrap();
    assert_eq!(db.iter().unwrap().count(), 1);
    let late = db.transaction().timeout(Duration::ZERO).begin().unwrap();
    assert!(matches!(late.put("late", "1"), Err(Error::TransactionTimeout)));
    assert!(matches!(late.commit(), Err(Error::TransactionTimeout)));
}

#[test]
fn what_is_too_large_is_refused_and_the_rest_goes_on() {
    let scratch = Scratch::new();
    let config =
        LightningDbConfig { memtable_size: 256 << 10, max_memory: 1 << 20, ..Default::default() };
    let db = Database::create(scratch.path(), config).unwrap();
    let tx = begin(&db, IsolationLevel::Snapshot);
    tx.put("small", "1").unwrap();
    let refused = tx.put("large", vec![0; 300 << 10]);
    assert!(matches!(refused, Err(Error::CommitTooLarge { .. })), "{refused:?}");
    assert!(matches!(tx.put(vec![0; 2000], ""), Err(Error::KeyTooLarge)));
    let other = begin(&db, IsolationLevel::Snapshot);
    other.put("half", vec![0; 200 << 10]).unwrap();
    // Together they are too large.
    assert!(matches!(tx.put("half", vec![0; 200 << 10]), Err(Error::CommitTooLarge { .. })));
    drop(other);
    tx.put("half", vec![0; 200 << 10]).unwrap();
    tx.commit().unwrap();
    assert_eq!(db.iter().unwrap().count(), 2);
    assert_eq!(text(&db, "large"), None);
}

#[test]
fn work_that_fails_or_panics_writes_nothing() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let failed = db.execute_transaction(|tx| {
        tx.put("a", "1")?;
        tx.put(vec![0; 5000], "too large")
    });
    assert!(matches!(failed, Err(Error::KeyTooLarge)));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        db.execute_transaction(|tx| {
            tx.put("a", "1")?;
            if tx.contains_key("a")? {
                panic!("planned");
            }
            Ok(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(db.iter().unwrap().count(), 0);
    assert_eq!(db.stats().unwrap().open_transactions, 0);
    db.put("a", "2").unwrap();
}

#[test]
fn work_is_done_again_until_nobody_comes_between() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let mut tries = 0;
    db.execute_transaction(|tx| {
        tries += 1;
        tx.get("key")?;
        if tries == 1 {
            db.put("key", "theirs")?; // no lock yet
        }
        tx.put("key", tries.to_string())
    })
    .unwrap();
    assert_eq!((tries, text(&db, "key").as_deref()), (2, Some("2")));
}

/// Everybody gets his turn, and nothing is lost.
#[test]
fn a_hot_counter_counts_everything_and_starves_nobody() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let (threads, each) = (8, if cfg!(feature = "integration_tests") { 2000 } else { 200 });
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..each {
                    db.execute_transaction(|tx| {
                        let old =
                            tx.get("n")?.map_or(0, |n| u64::from_le_bytes(n.try_into().unwrap()));
                        tx.put("n", (old + 1).to_le_bytes())
                    })
                    .unwrap();
                }
            });
        }
    });
    let count = u64::from_le_bytes(db.get("n").unwrap().unwrap().try_into().unwrap());
    assert_eq!(count, threads * each);
    assert_eq!(db.stats().unwrap().open_transactions, 0);
}

/// Money is neither made nor lost, whatever the level of those who move it and of those who look.
#[test]
fn transfers_keep_the_sum() {
    let scratch = Scratch::new();
    let config = LightningDbConfig { memtable_size: 256 << 10, ..Default::default() };
    let db = Database::create(scratch.path(), config).unwrap();
    let accounts = 10_u64;
    (0..accounts).for_each(|n| db.put(n.to_be_bytes(), 100_i64.to_le_bytes()).unwrap());
    let stop = AtomicBool::new(false);
    let amount = |bytes: Vec<u8>| i64::from_le_bytes(bytes.try_into().unwrap());
    thread::scope(|scope| {
        for seed in 0..4 {
            let (db, stop) = (&db, &stop);
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let level =
                    [IsolationLevel::Snapshot, IsolationLevel::Serializable][seed as usize % 2];
                while !stop.load(SeqCst) {
                    let (from, to) = (random.below(accounts), random.below(accounts));
                    let mut builder = db.transaction().isolation(level);
                    if random.below(3) == 0 {
                        builder = builder.pessimistic();
                    }
                    builder
                        .run(|tx| {
                            let read = |key: u64| tx.get_for_update(key.to_be_bytes());
                            let (a, b) = (amount(read(from)?.unwrap()), amount(read(to)?.unwrap()));
                            if from != to {
                                tx.put(from.to_be_bytes(), (a - 1).to_le_bytes())?;
                                tx.put(to.to_be_bytes(), (b + 1).to_le_bytes())?;
                            }
                            Ok::<_, Error>(())
                        })
                        .unwrap();
                }
            });
        }
        let looks = if cfg!(feature = "integration_tests") { 500 } else { 100 };
        for _ in 0..looks {
            let tx = db.transaction().read_only().begin().unwrap();
            let sum: i64 = tx.iter().unwrap().map(|entry| amount(entry.unwrap().1)).sum();
            assert_eq!(sum, 100 * accounts as i64);
        }
        stop.store(true, SeqCst);
    });
}

#[test]
fn pessimistic_transactions_make_others_wait() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    db.put("key", "0").unwrap();
    let tx = db.transaction().pessimistic().begin().unwrap();
    assert_eq!(tx.get_for_update("key").unwrap().as_deref(), Some(&b"0"[..]));
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            db.put("key", "plain").unwrap();
            done.fetch_add(1, SeqCst);
        });
        scope.spawn(|| {
            let other = db.transaction().pessimistic().begin().unwrap();
            other.get_for_update("key").unwrap();
            done.fetch_add(1, SeqCst);
            other.commit().unwrap();
        });
        db.put("other", "free").unwrap();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(done.load(SeqCst), 0);
        tx.put("key", "locked").unwrap();
        tx.commit().unwrap();
    });
    assert_eq!(done.load(SeqCst), 2);
    assert_eq!(text(&db, "key").as_deref(), Some("plain"));
    let tx = db.transaction().pessimistic().timeout(Duration::from_millis(100)).begin().unwrap();
    let other = db.transaction().pessimistic().begin().unwrap();
    other.put("key", "mine").unwrap();
    let waited = tx.put("key", "never");
    assert!(matches!(waited, Err(Error::LockTimeout | Error::TransactionTimeout)), "{waited:?}");
    other.commit().unwrap();
    db.put("key", "free").unwrap();
}

/// A locked range keeps new keys out.
#[test]
fn a_locked_range_keeps_others_out() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let tx = db.transaction().pessimistic().begin().unwrap();
    tx.delete_range("b".."d").unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            db.put("c", "later").unwrap();
            done.store(true, SeqCst);
        });
        db.put("d", "beside").unwrap();
        thread::sleep(Duration::from_millis(100));
        assert!(!done.load(SeqCst));
        tx.commit().unwrap();
    });
    assert_eq!(text(&db, "c").as_deref(), Some("later"));
}

#[test]
fn a_deadlock_is_found_at_once() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let (one, two) = (
        db.transaction().pessimistic().begin().unwrap(),
        db.transaction().pessimistic().begin().unwrap(),
    );
    let ids = [one.id(), two.id()];
    one.put("a", "1").unwrap();
    two.put("b", "2").unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| one.put("b", "1"));
        thread::sleep(Duration::from_millis(50));
        let lost = two.put("a", "2");
        let Err(Error::Deadlock { cycle }) = &lost else {
            panic!("{lost:?}");
        };
        let mut cycle = cycle.clone();
        cycle.sort();
        assert_eq!(
            cycle.iter().map(u64::to_string).collect::<Vec<_>>(),
            ids.map(|id| id.to_string())
        );
        assert!(matches!(two.get("a"), Err(Error::TransactionEnded { .. })));
        waits.join().unwrap().unwrap();
    });
    one.commit().unwrap();
    assert_eq!((text(&db, "a").as_deref(), text(&db, "b").as_deref()), (Some("1"), Some("1")));
}

#[test]
fn a_bulk_load_is_a_conflict() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let tx = begin(&db, IsolationLevel::Serializable);
    assert_eq!(tx.iter().unwrap().count(), 0);
    tx.put("empty", "yes").unwrap();
    db.bulk_load([("a", "1"), ("b", "2")]).unwrap();
    conflicts(tx.commit());
    assert_eq!(text(&db, "empty"), None);
    begin(&db, IsolationLevel::Serializable).commit().unwrap();
}

/// A load is older than what is committed while it goes on, so nobody may have counted on its not being there.
#[test]
fn what_is_being_loaded_is_a_conflict() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let other = db.keyspace("other").unwrap();
    let before = begin(&db, IsolationLevel::Serializable);
    assert_eq!(before.get("a").unwrap(), None);
    let aside = other.transaction().isolation(IsolationLevel::Serializable).begin().unwrap();
    assert_eq!(aside.get("a").unwrap(), None);
    let entries = ["a", "b"].into_iter().inspect(|key| {
        if *key == "b" {
            return;
        }
        let tx = begin(&db, IsolationLevel::Serializable);
        assert_eq!(tx.get("a").unwrap(), None);
        tx.put("none", "seen").unwrap();
        conflicts(tx.commit());
        let tx = begin(&db, IsolationLevel::Snapshot);
        tx.put("a", "mine").unwrap();
        conflicts(tx.commit());
        conflicts(db.transaction().pessimistic().begin().unwrap().put("a", "mine"));
        other.put("during", "1").unwrap();
    });
    db.bulk_load(entries.map(|key| (key, "loaded"))).unwrap();
    before.put("none", "seen").unwrap();
    conflicts(before.commit());
    aside.put("b", "1").unwrap();
    aside.commit().unwrap();
    assert_eq!(text(&db, "a").as_deref(), Some("loaded"));
    assert_eq!(db.get("none").unwrap(), None);
    begin(&db, IsolationLevel::Serializable).put("none", "1").unwrap();
}

#[test]
fn a_dropped_keyspace_is_a_conflict_for_who_counts_on_it() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let (gone, other) = (db.keyspace("gone").unwrap(), db.keyspace("other").unwrap());
    gone.put("key", "1").unwrap();
    let serializable = || db.transaction().isolation(IsolationLevel::Serializable).begin().unwrap();
    let (reader, aside) = (serializable(), serializable());
    assert_eq!(reader.of(&gone).unwrap().get("key").unwrap(), Some(b"1".to_vec()));
    assert_eq!(aside.of(&other).unwrap().get("key").unwrap(), None);
    db.drop_keyspace("gone").unwrap();
    assert_eq!(reader.of(&gone).unwrap().get("key").unwrap(), Some(b"1".to_vec()));
    reader.put("sum", "1").unwrap();
    aside.put("sum", "2").unwrap();
    aside.commit().unwrap();
    conflicts(reader.commit());
    let late = serializable();
    assert!(matches!(late.of(&gone).unwrap().get("key"), Err(Error::KeyspaceNotFound { .. })));
}

/// At the moment that a transaction sees there was nothing in it.
#[test]
fn a_keyspace_that_is_younger_is_empty() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    for level in [IsolationLevel::Snapshot, IsolationLevel::Serializable] {
        let (tx, other) = (begin(&db, level), begin(&db, level));
        let young = db.keyspace(&format!("young {level:?}")).unwrap();
        young.put("theirs", "1").unwrap();
        let tx = tx.of(&young).unwrap();
        assert_eq!(tx.get("theirs").unwrap(), None);
        assert_eq!(tx.get_batch(&["theirs"]).unwrap(), [None]);
        assert_eq!(tx.iter().unwrap().count(), 0);
        tx.put("mine", "2").unwrap();
        assert_eq!(tx.get("mine").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(tx.get_batch(&["theirs", "mine"]).unwrap(), [None, Some(b"2".to_vec())]);
        assert_eq!(tx.iter().unwrap().rev().count(), 1);
        match level {
            IsolationLevel::Serializable => conflicts(tx.commit()),
            _ => drop(tx.commit().unwrap()),
        }
        other.of(&young).unwrap().put("theirs", "3").unwrap();
        match level {
            // Nobody reads what it did not see.
            IsolationLevel::Serializable => drop(other.commit().unwrap()),
            _ => conflicts(other.commit()),
        }
    }
}

/// Whoever waited for a lock until the time was over does not wait as long again.
#[test]
fn waiting_for_a_lock_ends_once() {
    let scratch = Scratch::new();
    let config = LightningDbConfig {
        transaction_timeout: Duration::from_millis(50),
        ..LightningDbConfig::default()
    };
    let db = Database::create(scratch.path(), config).unwrap();
    let keeper = db.transaction().pessimistic().timeout(Duration::MAX).begin().unwrap();
    keeper.put("key", "kept").unwrap();
    let tries = AtomicU64::new(0);
    let waited = db.transaction().pessimistic().run(|tx| {
        tries.fetch_add(1, SeqCst);
        tx.put("key", "other")
    });
    assert!(matches!(waited, Err(Error::LockTimeout)), "{waited:?}");
    assert_eq!(tries.load(SeqCst), 1);
    let tx = db.transaction().pessimistic().begin().unwrap();
    assert!(matches!(tx.put("key", "other"), Err(Error::LockTimeout)));
    assert!(matches!(tx.put("b", "other"), Err(Error::TransactionTimeout)));
    // Plain writes do not wait for ever either.
    assert!(matches!(db.put("key", "plain"), Err(Error::LockTimeout)));
    db.put("b", "plain").unwrap();
    keeper.commit().unwrap();
    db.put("key", "plain").unwrap();
    assert_eq!(text(&db, "key").as_deref(), Some("plain"));
}

#[test]
fn what_is_read_needs_memory_too() {
    let scratch = Scratch::new();
    let config =
        LightningDbConfig { memtable_size: 256 << 10, max_memory: 1 << 20, ..Default::default() };
    let db = Database::create(scratch.path(), config).unwrap();
    let tx = begin(&db, IsolationLevel::Serializable);
    let refused = (0..10_000_u32).find_map(|n| tx.get(n.to_be_bytes()).err());
    assert!(matches!(refused, Some(Error::CommitTooLarge { .. })), "{refused:?}");
    let others = begin(&db, IsolationLevel::Snapshot);
    assert!((0..10_000_u32).all(|n| others.get(n.to_be_bytes()).is_ok()));
    drop(tx);
    others.put("key", "1").unwrap();
    others.commit().unwrap();
}

#[test]
fn single_keys_change_atomically() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    assert_eq!(db.compare_and_swap("k", Some(b"1"), Some(b"2")).unwrap(), Err(None));
    assert_eq!(db.compare_and_swap("k", None, Some(b"1")).unwrap(), Ok(()));
    assert_eq!(db.compare_and_swap("k", Some(b"2"), None).unwrap(), Err(Some(b"1".to_vec())));
    assert_eq!(db.compare_and_swap("k", Some(b"1"), None).unwrap(), Ok(()));
    assert_eq!(text(&db, "k"), None);
    let jobs = db.keyspace("jobs").unwrap();
    let all = 400_u64;
    (0..all).for_each(|n| jobs.put(n.to_be_bytes(), "").unwrap());
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        for back in [false, true, false, true] {
            let (jobs, taken) = (&jobs, &taken);
            scope.spawn(move || {
                let mut last = None;
                while let Some((key, _)) =
                    if back { jobs.pop_last() } else { jobs.pop_first() }.unwrap()
                {
                    taken.fetch_add(1, SeqCst);
                    let turn = last.replace(key.clone());
                    assert!(turn.is_none_or(|last| if back { last > key } else { last < key }));
                }
            });
        }
    });
    assert_eq!(taken.load(SeqCst), all);
    assert_eq!(jobs.pop_first().unwrap(), None);
}

/// Adds 1 to a number by comparing and swapping until nobody comes between.
fn add_by_swapping(db: &Database) {
    loop {
        let old = db.get("counter").unwrap();
        let number = old.as_deref().map_or(0, |old| u64::from_le_bytes(old.try_into().unwrap()));
        let new = (number + 1).to_le_bytes();
        if db.compare_and_swap("counter", old.as_deref(), Some(&new)).unwrap().is_ok() {
            return;
        }
    }
}

fn add_by_updating(db: &Database) {
    let add = |old: Option<&[u8]>| {
        let number = old.map_or(0, |old| u64::from_le_bytes(old.try_into().unwrap()));
        Some((number + 1).to_le_bytes().to_vec())
    };
    db.fetch_and_update("counter", add).unwrap();
}

/// For an addition that is lost between two threads.
#[test]
fn a_counter_of_many_threads_loses_nothing() {
    const TIMES: u64 = 2000;
    let scratch = Scratch::new();
    let db = database(&scratch);
    let ways: [fn(&Database); 4] =
        [add_by_swapping, add_by_updating, add_by_swapping, add_by_updating];
    thread::scope(|scope| {
        for add in ways {
            let db = &db;
            scope.spawn(move || (0..TIMES).for_each(|_| add(db)));
        }
    });
    let sum = db.get("counter").unwrap().unwrap();
    assert_eq!(u64::from_le_bytes(sum.try_into().unwrap()), 4 * TIMES);
}

/// For an entry that two threads take out, or none.
#[test]
fn what_many_threads_pop_each_of_them_pops_once() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let all: Vec<_> = (0..3000_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    db.put_batch(&all.iter().map(|key| (key, key)).collect::<Vec<_>>()).unwrap();
    let pop = |last: bool| {
        let next = || if last { db.pop_last() } else { db.pop_first() }.unwrap();
        std::iter::from_fn(next).map(|(key, _)| key).collect::<Vec<_>>()
    };
    let mut popped = thread::scope(|scope| {
        let threads = [false, false, true].map(|last| scope.spawn(move || pop(last)));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    popped.sort();
    assert_eq!(popped, all);
}

#[test]
fn a_commit_is_durable_when_it_says_so() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let tx = db.transaction().durability(Durability::Sync).begin().unwrap();
    tx.put("paid", "yes").unwrap();
    tx.commit().unwrap();
    let stats = db.stats().unwrap();
    assert_eq!(stats.durable_lsn.next_multiple_of(4096), stats.log_end_lsn.next_multiple_of(4096));
}

#[test]
fn closing_ends_transactions() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let tx = begin(&db, IsolationLevel::Snapshot);
    tx.put("a", "1").unwrap();
    let id = db.begin_transaction().unwrap();
    db.close().unwrap();
    assert!(matches!(tx.get("a"), Err(Error::Closed)));
    assert!(matches!(db.put_tx(id, b"a", b"1"), Err(Error::Closed)));
    assert!(matches!(tx.commit(), Err(Error::Closed)));
    assert!(matches!(db.begin_transaction(), Err(Error::Closed)));
}

/// What is older than the window knows of is a conflict, not a guess.
#[test]
fn a_transaction_that_is_older_than_the_window_is_told() {
    let scratch = Scratch::new();
    let config = LightningDbConfig { memtable_size: 64 << 10, ..Default::default() };
    let db = Database::create(scratch.path(), config).unwrap();
    let old = begin(&db, IsolationLevel::Serializable);
    assert_eq!(old.range("x"..).unwrap().count(), 0);
    old.put("y", "1").unwrap();
    for n in 0..60_000_u32 {
        db.put(n.to_be_bytes(), [0; 100]).unwrap();
    }
    conflicts(old.commit());
    // Flushes and merges take nothing from what it knows.
    let tx = begin(&db, IsolationLevel::Snapshot);
    tx.put("z", "1").unwrap();
    db.put("z", "2").unwrap();
    db.compact().unwrap();
    conflicts(tx.commit());
}

#[test]
fn the_oldest_snapshot_has_an_age() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    assert_eq!(db.stats().unwrap().oldest_snapshot_age, None);
    let snapshot = db.snapshot().unwrap();
    let copy = snapshot.clone();
    drop(snapshot);
    thread::sleep(Duration::from_millis(20));
    assert!(db.stats().unwrap().oldest_snapshot_age >= Some(Duration::from_millis(20)));
    drop(copy);
    let tx = begin(&db, IsolationLevel::Snapshot);
    assert!(db.stats().unwrap().oldest_snapshot_age.is_some());
    drop(tx);
    assert_eq!(db.stats().unwrap().oldest_snapshot_age, None);
}

#[test]
fn ten_thousand_transactions_may_be_open() {
    let scratch = Scratch::new();
    let config = LightningDbConfig { max_active_transactions: 10_000, ..Default::default() };
    let db = Database::create(scratch.path(), config).unwrap();
    let open: Vec<_> = (0..10_000_u32)
        .map(|n| {
            let tx = db.transaction().begin().unwrap();
            tx.put(n.to_be_bytes(), "1").unwrap();
            tx
        })
        .collect();
    assert!(matches!(db.begin_transaction(), Err(Error::TooManyTransactions { .. })));
    for tx in open {
        tx.commit().unwrap();
    }
    assert_eq!(db.iter().unwrap().count(), 10_000);
}

/// A key that was read for update has not changed when the transaction commits, though it wrote nothing.
#[test]
fn what_is_read_for_update_counts_without_writes() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    for level in LEVELS {
        let tx = begin(&db, level);
        tx.get_for_update("key").unwrap();
        db.put("key", "other").unwrap();
        conflicts(tx.commit());
        let tx = begin(&db, level);
        tx.get_for_update("key").unwrap();
        db.put("beside", "other").unwrap();
        tx.commit().unwrap();
    }
}

/// Work that takes no notice of its loss is done again all the same.
#[test]
fn work_that_hides_its_loss_is_done_again() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    db.put("key", "0").unwrap();
    let mut tries = 0;
    db.transaction()
        .pessimistic()
        .run(|tx| {
            tries += 1;
            tx.get("seen")?; // the moment is this
            if tries == 1 {
                db.put("key", "theirs")?;
            }
            let _lost = tx.put("key", tries.to_string());
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!((tries, text(&db, "key").as_deref()), (2, Some("2")));
}

/// That all of a tree was deleted is nothing new to those who see it.
#[test]
fn a_tree_that_is_dropped_is_no_conflict() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let (full, other) = (db.keyspace("full").unwrap(), db.keyspace("other").unwrap());
    (0..1000_u32).for_each(|n| full.put(n.to_be_bytes(), "value").unwrap());
    db.compact().unwrap();
    full.delete_range(..).unwrap();
    let tx = other.transaction().isolation(IsolationLevel::Serializable).begin().unwrap();
    assert_eq!(tx.get("key").unwrap(), None);
    tx.put("key", "1").unwrap();
    db.compact().unwrap();
    tx.commit().unwrap();
}
