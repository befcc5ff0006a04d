//! Transactions that are named by their numbers, as far as the verbs for that go. Those verbs do not tell the SeqNo
//! that such a transaction sees: there must be one at which all is right that it has read.

use super::{
    client::Client,
    model::Broken,
    operation::{Bounds, Durable, Ends, Level, Place, Read, Step, Walk, as_half_open, key_bytes},
    session::Over,
    transactions::{Begun, Done, Noted, Script, Stop, right_at, under_own, walk},
    verbs::{Got, Seen, bounds, half_open, prefixed},
};
use lightning_db::{Error, Result, TransactionId, TransactionOptions};
use std::ops::Bound;

/// Whether the verbs by number can do all of a transaction.
pub(super) fn has_verbs(script: &Script<'_>) -> bool {
    let has_verb = |step: &Step| match step {
        Step::Read { space: Place::Default, read } => {
            key_of(read).is_some() || range_of(read).is_some()
        }
        Step::Put { space: Place::Default, .. } | Step::Delete { space: Place::Default, .. } => {
            !script.read_only
        }
        Step::Sleep { .. } => true,
        _ => false,
    };
    script.level != Level::Serializable
        && !script.pessimistic
        && !script.runs
        && script.timeout.is_none()
        && script.durability == Durable::Default
        && script.steps.iter().all(has_verb)
}

/// The key that a read is of, if it is of one.
fn key_of(read: &Read) -> Option<u64> {
    match read {
        Read::Get(key) | Read::GetRef(key) | Read::GetReader(key, _) => Some(*key),
        _ => None,
    }
}

/// The range that a read walks over, if it does.
fn range_of(read: &Read) -> Option<(Bounds, Walk)> {
    match read {
        Read::Scan(start, end, way) => {
            let (start, end) = half_open(start, end);
            Some((bounds(start, end), *way))
        }
        Read::ScanPrefix(key, bytes, way) => {
            let mut prefix = key_bytes(*key);
            prefix.truncate(*bytes as usize);
            Some((prefixed(&prefix), *way))
        }
        Read::Range(range, way) => Some((range.bounds(), *way)),
        Read::Iter(way) => Some(((Bound::Unbounded, Bound::Unbounded), *way)),
        Read::ForEach(range) => {
            let way = Walk { ends: Ends::Front, entries: u64::MAX, lent: false };
            Some((range.bounds(), way))
        }
        _ => None,
    }
}

impl Client {
    pub(super) fn transaction_by_id(&self, script: &Script<'_>) -> Result<(), Over> {
        let (process, db) = (&self.session.process, &self.session.db);
        let world = process.world();
        let snapshot = script.level == Level::Snapshot;
        let begun = self.about_to_begin();
        let begin = match (script.read_only, snapshot) {
            (false, true) => db.begin_transaction(),
            (read_only, snapshot) => {
                db.begin_transaction_with_options(TransactionOptions { read_only, snapshot })
            }
        };
        let until = process.model.lock().moment();
        let mut done = Done::default();
        let ended = begin.map_err(Stop::Failed).and_then(|id| {
            world.count("transactions by number");
            let ended = self.end_by_id(id, script, (&mut done, begun));
            if !done.complete {
                // As one that has failed is no use, whatever ended it.
                db.abort_transaction(id)?;
            }
            self.is_gone(id)?;
            ended
        });
        if matches!(ended, Err(Stop::Over)) {
            return Err(Over);
        }
        if snapshot {
            done.seq = process.check_view(&done, begun, until)?;
        }
        if script.abort && ended.is_ok() {
            world.count("transactions given up");
            return Ok(());
        }
        self.transaction_ended(script, ended, done, begun)
    }

    /// Does the steps and ends it. Returns the SeqNo of its commit, if it has one.
    fn end_by_id(
        &self,
        id: TransactionId,
        script: &Script<'_>,
        (done, begun): (&mut Done, Begun),
    ) -> Result<u64, Stop> {
        let (process, db) = (&self.session.process, &self.session.db);
        for step in script.steps {
            self.step_by_id(id, step, script.level, (&mut *done, begun))?;
        }
        done.complete = true;
        if script.abort {
            db.abort_transaction(id)?;
            return Ok(0);
        }
        self.submit_transaction(done, process.syncs_by_default());
        process.world().take_told();
        db.commit_transaction(id)?;
        Ok(process.world().take_told().unwrap_or(0))
    }

    fn step_by_id(
        &self,
        id: TransactionId,
        step: &Step,
        level: Level,
        (done, begun): (&mut Done, Begun),
    ) -> Result<(), Stop> {
        let (process, db) = (&self.session.process, &self.session.db);
        let space = self.space(Place::Default).1;
        match step {
            Step::Read { read, .. } => {
                let now = process.model.lock().begin_read();
                let seen = self.read_by_id(id, read)?;
                if let Some(error) = seen.failed {
                    return Err(Stop::Failed(error));
                }
                process.world().count("reads of transactions");
                let own = done.own.clone();
                let noted = Noted { space, seen, own, began: begun.read, for_update: false };
                process.check(under_own(&noted))?;
                if level == Level::ReadCommitted && noted.own.spaces.is_empty() {
                    let result = process.model.lock().read_now(space, &noted.seen, &now);
                    process.check(result)?;
                }
                done.noted.push(noted);
            }
            Step::Put { key, value, .. } => {
                let (key, value) = (key_bytes(*key), self.value(value));
                db.put_tx(id, &key, &value)?;
                done.own.of(space).entries.insert(key, Some(value));
            }
            Step::Delete { key, .. } => {
                db.delete_tx(id, key_bytes(*key))?;
                done.own.of(space).entries.insert(key_bytes(*key), None);
            }
            Step::Sleep { nanos } => self.sleep(*nanos),
            _ => {}
        }
        Ok(())
    }

    fn read_by_id(&self, id: TransactionId, read: &Read) -> Result<Seen> {
        let db = &self.session.db;
        if let Some(key) = key_of(read) {
            let key = key_bytes(key);
            let got = Got::Value(db.get_tx(id, &key)?);
            return Ok(Seen { points: vec![(key, got)], ..Seen::default() });
        }
        let Some((within, way)) = range_of(read) else { return Ok(Seen::default()) };
        let (start, end) = as_half_open(within);
        let scan = db.scan_tx(id, Some(&start), end.as_deref())?;
        Ok(walk(scan, bounds(Some(start), end), way, false))
    }

    /// A number is of no use once its transaction has ended.
    fn is_gone(&self, id: TransactionId) -> Result<(), Stop> {
        let answer = self.session.db.get_tx(id, "key");
        // A thousand others may have ended since.
        let gone = matches!(
            answer,
            Err(Error::TransactionEnded { .. } | Error::TransactionNotFound { .. })
        );
        if gone {
            return Ok(());
        }
        let message = format!("a transaction that has ended answers {answer:?} to a get");
        self.session.process.world().violate("transaction", message);
        Err(Stop::Over)
    }
}

impl super::session::Process {
    /// The newest SeqNo that a transaction may see which was begun by a moment, and at which all is right that it
    /// has read.
    fn check_view(&self, done: &Done, begun: Begun, until: u64) -> Result<u64, Over> {
        let model = self.model.lock();
        let mut refused =
            Broken { invariant: "transaction", message: "a transaction sees no moment".into() };
        for seq in model.views_between(&begun.read, until).into_iter().rev() {
            let right = done.noted.iter().try_for_each(|noted| right_at(&model, noted, seq));
            match right {
                Ok(()) => return Ok(seq),
                Err(broken) => refused = broken,
            }
        }
        drop(model);
        self.check(Err(refused)).map(|()| 0)
    }
}
