//! For the failures of going on: from a position that does not stand for what the copy has, and nobody is told.

use super::{NEVER, copy, lag, put, rest, seqs, unsynced};
use crate::files::Scratch;
use lightning_db::{Database, Error, Keyspace, Result, SeqNo, env::OsEnv};
use lightning_faults::{Call, FaultyEnv};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};

#[test]
fn who_was_told_of_a_load_goes_nowhere_without_it() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    let space = db.keyspace("space")?;
    let mut commits = space.subscribe(SeqNo(1))?;
    space.bulk_load([("a", "1")])?;
    space.put("b", "2")?;
    space.put("c", "3")?;
    db.checkpoint()?;
    for _ in 0..2 {
        assert_eq!(lag(&commits.try_next().unwrap_err()), (1, 2));
        assert_eq!(commits.position(), SeqNo(1), "nothing was yielded");
    }
    assert_eq!(lag(&space.subscribe(commits.position()).unwrap_err()).0, 1);
    Ok(())
}

/// What a copy has of the keyspace that was dropped, it must not keep.
#[test]
fn who_knows_an_earlier_keyspace_of_the_name_begins_anew() -> Result<()> {
    for reopened in ["not", "killed", "closed"] {
        let scratch = Scratch::in_memory();
        let mut path = scratch.db();
        let mut db = Database::create(&path, unsynced())?;
        let mut users = db.keyspace("users")?;
        users.put("old", "1")?;
        db.put("elsewhere", "1")?;
        db.checkpoint()?;
        let mut commits = users.subscribe(SeqNo(1))?;
        assert_eq!(seqs(&rest(&mut commits)?), [1]);
        let stored = commits.position();
        assert_eq!(stored, SeqNo(3));
        db.drop_keyspace("users")?;
        drop((commits, users));
        users = db.keyspace("users")?;
        if reopened != "not" {
            if reopened == "killed" {
                path = scratch.path().join("killed");
                copy(&scratch.db(), &path, |_, _| {});
            }
            drop((users, db));
            db = Database::open(&path, unsynced())?;
            users = db.keyspace("users")?;
        }
        for round in 0..2 {
            // Before anything is committed, and behind it.
            for from in 2..=stored.0 {
                let (wanted, oldest) = lag(&users.subscribe(SeqNo(from)).unwrap_err());
                assert_eq!((wanted, oldest), (from, 4), "{reopened}, {round}");
            }
            users.put("new", "1")?;
            db.checkpoint()?;
        }
        // Who has nothing may begin with the first SeqNo, and who has a snapshot, behind it.
        let got = rest(&mut users.subscribe(SeqNo(1))?)?;
        assert_eq!(seqs(&got), [4, 5], "{reopened}");
        let seq = users.snapshot()?.seq();
        let mut commits = users.subscribe(SeqNo(seq.0 + 1))?;
        users.put("newer", "1")?;
        db.checkpoint()?;
        assert_eq!(commits.next(Some(NEVER))?.unwrap().operations(), [put("newer", "1")]);
    }
    Ok(())
}

/// The SeqNo that a keyspace was created behind is lost, and is given again.
#[test]
fn a_keyspace_that_was_created_behind_lost_commits_is_followed() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    db.keyspace("users")?;
    db.drop_keyspace("users")?;
    let marked = b"a value that is found by its bytes";
    for number in 0..10 {
        db.put([number], marked)?;
    }
    db.keyspace("users")?;
    let torn = scratch.path().join("torn");
    copy(&scratch.db(), &torn, |name, bytes| {
        let at = bytes.windows(marked.len()).position(|window| window == marked);
        if let (true, Some(at)) = (name.starts_with("wal-"), at) {
            bytes[at] ^= 1;
        }
    });
    let db = Database::open(torn, unsynced())?;
    let users = db.keyspace("users")?;
    assert_eq!(db.snapshot()?.seq(), SeqNo(0));
    users.put("a", "1")?;
    users.put("b", "2")?;
    db.checkpoint()?;
    assert_eq!(seqs(&rest(&mut users.subscribe(SeqNo(2))?)?), [2]);
    Ok(())
}

#[test]
fn what_is_passed_over_behind_the_drop_of_a_keyspace_does_not_count() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    let users = db.keyspace("users")?;
    let mut commits = users.subscribe(SeqNo(1))?;
    users.put("old", "1")?;
    db.checkpoint()?;
    assert_eq!(seqs(&rest(&mut commits)?), [1]);
    db.drop_keyspace("users")?;
    let again = db.keyspace("users")?;
    for number in 0..5 {
        db.put([number], "elsewhere")?;
    }
    db.checkpoint()?;
    assert!(matches!(commits.try_next(), Err(Error::KeyspaceNotFound { .. })));
    assert_eq!(commits.position(), SeqNo(2));
    assert_eq!(lag(&again.subscribe(commits.position()).unwrap_err()).0, 2);
    Ok(())
}

#[test]
fn who_is_ahead_of_the_database_is_told() -> Result<()> {
    let scratch = Scratch::in_memory();
    let db = Database::create(scratch.db(), unsynced())?;
    let space = db.keyspace("default")?;
    db.put("a", "1")?;
    space.subscribe(SeqNo(2))?;
    for ahead in [3, 100, u64::MAX] {
        let error = space.subscribe(SeqNo(ahead)).unwrap_err();
        assert_eq!(lag(&error), (ahead, 2));
        let told = format!(
            "the change feed cannot go on from sequence number {ahead}: the next one to be given is 2, so \
             commits that it counts on are lost"
        );
        assert_eq!(error.to_string(), told);
    }
    Ok(())
}

/// A keyspace is dropped behind a sync. What is acknowledged between the two is in the feed, too.
#[test]
fn what_is_acknowledged_while_the_keyspace_is_dropped_is_yielded() -> Result<()> {
    let scratch = Scratch::in_memory();
    let meanwhile = Arc::new(Mutex::new(None::<Keyspace>));
    let late = meanwhile.clone();
    let rule = move |call: Call, path: &Path| {
        let edit = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("manifest-"));
        if edit && call == Call::Write {
            let space = late.lock().unwrap().take();
            if let Some(space) = space {
                space.put("late", "2").unwrap();
            }
        }
        Ok(())
    };
    let env = FaultyEnv::new(OsEnv::new(), rule);
    let db = Database::create_with_env(env, scratch.db(), unsynced())?;
    let space = db.keyspace("dropped")?;
    let mut commits = space.subscribe(SeqNo(1))?;
    space.put("early", "1")?;
    *meanwhile.lock().unwrap() = Some(space);
    db.drop_keyspace("dropped")?;
    assert!(meanwhile.lock().unwrap().is_none(), "nothing was put meanwhile");
    assert_eq!(commits.try_next()?.unwrap().operations(), [put("early", "1")]);
    assert_eq!(commits.next(Some(NEVER))?.unwrap().operations(), [put("late", "2")]);
    assert!(matches!(commits.try_next(), Err(Error::KeyspaceNotFound { .. })));
    Ok(())
}
