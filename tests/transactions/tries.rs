//! For the failure of work that is tried again: it never gets its turn, or goes on after its end; and for what is known of
//! transactions after they have ended.

use super::{begin, conflicts, database};
use crate::files::Scratch;
use lightning_db::{Database, Error, IsolationLevel, LightningDbConfig, Transaction};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
    time::Duration,
};

/// More commits than the window has room for: 4 MiB, in which each takes about a hundred bytes.
const MANY: u64 = 60_000;

/// A reader of ranges that is slower than the window forgets. What it needs is locked the second time.
#[test]
fn a_slow_transaction_gets_its_turn_beside_many_commits() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let read = db.keyspace("read").unwrap();
    (0..100_u32).for_each(|n| read.put(n.to_be_bytes(), "1").unwrap());
    let (stop, puts) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut tries, mut wide, mut locked, mut ranges) = (0, 0, 0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                let n = puts.fetch_add(1, Relaxed);
                db.put(n.to_be_bytes(), [1; 16]).unwrap();
                if n.is_multiple_of(10_000) {
                    read.put(b"beside", "what is read").unwrap();
                }
            }
        });
        let wait = || {
            let until = puts.load(Relaxed) + MANY;
            while puts.load(Relaxed) < until {
                thread::sleep(Duration::from_millis(1));
            }
        };
        let serializable = || read.transaction().isolation(IsolationLevel::Serializable);
        let count = |tx: &Transaction| -> Result<usize, Error> {
            tx.range(0_u32.to_be_bytes()..100_u32.to_be_bytes())?
                .try_fold(0, |n, entry| entry.map(|_| n + 1))
        };
        let counted = serializable().run(|tx| {
            tries += 1;
            let entries = count(tx)?;
            wait();
            tx.put("entries", entries.to_string())?;
            Ok::<_, Error>(entries)
        });
        // And one of single keys, more than are locked one by one, beside a commit that touches too many to be told apart.
        let sum = serializable().run(|tx| {
            wide += 1;
            for n in 0..1000_u32 {
                tx.get(n.to_be_bytes())?;
            }
            if wide == 1 {
                db.delete_range("x".."y")?;
                wait();
            }
            tx.put("sum", "100")
        });
        // One with locks, the second of which comes late.
        let late = read.transaction().pessimistic().run(|tx| {
            locked += 1;
            tx.put("first", "1")?;
            if locked == 1 {
                db.delete_range("x".."y")?;
                wait();
            }
            tx.put("second", "2")
        });
        // And one that has read more ranges than are locked one by one.
        let many = serializable().run(|tx| {
            ranges += 1;
            for n in 0..1000_u32 {
                tx.range(n.to_be_bytes()..(n + 1).to_be_bytes())?.next().transpose()?;
            }
            if ranges == 1 {
                wait();
            }
            tx.put("many", "1000")
        });
        stop.store(true, SeqCst);
        assert_eq!((counted.unwrap(), sum.unwrap()), (100, ()));
        assert_eq!((late.unwrap(), many.unwrap()), ((), ()));
    });
    assert_eq!([tries, wide, locked, ranges], [2; 4]);
    assert_eq!(read.get("entries").unwrap().as_deref(), Some(&b"100"[..]));
}

/// What has the locks is not looked at again, but for a bulk load, which waits for none.
#[test]
fn locks_of_a_try_before_do_not_hide_a_bulk_load() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let empty = db.keyspace("empty").unwrap();
    let mut tries = 0;
    let work = db.transaction().isolation(IsolationLevel::Serializable).run(|tx| {
        tries += 1;
        let there = tx.of(&empty)?.get("key")?;
        match tries {
            1 => empty.delete("key")?, // from now on locked
            2 => _ = empty.bulk_load([("key", "loaded")])?,
            _ => {}
        }
        tx.put("there", if there.is_some() { "yes" } else { "no" })
    });
    work.unwrap();
    assert_eq!((tries, db.get("there").unwrap().as_deref()), (3, Some(&b"yes"[..])));
}

#[test]
fn work_that_fails_leaves_no_handle_that_commits() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    let mut kept: Vec<Transaction> = vec![];
    let mut keep = |tx: &Transaction| {
        tx.put("key", "never").unwrap();
        kept.push(tx.of(&db.keyspace("default").unwrap()).unwrap());
    };
    let failed = db.execute_transaction(|tx| {
        keep(tx);
        Err::<(), _>(Error::KeyTooLarge)
    });
    assert!(matches!(failed, Err(Error::KeyTooLarge)));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        db.execute_transaction(|tx| -> Result<(), Error> {
            keep(tx);
            panic!("in the work");
        })
    }));
    assert!(panicked.is_err() && kept.len() == 2);
    for tx in kept {
        assert!(matches!(tx.put("key", "late"), Err(Error::TransactionEnded { .. })));
        assert!(matches!(tx.commit(), Err(Error::TransactionEnded { .. })));
    }
    assert_eq!(db.get("key").unwrap(), None);
    assert_eq!(db.stats().unwrap().open_transactions, 0);
}

/// Nobody has looked whose time is over but the transaction itself.
#[test]
fn a_commit_that_writes_nothing_is_in_time_or_fails() {
    let scratch = Scratch::new();
    let db = database(&scratch);
    for read_only in [true, false] {
        let builder = db.transaction().timeout(Duration::from_millis(200));
        let builder = if read_only { builder.read_only() } else { builder };
        let (late, early) = (builder.clone().begin().unwrap(), builder.begin().unwrap());
        assert_eq!(late.get("key").unwrap(), None);
        early.commit().unwrap();
        thread::sleep(Duration::from_millis(300));
        let result = late.commit();
        assert!(matches!(result, Err(Error::TransactionTimeout)), "{result:?}");
    }
}

/// For memory without a limit: keys that are read for update are kept until the end.
#[test]
fn keys_read_for_update_take_memory_that_is_counted() {
    let scratch = Scratch::new();
    let config =
        LightningDbConfig { max_memory: 16 << 20, memtable_size: 1 << 20, ..Default::default() };
    let db = Database::create(scratch.path(), config).unwrap();
    for pessimistic in [false, true] {
        let builder = db.transaction();
        let tx = if pessimistic { builder.pessimistic() } else { builder };
        let tx = tx.begin().unwrap();
        let refused = (0..100_000_u32).find_map(|n| tx.get_for_update(n.to_be_bytes()).err());
        assert!(matches!(refused, Some(Error::CommitTooLarge { .. })), "{refused:?}");
        tx.commit().unwrap();
        let tx = begin(&db, IsolationLevel::Snapshot);
        tx.put("all", "is given back").unwrap();
        tx.commit().unwrap();
    }
}

/// More numbers than are remembered: open ones are never forgotten, and each is asked for but a few times.
#[test]
fn thousands_of_numbers_are_known_until_they_end() {
    let scratch = Scratch::new();
    let config = LightningDbConfig { max_active_transactions: 5_000, ..Default::default() };
    let db = Database::create(scratch.path(), config).unwrap();
    let ids: Vec<_> = (0..5_000).map(|_| db.begin_transaction().unwrap()).collect();
    db.put_tx(ids[0], b"first", b"1").unwrap();
    db.put_tx(ids[4_999], b"first", b"2").unwrap();
    db.commit_transaction(ids[0]).unwrap();
    conflicts(db.commit_transaction(ids[4_999]));
    assert!(matches!(db.get_tx(ids[0], b"a"), Err(Error::TransactionEnded { .. })));
    ids[1..4_999].iter().for_each(|id| db.abort_transaction(*id).unwrap());
    assert!(matches!(db.get_tx(ids[4_998], b"a"), Err(Error::TransactionEnded { .. })));
    assert!(matches!(db.get_tx(ids[0], b"a"), Err(Error::TransactionNotFound { .. })));
}
