//! What a database that was closed answers, and one that somebody else has open.

use super::session::{DIR, Over, Process};
use lightning_db::{Database, Durability, Error, Result, Snapshot, WriteBatch};

impl Process {
    /// After a close, whoever still has a handle or a snapshot is told so.
    pub(super) fn check_closed(&self, db: &Database, held: Option<&Snapshot>) -> Result<(), Over> {
        let committed = || {
            let mut batch = WriteBatch::new();
            batch.put("key", "value");
            db.commit(batch, Durability::Async)
        };
        let answers = [
            ("get", db.get("key").map(drop)),
            ("get_batch", db.get_batch(&["key"]).map(drop)),
            ("iter", db.iter().map(drop)),
            ("snapshot", db.snapshot().map(drop)),
            ("keyspaces", db.keyspaces().map(drop)),
            ("keyspace", db.keyspace("new").map(drop)),
            ("drop_keyspace", db.drop_keyspace("own-0")),
            ("put", db.put("key", "value")),
            ("bulk_load", db.bulk_load([("key", "value")]).map(drop)),
            ("delete_range", db.delete_range(..)),
            ("commit", committed().map(drop)),
            ("checkpoint", db.checkpoint()),
            ("compact", db.compact()),
            ("check_integrity", db.check_integrity().map(drop)),
        ];
        let of_snapshot = held.map(|held| ("get at a snapshot", held.get("key").map(drop)));
        for (verb, answer) in answers.into_iter().chain(of_snapshot) {
            if !matches!(answer, Err(Error::Closed)) {
                let message = format!("a closed database answers {verb} with {answer:?}");
                self.world().violate("closed", message);
                return Err(Over);
            }
        }
        Ok(())
    }

    /// What was asked for once the close had returned (`closed`) must have been refused.
    pub(super) fn check_was_open(&self, closed: bool, verb: &str) -> Result<(), Over> {
        if !closed {
            return Ok(());
        }
        let message = format!("{verb} succeeded, asked for after a close had returned");
        self.world().violate("closed", message);
        Err(Over)
    }

    /// While anything of a database is left, nobody else opens its directory.
    pub(super) fn check_locked(&self) -> Result<(), Over> {
        if !self.dice("open it twice").chance(0.3) {
            return Ok(());
        }
        let config = self.workload.settings.config();
        match Database::open_with_env(self.env.clone(), DIR, config) {
            Ok(_) => {
                self.world().violate("locked", "a database was opened twice at once".into());
                Err(Over)
            }
            Err(Error::Locked { .. }) => Ok(()),
            Err(error) => self.check_error("I-15", "opening it twice", &error),
        }
    }
}
