//! For the failures of going on: from a position that does not stand for what the copy has, and nobody is told.

use super::{NEVER, lag, put, unsynced};
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
