//! For the failures of a copy that is kept by a feed: it is not the same, or is not any more after a kill.

use super::{NEVER, config, lag, rest, seqs, unsynced};
use crate::{
    child::{Child, say},
    files::Scratch,
    random::Random,
};
use lightning_db::{
    Database, Error, FeedPosition, Keyspace, LightningDbConfig, Result, SeqNo, Subscription,
    WalSyncMode, WriteBatch,
};
use std::{path::Path, thread, time::Duration};

const KILLS: u64 = if cfg!(feature = "integration_tests") { 60 } else { 4 };

#[test]
fn what_is_applied_twice_is_applied_once() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    let copy = Database::create(scratch.path().join("copy"), unsynced())?;
    let space = db.keyspace("default")?;
    let target = copy.keyspace("default")?;
    // In the keyspace itself, where a range delete of everything covers it.
    let position = FeedPosition::new(&target, "position");
    db.put_batch(&[("a", "1"), ("b", "2")])?;
    db.delete_range(..)?;
    db.put_batch(&[("b", "3"), ("c", "4")])?;
    db.delete("c")?;
    db.checkpoint()?;
    let batches = rest(&mut space.subscribe(SeqNo(1))?)?;
    assert_eq!(seqs(&batches), [2, 3, 5, 6]);
    for end in 0..=batches.len() {
        for batch in &batches[..end] {
            let is_new = position.get()?.is_none_or(|done| done < batch.seq());
            assert_eq!(position.apply(batch, &target)?, is_new);
        }
        let all: Vec<_> =
            copy.iter()?.map(|entry| entry.map(|(key, _)| key)).collect::<Result<_>>()?;
        let expected: &[&[u8]] = match end {
            0 => &[],
            1 => &[b"a", b"b", b"position"],
            2 => &[b"position"],
            3 => &[b"b", b"c", b"position"],
            _ => &[b"b", b"position"],
        };
        assert_eq!(all, expected, "{end}");
    }
    assert_eq!(copy.get("b")?.as_deref(), Some(&b"3"[..]));
    let foreign = position.apply(&batches[0], &space);
    assert!(matches!(foreign, Err(Error::InvalidArgument { .. })), "{foreign:?}");
    copy.put("position", "nonsense?")?;
    assert!(matches!(position.get(), Err(Error::InvalidArgument { .. })));
    Ok(())
}

#[test]
fn the_largest_commit_is_applied_by_a_copy_of_the_same_configuration() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), config())?;
    let copy = Database::create(scratch.path().join("copy"), config())?;
    let mut len = 300 << 10;
    while let Err(error) = db.put("key", vec![7; len]) {
        assert!(matches!(error, Error::CommitTooLarge { .. }), "{error}");
        len -= 1;
    }
    db.checkpoint()?;
    let largest = db.keyspace("default")?.subscribe(SeqNo(1))?.try_next()?.unwrap();
    let target = copy.keyspace("default")?;
    let position = FeedPosition::new(&target, "position");
    assert!(position.apply(&largest, &target)?);
    assert!(!position.apply(&largest, &target)?);
    assert_eq!(copy.get("key")?.map(|value| value.len()), Some(len));
    assert_eq!(position.get()?, Some(largest.seq()));
    Ok(())
}

/// Writers, and somebody who reads beside them.
#[test]
fn it_keeps_up_with_many_writers() -> Result<()> {
    for wal_sync_mode in [WalSyncMode::Sync, WalSyncMode::Async] {
        let scratch = Scratch::in_memory();
        let db = Database::create(scratch.db(), LightningDbConfig { wal_sync_mode, ..config() })?;
        let (space, copy) = (db.keyspace("default")?, db.keyspace("copy")?);
        const EACH: u64 = 1500;
        let mut commits = space.subscribe(SeqNo(1))?;
        thread::scope(|scope| {
            for writer in 0..3_u64 {
                let db = &db;
                scope.spawn(move || {
                    let mut random = Random::new(writer);
                    for number in 0..EACH {
                        let key = random.below(50).to_be_bytes();
                        match number % 10 {
                            9 => db.delete(key).unwrap(),
                            _ => db.put(key, number.to_be_bytes()).unwrap(),
                        }
                    }
                });
            }
            let position = FeedPosition::new(&db.keyspace("positions").unwrap(), "copy");
            let mut last = SeqNo(0);
            for _ in 0..3 * EACH {
                let batch = commits.next(Some(NEVER)).unwrap().expect("there are more");
                assert!(batch.seq() > last);
                last = batch.seq();
                assert!(position.apply(&batch, &copy).unwrap());
            }
        });
        assert_eq!(commits.next(Some(Duration::from_millis(50)))?, None);
        let entries = |keyspace: &Keyspace| keyspace.iter()?.collect::<Result<Vec<_>>>();
        assert_eq!(entries(&space)?, entries(&copy)?);
    }
    Ok(())
}

/// Writes to a database and follows it with a copy.
pub(crate) fn follow(dir: &Path) {
    let db = Database::open_or_create(dir.join("db"), config()).unwrap();
    let copy = Database::open_or_create(dir.join("copy"), config()).unwrap();
    say("open");
    let writes = db.clone();
    // If the other one fails the child ends.
    thread::spawn(move || {
        let first = writes.snapshot().unwrap().seq().0;
        let mut random = Random::new(first);
        for number in first.. {
            let mut batch = WriteBatch::new();
            batch.put(random.below(300).to_be_bytes(), random.bytes(100));
            batch.delete(random.below(300).to_be_bytes());
            if number % 100 == 0 {
                let from = random.below(300);
                batch.delete_range(from.to_be_bytes()..(from + 20).to_be_bytes());
            }
            writes.write(batch).unwrap();
        }
    });
    catch_up(&db, &copy, None);
}

/// Brings a copy to where a database is, or follows it for ever.
fn catch_up(db: &Database, copy: &Database, until: Option<SeqNo>) -> u64 {
    let (space, target) = (db.keyspace("default").unwrap(), copy.keyspace("default").unwrap());
    let position = FeedPosition::new(&copy.keyspace("positions").unwrap(), "default");
    let done = position.get().unwrap();
    let subscribed = space.subscribe(done.map_or(SeqNo(1), |done| SeqNo(done.0 + 1)));
    let mut commits = subscribed.unwrap_or_else(|error| {
        // It was killed long after it had read last.
        lag(&error);
        begin_anew(db, &space, &target, &position)
    });
    let mut applied = 0;
    while until.is_none_or(|until| commits.position() <= until) {
        let batch = commits.next(Some(NEVER)).unwrap().expect("there are more");
        assert!(position.apply(&batch, &target).unwrap());
        applied += 1;
        if until.is_none() {
            say("applied");
        }
    }
    applied
}

/// Makes the copy one of a snapshot, and subscribes to what comes behind.
fn begin_anew(
    db: &Database,
    space: &Keyspace,
    target: &Keyspace,
    position: &FeedPosition,
) -> Subscription {
    loop {
        let snapshot = space.snapshot().unwrap();
        // Before it is copied, so that what comes meanwhile is kept. Already gone if there was a flush in between.
        let Ok(commits) = space.subscribe(SeqNo(snapshot.seq().0 + 1)) else { continue };
        db.checkpoint().unwrap(); // a crash must not take back what the copy has
        target.delete_range(..).unwrap();
        snapshot.for_each(.., |key, value| target.put(key, value).unwrap()).unwrap();
        position.set(snapshot.seq()).unwrap();
        return commits;
    }
}

#[test]
fn a_copy_goes_on_after_kills_and_is_the_same() {
    let scratch = Scratch::new();
    let mut random = Random::new(7);
    let mut applied = 0;
    for round in 0..KILLS {
        let child = Child::start("follow", scratch.path(), "");
        assert!(child.wait_for("open"), "round {round}");
        child.wait_for_lines("applied", random.below(400), Some(Duration::from_secs(20)));
        assert!(!child.has_ended(), "round {round}");
        child.kill();
        if round % 2 == 1 || round + 1 == KILLS {
            let db = Database::open(scratch.db(), config()).unwrap();
            let copy = Database::open(scratch.path().join("copy"), config()).unwrap();
            applied += catch_up(&db, &copy, Some(db.snapshot().unwrap().seq()));
            let entries = |db: &Database| db.iter().unwrap().collect::<Result<Vec<_>>>().unwrap();
            assert_eq!(entries(&db), entries(&copy), "round {round}");
        }
    }
    println!("{KILLS} kills; {applied} commits were applied after them");
}
