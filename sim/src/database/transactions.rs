//! Transactions of a client: what each read, it read at one moment and under its own writes; what it counted on
//! when it committed still held.

use super::{
    client::Client,
    model::{
        Broken, CommitId, Model, Op, ReadBegan, SpaceId,
        isolation::{Told, key_range, version},
    },
    operation::{
        Bounds, Durable, Ends, Level, Place, Read, Step, Walk, as_half_open, key_bytes, within,
    },
    session::{OpenSpace, Over},
    verbs::{Got, Seen, bounds, half_open, prefixed, scanned},
};
use crate::isolation;
use lightning_db::{
    Durability, Error, IsolationLevel, Result, Savepoint, Transaction, TransactionScan,
};
use std::{collections::BTreeMap, ops::Bound, time::Duration};

/// What an operation asks for.
pub(super) struct Script<'a> {
    pub(super) level: Level,
    pub(super) pessimistic: bool,
    pub(super) steps: &'a [Step],
    pub(super) durability: Durable,
    /// It is given up in the end.
    pub(super) abort: bool,
    /// It is run as a closure, again while others come between.
    pub(super) runs: bool,
    pub(super) read_only: bool,
    /// How long it may be open; as the configuration says where there is none.
    pub(super) timeout: Option<Duration>,
}

impl Script<'_> {
    /// What an operation is like that is a transaction by itself.
    pub(super) fn of_one(level: Level) -> Script<'static> {
        Script {
            level,
            pessimistic: false,
            steps: &[],
            durability: Durable::Default,
            abort: false,
            runs: true,
            read_only: false,
            timeout: None,
        }
    }
}

/// The state of things before a transaction is begun: what is acknowledged later it may see or not.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) moment: u64,
    pub(super) read: ReadBegan,
    /// What the clock showed.
    clock: Duration,
}

/// What a transaction has written, as the database must see it.
#[derive(Default, Clone)]
pub(super) struct Own {
    pub(super) spaces: Vec<(SpaceId, OwnSpace)>,
}

type Deleted = (Vec<u8>, Option<Vec<u8>>);

#[derive(Default, Clone)]
pub(super) struct OwnSpace {
    pub(super) entries: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    deleted: Vec<Deleted>,
}

impl Own {
    pub(super) fn of(&mut self, space: SpaceId) -> &mut OwnSpace {
        let at = self.spaces.iter().position(|(id, _)| *id == space);
        let at = at.unwrap_or_else(|| {
            self.spaces.push((space, OwnSpace::default()));
            self.spaces.len() - 1
        });
        &mut self.spaces[at].1
    }

    fn get(&self, space: SpaceId, key: &[u8]) -> Option<Option<&[u8]>> {
        let (_, own) = self.spaces.iter().find(|(id, _)| *id == space)?;
        let deleted = own.deleted.iter();
        let mut deleted = deleted
            .filter(|(start, end)| **start <= *key && end.as_ref().is_none_or(|end| *key < **end));
        match own.entries.get(key) {
            Some(value) => Some(value.as_deref()),
            None => deleted.next().map(|_| None),
        }
    }

    fn delete_range(&mut self, space: SpaceId, (start, end): Deleted) {
        if end.as_ref().is_some_and(|end| *end <= start) {
            return;
        }
        let own = self.of(space);
        let within = |key: &Vec<u8>| *key >= start && end.as_ref().is_none_or(|end| key < end);
        own.entries.retain(|key, _| !within(key));
        own.deleted.push((start, end));
        own.deleted.sort();
        let mut joined: Vec<Deleted> = vec![];
        for (start, end) in own.deleted.drain(..) {
            match joined.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                    *last = match (last.take(), end) {
                        (Some(last), Some(end)) => Some(last.max(end)),
                        _ => None,
                    };
                }
                _ => joined.push((start, end)),
            }
        }
        own.deleted = joined;
    }

    /// The operations of its commit.
    fn ops(&self) -> Vec<Op> {
        let mut ops = vec![];
        for (space, own) in &self.spaces {
            for (start, end) in &own.deleted {
                let end = end.clone().map_or(Bound::Unbounded, Bound::Excluded);
                ops.push(Op::DeleteRange(*space, (Bound::Included(start.clone()), end)));
            }
            for (key, value) in &own.entries {
                ops.push(match value {
                    Some(value) => Op::Put(*space, key.clone(), value.clone()),
                    None => Op::Delete(*space, key.clone()),
                });
            }
        }
        ops
    }
}

/// A read of a transaction, to be looked at again when it has committed.
pub(super) struct Noted {
    pub(super) space: SpaceId,
    pub(super) seen: Seen,
    pub(super) own: Own,
    pub(super) began: ReadBegan,
    /// It must be right until the commit whatever the level is.
    pub(super) for_update: bool,
}

/// What a transaction has done until it is to commit.
#[derive(Default)]
pub(super) struct Done {
    pub(super) own: Own,
    pub(super) noted: Vec<Noted>,
    pub(super) seq: u64,
    pub(super) submitted: Option<CommitId>,
    /// Nothing is left to be done but to end it.
    pub(super) complete: bool,
}

/// Why the steps ended early.
pub(super) enum Stop {
    /// The database said so.
    Failed(Error),
    /// There is nothing more for this client to do.
    Over,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

impl From<Over> for Stop {
    fn from(_: Over) -> Stop {
        Stop::Over
    }
}

impl Client {
    pub(super) fn transaction(&self, script: &Script<'_>) -> Result<(), Over> {
        let process = &self.session.process;
        let (durability, sync) = match script.durability {
            Durable::Default => (Durability::Default, process.syncs_by_default()),
            Durable::Sync => (Durability::Sync, true),
            Durable::Async => (Durability::Async, false),
        };
        let builder = self.session.db.transaction().isolation(isolation(script.level));
        let mut builder = builder.durability(durability);
        if script.pessimistic {
            builder = builder.pessimistic();
        }
        if script.read_only {
            builder = builder.read_only();
        }
        if let Some(timeout) = script.timeout {
            builder = builder.timeout(timeout);
        }
        let begun = self.about_to_begin();
        let mut began = begun.read;
        if script.runs && !script.abort {
            let mut done = Done::default();
            process.world().take_told();
            let ran = builder.run(|tx| {
                // The try before has not committed, and never will.
                if let Some(id) = done.submitted.take() {
                    process.model.lock().refuse(id);
                    process.world().count("transactions tried again");
                }
                done = self.steps(tx, script, began)?;
                began = process.model.lock().begin_read(); // of the next try
                self.submit_transaction(&mut done, sync);
                process.world().take_told();
                Ok(())
            });
            let told = process.world().take_told();
            return self.transaction_ended(script, ran.map(|()| told.unwrap_or(0)), done, begun);
        }
        let mut done = Done::default();
        let ended = builder.begin().map_err(Stop::Failed).and_then(|tx| {
            done = self.steps(&tx, script, began)?;
            if script.abort {
                tx.abort();
                return Ok(0);
            }
            self.submit_transaction(&mut done, sync);
            Ok(tx.commit()?.0)
        });
        if script.abort && ended.is_ok() {
            process.world().count("transactions given up");
            return Ok(());
        }
        self.transaction_ended(script, ended, done, begun)
    }

    pub(super) fn about_to_begin(&self) -> Begun {
        let process = &self.session.process;
        process.world().count("transactions begun");
        let mut model = process.model.lock();
        let (moment, read) = (model.moment(), model.begin_read());
        Begun { moment, read, clock: process.boot.env.reading() }
    }

    /// Tells the model what is about to be committed.
    pub(super) fn submit_transaction(&self, done: &mut Done, sync: bool) {
        let ops = done.own.ops();
        let process = &self.session.process;
        done.submitted = (!ops.is_empty()).then(|| process.model.lock().submit(ops, sync));
    }

    pub(super) fn transaction_ended(
        &self,
        script: &Script<'_>,
        ended: Result<u64, Stop>,
        done: Done,
        begun: Begun,
    ) -> Result<(), Over> {
        let process = &self.session.process;
        let world = process.world();
        {
            let mut model = process.model.lock();
            let ended = ended.is_ok().then(|| model.moment());
            model.told.push(Told {
                commit: done.submitted,
                client: self.number,
                level: told_level(script.level),
                began: begun.moment,
                ended,
                committed: ended.is_some(),
                reads: done.noted.iter().flat_map(told_reads).collect(),
            });
        }
        if let Err(Stop::Failed(error)) = &ended {
            self.may_fail(script, &done, begun, error)?;
        }
        match ended {
            Ok(seq) => {
                world.count("transactions committed");
                world.record("transaction", &[done.seq, seq], || {
                    format!("{:?} at {} -> {seq}", script.level, done.seq)
                });
                let Some(id) = done.submitted else { return Ok(()) };
                let result = {
                    let mut model = process.model.lock();
                    let told = model.acknowledge(id, seq, world.now());
                    told.and_then(|()| committed_right(&model, script, seq, id, &done))
                };
                process.check(result)
            }
            Err(Stop::Over) => {
                if let Some(id) = done.submitted {
                    process.model.lock().refuse(id);
                }
                Err(Over)
            }
            Err(Stop::Failed(error)) if lost(&error) => {
                world.count("transactions that lost");
                if let Some(id) = done.submitted {
                    process.model.lock().refuse(id);
                }
                Ok(())
            }
            Err(Stop::Failed(error)) => match done.submitted {
                Some(id) => self.not_committed(id, &error),
                None => {
                    process.check_error("I-9", "a transaction", &error)?;
                    match error {
                        Error::Poisoned { .. } | Error::Closed => Err(Over),
                        _ => Ok(()),
                    }
                }
            },
        }
    }

    /// Reports what a transaction does not fail with, or not yet, whatever befell the machine.
    fn may_fail(
        &self,
        script: &Script<'_>,
        done: &Done,
        begun: Begun,
        error: &Error,
    ) -> Result<(), Over> {
        let process = &self.session.process;
        let config = process.workload.settings.config();
        let timeout = script.timeout.unwrap_or(config.transaction_timeout);
        let open = process.boot.env.reading().saturating_sub(begun.clock);
        let ends =
            matches!(error, Error::TransactionTimeout | Error::SnapshotTooOld | Error::Closed);
        let message = match error {
            Error::TransactionTimeout if open < timeout.min(config.version_retention) => {
                format!("a transaction ended after {open:?}, though it has {timeout:?}")
            }
            Error::Poisoned { .. } if script.read_only => {
                format!("a transaction that only reads failed because writes are refused: {error}")
            }
            _ if script.read_only && (error.is_conflict() || done.complete && !ends) => {
                format!("a transaction that only reads did not commit: {error}")
            }
            _ => return Ok(()),
        };
        process.world().violate("transaction", message);
        Err(Over)
    }

    /// Asks a transaction that only reads for a write, which it refuses.
    fn refused(&self, tx: &Transaction, step: &Step) -> Result<(), Stop> {
        let on = |space: &Place| tx.of(&self.space(*space).0);
        let answer = match step {
            Step::ForUpdate { space, key } => {
                on(space)?.get_for_update(key_bytes(*key)).map(|_| ())
            }
            Step::Put { space, key, value } => on(space)?.put(key_bytes(*key), self.value(value)),
            Step::Delete { space, key } => on(space)?.delete(key_bytes(*key)),
            Step::DeleteRange { space, range } => on(space)?.delete_range(range.bounds()),
            _ => return Ok(()),
        };
        match answer {
            Err(Error::ReadOnlyTransaction) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => {
                let message = format!("a transaction that only reads does {step:?}");
                self.session.process.world().violate("transaction", message);
                Err(Stop::Over)
            }
        }
    }

    fn steps(&self, tx: &Transaction, script: &Script<'_>, began: ReadBegan) -> Result<Done, Stop> {
        let process = &self.session.process;
        let (mut done, mut saved): (Done, Vec<(Savepoint, Own)>) = Default::default();
        // A pessimistic one has not decided yet what it sees.
        if !script.pessimistic {
            done.seq = tx.seq()?.0;
        }
        for step in script.steps {
            match step {
                Step::Read { space, read } => {
                    self.transaction_read(tx, script, &mut done, (*space, read), began)?;
                }
                Step::ForUpdate { .. }
                | Step::Put { .. }
                | Step::Delete { .. }
                | Step::DeleteRange { .. }
                    if script.read_only =>
                {
                    self.refused(tx, step)?;
                }
                Step::ForUpdate { space, key } => {
                    let (keyspace, id) = self.space(*space).clone();
                    // Under Read Committed it reads what is there now.
                    let began = match script.level {
                        Level::ReadCommitted => process.model.lock().begin_read(),
                        _ => began,
                    };
                    let got = Got::Value(tx.of(&keyspace)?.get_for_update(key_bytes(*key))?);
                    let seen = Seen { points: vec![(key_bytes(*key), got)], ..Seen::default() };
                    let own = done.own.clone();
                    done.noted.push(Noted { space: id, seen, own, began, for_update: true });
                }
                Step::Put { space, key, value } => {
                    let (keyspace, id) = self.space(*space).clone();
                    let (key, value) = (key_bytes(*key), self.value(value));
                    tx.of(&keyspace)?.put(&key, &value)?;
                    done.own.of(id).entries.insert(key, Some(value));
                }
                Step::Delete { space, key } => {
                    let (keyspace, id) = self.space(*space).clone();
                    tx.of(&keyspace)?.delete(key_bytes(*key))?;
                    done.own.of(id).entries.insert(key_bytes(*key), None);
                }
                Step::DeleteRange { space, range } => {
                    let (keyspace, id) = self.space(*space).clone();
                    tx.of(&keyspace)?.delete_range(range.bounds())?;
                    done.own.delete_range(id, as_half_open(range.bounds()));
                }
                Step::Savepoint => saved.push((tx.savepoint()?, done.own.clone())),
                Step::RollBack(back) if !saved.is_empty() => {
                    let at = saved.len() - 1 - (*back as usize % saved.len());
                    saved.truncate(at + 1);
                    tx.rollback_to(saved[at].0)?;
                    // In which keyspaces it has written, and in which order, stays as it is.
                    let before = saved[at].1.clone();
                    for (space, own) in &mut done.own.spaces {
                        let then = before.spaces.iter().find(|(id, _)| id == space);
                        *own = then.map(|(_, own)| own.clone()).unwrap_or_default();
                    }
                }
                Step::RollBack(_) => {}
                Step::Sleep { nanos } => self.sleep(*nanos),
            }
        }
        if script.pessimistic && script.level != Level::ReadCommitted {
            done.seq = tx.seq()?.0;
            for noted in &done.noted {
                process.check(right_at(&process.model.lock(), noted, done.seq))?;
            }
        }
        done.complete = true;
        Ok(done)
    }

    fn transaction_read(
        &self,
        tx: &Transaction,
        script: &Script<'_>,
        done: &mut Done,
        (place, read): (Place, &Read),
        began: ReadBegan,
    ) -> Result<(), Stop> {
        let process = &self.session.process;
        let (keyspace, space): OpenSpace = self.space(place).clone();
        let now = process.model.lock().begin_read();
        let seen = perform(read, &tx.of(&keyspace)?)?;
        if let Some(error) = seen.failed {
            return Err(Stop::Failed(error));
        }
        process.world().count("reads of transactions");
        let own = done.own.clone();
        let noted = Noted { space, seen, own, began, for_update: false };
        process.check(under_own(&noted))?;
        match script.level {
            Level::ReadCommitted if noted.own.spaces.is_empty() => {
                let result = process.model.lock().read_now(space, &noted.seen, &now);
                process.check(result)?;
            }
            Level::Snapshot | Level::Serializable if !script.pessimistic => {
                process.check(right_at(&process.model.lock(), &noted, done.seq))?;
            }
            _ => {}
        }
        done.noted.push(noted);
        Ok(())
    }
}

pub(super) fn isolation(level: Level) -> IsolationLevel {
    match level {
        Level::ReadCommitted => IsolationLevel::ReadCommitted,
        Level::Snapshot => IsolationLevel::Snapshot,
        Level::Serializable => IsolationLevel::Serializable,
    }
}

/// Whether it is the fate of some transactions to fail like this.
fn lost(error: &Error) -> bool {
    error.is_conflict()
        || matches!(
            error,
            Error::TransactionTimeout
                | Error::SnapshotTooOld
                | Error::TooManyTransactions { .. }
                | Error::CommitTooLarge { .. }
                | Error::KeyTooLarge
        )
}

fn told_level(level: Level) -> isolation::Level {
    match level {
        Level::ReadCommitted => isolation::Level::ReadCommitted,
        Level::Snapshot => isolation::Level::Snapshot,
        Level::Serializable => isolation::Level::Serializable,
    }
}

/// A read as the checker wants it told: what of it is committed.
fn told_reads(noted: &Noted) -> Vec<isolation::Operation> {
    let mut reads = vec![];
    for (key, got) in &noted.seen.points {
        if let (Got::Value(value), None) = (got, noted.own.get(noted.space, key)) {
            let (key, seen) = (key.clone(), value.as_deref().map(version));
            reads.push(isolation::Operation::Read { keyspace: noted.space, key, seen });
        }
    }
    // Its own writes cover some of what a scan would have shown.
    if noted.own.spaces.iter().all(|(space, _)| *space != noted.space) {
        for bounds in &noted.seen.covered {
            let entries = within(&noted.seen.entries, bounds);
            let seen = entries.map(|(key, value)| (key.clone(), version(value))).collect();
            let (keyspace, range) = (noted.space, key_range(bounds));
            reads.push(isolation::Operation::Scan { keyspace, range, reached: None, seen });
        }
    }
    reads
}

/// What a read says of keys that the transaction has written is what it wrote.
pub(super) fn under_own(noted: &Noted) -> Result<(), Broken> {
    let own = noted.own.spaces.iter().find(|(id, _)| *id == noted.space);
    let keys = own.into_iter().flat_map(|(_, own)| own.entries.keys());
    if let Some(disorder) = &noted.seen.disorder {
        return Err(Broken { invariant: "transaction", message: disorder.clone() });
    }
    for (key, got) in noted.seen.claims(keys) {
        let Some(value) = noted.own.get(noted.space, &key) else {
            continue;
        };
        if !got.iter().all(|got| got.fits(value)) {
            let key = key.escape_ascii();
            let message = format!("a transaction does not read of key {key} what it wrote last");
            return Err(Broken { invariant: "transaction", message });
        }
    }
    Ok(())
}

/// What a read says of all other keys is right at a SeqNo.
pub(super) fn right_at(model: &Model, noted: &Noted, seq: u64) -> Result<(), Broken> {
    let is_own = |key: &[u8]| noted.own.get(noted.space, key).is_some();
    model.right_at(noted.space, &noted.seen, seq, &noted.began, &is_own)
}

/// What a transaction counted on has held until it committed, with a SeqNo that its last operation has.
fn committed_right(
    model: &Model,
    script: &Script<'_>,
    seq: u64,
    id: CommitId,
    done: &Done,
) -> Result<(), Broken> {
    let ops = done.own.ops();
    let before = seq - ops.len() as u64;
    for noted in &done.noted {
        if noted.for_update || script.level == Level::Serializable {
            right_at(model, noted, before).map_err(|broken| Broken {
                invariant: if noted.for_update { "for-update" } else { "serializable" },
                message: format!("when the transaction committed: {}", broken.message),
            })?;
        }
    }
    if script.level == Level::Snapshot
        && let Some(other) = model.changed_between(&ops, done.seq, before)
    {
        let message = format!(
            "transaction {id} at {} wrote what commit {other} wrote before it at {before}",
            done.seq
        );
        return Err(Broken { invariant: "first-committer", message });
    }
    Ok(())
}

/// Does a read by a transaction's verb for it, or the one that is next to it.
pub(super) fn perform(read: &Read, on: &Transaction) -> Result<Seen> {
    let point = |key: u64, got| Seen { points: vec![(key_bytes(key), got)], ..Seen::default() };
    let all = || (Bound::Unbounded, Bound::Unbounded);
    match read {
        Read::Get(key) | Read::GetRef(key) | Read::GetReader(key, _) => {
            Ok(point(*key, Got::Value(on.get(key_bytes(*key))?)))
        }
        Read::ContainsKey(key) => Ok(point(*key, Got::Present(on.contains_key(key_bytes(*key))?))),
        Read::GetBatch(keys) | Read::GetBatchWith(keys) => {
            let keys: Vec<_> = keys.iter().map(|key| key_bytes(*key)).collect();
            let values = on.get_batch(&keys)?.into_iter().map(Got::Value);
            Ok(Seen { points: keys.into_iter().zip(values).collect(), ..Seen::default() })
        }
        Read::First | Read::Last => {
            let ends = if *read == Read::First { Ends::Front } else { Ends::Back };
            Ok(walk(on.iter()?, all(), Walk { ends, entries: 1, lent: false }, false))
        }
        Read::Scan(start, end, way) | Read::ScanReverse(start, end, way) => {
            let (start, end) = half_open(start, end);
            let reversed = matches!(read, Read::ScanReverse(..));
            let scan = match reversed {
                false => on.scan(start.as_deref(), end.as_deref())?,
                true => on.scan_reverse(start.as_deref(), end.as_deref())?,
            };
            Ok(walk(scan, bounds(start, end), *way, reversed))
        }
        Read::ScanPrefix(key, bytes, way) => {
            let mut prefix = key_bytes(*key);
            prefix.truncate(*bytes as usize);
            Ok(walk(on.scan_prefix(&prefix)?, prefixed(&prefix), *way, false))
        }
        Read::Range(range, way) => Ok(walk(on.range(range.bounds())?, range.bounds(), *way, false)),
        Read::Iter(way) => Ok(walk(on.iter()?, all(), *way, false)),
        Read::ForEach(range) => {
            let way = Walk { ends: Ends::Front, entries: u64::MAX, lent: false };
            Ok(walk(on.range(range.bounds())?, range.bounds(), way, false))
        }
    }
}

/// Walks a scan over `bounds` that is reversed or not.
pub(super) fn walk(mut scan: TransactionScan, bounds: Bounds, way: Walk, reversed: bool) -> Seen {
    let (mut front, mut back) = (vec![], vec![]);
    for n in 0..way.entries {
        let from_back = way.ends.is_back(n);
        let next = if from_back { scan.next_back() } else { scan.next() };
        match next {
            None => return scanned(front, back, bounds, true),
            Some(Ok(entry)) if from_back != reversed => back.push(entry),
            Some(Ok(entry)) => front.push(entry),
            Some(Err(error)) => {
                let seen = scanned(front, back, bounds, false);
                return Seen { failed: Some(error), ..seen };
            }
        }
    }
    scanned(front, back, bounds, false)
}
