//! One client on a machine on which nothing fails: every answer must be that of an ordered map.
//!
//! Independent of the model that crashes and many clients need, and quick: for inputs that a fuzzer
//! makes up by the thousand.

use super::{
    load::{Ended, ending, ends_early},
    operation::{
        Bounds, Durable, Expects, Operation, Place, Read, Step, Value, Write, inside, key_bytes,
    },
    session::DIR,
    shape::{Settings, storage_kind},
    transactions::{self, isolation},
    verbs::{Readable, Seen, perform},
};
use crate::{
    aim::Aim,
    decisions::Order,
    env::SimEnv,
    simulation::{Boot, BootPlan, Outcome, Plan, run},
    world::Scheduling,
};
use lightning_db::{
    Database, Durability, Error, Keyspace, Snapshot, Transaction, WriteBatch, env::Env,
};
use lightning_faults::{Dice, FaultPlan};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Snapshots that are held at once.
const HELD: usize = 3;

/// One opening of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    /// What is done, one after another, up to the first `Close`.
    pub(crate) operations: Vec<Operation>,
    /// Ended by `close` at the latest, not by dropping the last handle.
    pub(crate) close: bool,
}

/// Opens a new database, does what is asked for, and opens it again, and so on.
pub(crate) fn run_alone(settings: Settings, openings: Vec<Opening>) -> Outcome {
    run(plan(), move |boot: Boot| {
        let mut contents = BTreeMap::from([(Place::Default, Entries::new())]);
        let mut values = 0;
        let nothing = Opening { operations: vec![], close: true };
        for opening in openings.iter().chain([&nothing]) {
            let done = Alone::open(&boot.env, &settings, contents, values)
                .and_then(|alone| alone.run(opening));
            match done {
                Ok(left) => (contents, values) = left,
                Err(why) => return boot.env.world().violate("map", why),
            }
        }
    })
}

/// One boot in which nothing fails.
fn plan() -> Plan {
    Plan {
        seed: 0,
        faults: FaultPlan::none(),
        scheduling: Scheduling {
            order: Order::Uniform,
            preempt: 0.0,
            buggify_site: 0.0,
            buggify: 0.0,
            aim: Aim::default(),
        },
        boots: vec![BootPlan {
            stream: 0,
            crash: None,
            near: None,
            full: None,
            calm: true,
            interference: None,
        }],
        keep_lines: None,
    }
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
type Contents = BTreeMap<Place, Entries>;

/// An open database, and what it holds.
struct Alone {
    env: SimEnv,
    db: Arc<Database>,
    spaces: BTreeMap<Place, Keyspace>,
    contents: Contents,
    held: Vec<(Snapshot, BTreeMap<Place, Keyspace>, Contents)>,
    /// Values written so far: no two are the same.
    values: u64,
}

fn told<T>(during: &str, result: lightning_db::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{during} failed: {error}"))
}

impl Alone {
    fn open(
        env: &SimEnv,
        settings: &Settings,
        contents: Contents,
        values: u64,
    ) -> Result<Alone, String> {
        let shared: Arc<dyn Env> = Arc::new(env.clone());
        let db =
            told("opening", Database::open_or_create_with_env(shared, DIR, settings.config()))?;
        let mut names = told("listing the keyspaces", db.keyspaces())?;
        let mut expected: Vec<_> = contents.keys().map(|place| place.name().to_owned()).collect();
        names.sort();
        expected.sort();
        if names != expected {
            return Err(format!("the keyspaces are {names:?}, not {expected:?}"));
        }
        let (spaces, held) = (BTreeMap::new(), vec![]);
        let mut alone = Alone { env: env.clone(), db, spaces, contents, held, values };
        for place in alone.contents.keys().copied().collect::<Vec<_>>() {
            alone.create(place)?;
        }
        let wanted = [Place::Default, Place::Shared1, Place::Shared2];
        for place in wanted.into_iter().take(1 + settings.shared_keyspaces) {
            alone.create(place)?;
        }
        alone.check_all()?;
        Ok(alone)
    }

    fn create(&mut self, place: Place) -> Result<(), String> {
        let keyspace = told("opening a keyspace", self.db.keyspace(place.name()))?;
        self.spaces.insert(place, keyspace);
        self.contents.entry(place).or_default();
        Ok(())
    }

    /// Does it all, and tells what the database then holds.
    fn run(mut self, opening: &Opening) -> Result<(Contents, u64), String> {
        let mut operations = opening.operations.split(|operation| *operation == Operation::Close);
        for operation in operations.next().unwrap_or_default() {
            let done = self.execute(operation);
            done.map_err(|why| format!("{why}, in {operation:?}"))?;
        }
        self.check_all()?;
        self.held.clear();
        self.spaces.clear();
        if opening.close || operations.next().is_some() {
            told("closing", self.db.close())?;
        }
        Ok((self.contents, self.values))
    }

    fn check_all(&self) -> Result<(), String> {
        let range = super::client::EVERYTHING;
        let mut all = self.spaces.iter();
        all.try_for_each(|(place, space)| {
            check(&Read::ForEach(range), space, &self.contents[place])
        })
    }

    /// The keyspace that is meant: the default one in place of one that does not exist.
    fn space(&self, place: Place) -> (Place, &Keyspace) {
        let found = self.spaces.get(&place).map(|keyspace| (place, keyspace));
        found.unwrap_or_else(|| (Place::Default, &self.spaces[&Place::Default]))
    }

    fn value(&mut self, value: &Value) -> Vec<u8> {
        self.values += 1;
        let mut bytes = self.values.to_le_bytes().to_vec();
        bytes.resize(value.bytes.max(8) as usize, self.values as u8);
        if value.random {
            Dice::new(0, "value", self.values).fill(&mut bytes[8..]);
        }
        bytes
    }

    fn execute(&mut self, operation: &Operation) -> Result<(), String> {
        match operation {
            Operation::PutReader { space, key, value, durability, .. } => {
                let (space, key, value, durability) = (*space, *key, *value, *durability);
                self.execute(&Operation::Put { space, key, value, durability })
            }
            Operation::Commit { writes, durability } => self.commit(writes, *durability),
            Operation::Put { space, key, value, durability } => {
                let (key, value) = (key_bytes(*key), self.value(value));
                let (place, keyspace) = self.space(*space);
                told("put", keyspace.put_with(&key, &value, durable(*durability)))?;
                self.entries(place).insert(key, value);
                Ok(())
            }
            Operation::Delete { space, key } => {
                let (place, keyspace) = self.space(*space);
                told("delete", keyspace.delete(key_bytes(*key)))?;
                self.entries(place).remove(&key_bytes(*key));
                Ok(())
            }
            Operation::DeleteRange { space, range } => {
                let (place, keyspace) = self.space(*space);
                told("delete_range", keyspace.delete_range(range.bounds()))?;
                self.remove_range(place, &range.bounds());
                Ok(())
            }
            Operation::PutBatch { space, entries } => {
                let entries: Vec<(Vec<u8>, Vec<u8>)> = entries
                    .iter()
                    .map(|(key, value)| (key_bytes(*key), self.value(value)))
                    .collect();
                let (place, keyspace) = self.space(*space);
                told("put_batch", keyspace.put_batch(&entries))?;
                self.entries(place).extend(entries);
                Ok(())
            }
            Operation::DeleteBatch { space, keys } => {
                let keys: Vec<Vec<u8>> = keys.iter().map(|key| key_bytes(*key)).collect();
                let (place, keyspace) = self.space(*space);
                told("delete_batch", keyspace.delete_batch(&keys))?;
                let entries = self.entries(place);
                keys.iter().for_each(|key| _ = entries.remove(key));
                Ok(())
            }
            Operation::Read { space, read } => {
                let (place, keyspace) = self.space(*space);
                match place {
                    Place::Default => check(read, &*self.db, &self.contents[&place]),
                    _ => check(read, keyspace, &self.contents[&place]),
                }
            }
            Operation::Snapshot => self.snapshot(),
            Operation::Reread { held, space, read } => self.reread(*held, *space, read),
            Operation::BulkLoad { space, entries, empties, fails, .. } => {
                self.bulk_load(*space, entries, *empties, *fails)
            }
            Operation::Transaction { level, pessimistic, steps, durability, abort, .. } => {
                let builder = self.db.transaction().isolation(isolation(*level));
                let builder = builder.durability(durable(*durability));
                let builder = if *pessimistic { builder.pessimistic() } else { builder };
                let tx = told("begin", builder.begin())?;
                self.transaction(tx, steps, *abort)
            }
            Operation::CompareAndSwap { space, key, expects, value, .. } => {
                self.compare_and_swap((*space, *key), *expects, value.as_ref())
            }
            Operation::FetchAndUpdate { space, key, value, .. } => {
                self.fetch_and_update((*space, *key), value.as_ref())
            }
            Operation::PopFirst { space } => self.pop(*space, false),
            Operation::PopLast { space } => self.pop(*space, true),
            Operation::Keyspace => self.own_keyspace(),
            Operation::Follow { .. } => Ok(()), // that takes a model which knows SeqNos
            Operation::Checkpoint => told("checkpoint", self.db.checkpoint()),
            Operation::Compact => told("compact", self.db.compact()),
            Operation::StorageKind { space, btree } => {
                let (_, keyspace) = self.space(*space);
                let kind = storage_kind(*btree);
                told("set_storage_kind", keyspace.set_storage_kind(kind))?;
                match told("storage_kind", keyspace.storage_kind())? == kind {
                    true => Ok(()),
                    false => Err(format!("the keyspace did not become {kind:?}")),
                }
            }
            Operation::Close => told("close", self.db.close()),
            Operation::Sleep { nanos } => {
                self.env.clock().sleep(Duration::from_nanos(*nanos));
                Ok(())
            }
        }
    }

    fn entries(&mut self, place: Place) -> &mut Entries {
        self.contents.entry(place).or_default()
    }

    fn remove_range(&mut self, place: Place, bounds: &Bounds) {
        self.entries(place).retain(|key, _| !inside(bounds, key));
    }

    fn commit(&mut self, writes: &[Write], durability: Durable) -> Result<(), String> {
        let (mut batch, mut after) = (WriteBatch::new(), self.contents.clone());
        for write in writes {
            match write {
                Write::Put { space, key, value } => {
                    let (key, value) = (key_bytes(*key), self.value(value));
                    let (place, keyspace) = self.space(*space);
                    batch.put_in(keyspace, &key, &value);
                    after.entry(place).or_default().insert(key, value);
                }
                Write::Delete { space, key } => {
                    let (place, keyspace) = self.space(*space);
                    batch.delete_in(keyspace, key_bytes(*key));
                    after.entry(place).or_default().remove(&key_bytes(*key));
                }
                Write::DeleteRange { space, range } => {
                    let (place, keyspace) = self.space(*space);
                    batch.delete_range_in(keyspace, range.bounds());
                    let bounds = range.bounds();
                    after.entry(place).or_default().retain(|key, _| !inside(&bounds, key));
                }
            }
        }
        told("commit", self.db.commit(batch, durable(durability)))?;
        self.contents = after;
        Ok(())
    }

    fn compare_and_swap(
        &mut self,
        (space, key): (Place, u64),
        expects: Expects,
        value: Option<&Value>,
    ) -> Result<(), String> {
        let (key, other) = (key_bytes(key), b"nobody has written this".to_vec());
        let new = value.map(|value| self.value(value));
        let (place, keyspace) = self.space(space);
        let is = self.contents[&place].get(&key).cloned();
        let old = match expects {
            Expects::Nothing => None,
            Expects::Found => is.clone(),
            Expects::Other => Some(other),
        };
        let swapped = keyspace.compare_and_swap(&key, old.as_deref(), new.as_deref());
        match told("compare_and_swap", swapped)? {
            Ok(()) if old == is => self.set(place, key, new),
            Err(found) if old != is && found == is => {}
            answer => return Err(format!("compare_and_swap answers {answer:?}")),
        }
        Ok(())
    }

    fn fetch_and_update(
        &mut self,
        (space, key): (Place, u64),
        value: Option<&Value>,
    ) -> Result<(), String> {
        let (key, new) = (key_bytes(key), value.map(|value| self.value(value)));
        let (place, keyspace) = self.space(space);
        let found = told("fetch_and_update", keyspace.fetch_and_update(&key, |_| new.clone()))?;
        if found.as_ref() != self.contents[&place].get(&key) {
            return Err(format!("fetch_and_update found {found:?}"));
        }
        self.set(place, key, new);
        Ok(())
    }

    fn pop(&mut self, space: Place, last: bool) -> Result<(), String> {
        let (place, keyspace) = self.space(space);
        let popped = told("a pop", if last { keyspace.pop_last() } else { keyspace.pop_first() })?;
        let entries = self.entries(place);
        let expected = if last { entries.pop_last() } else { entries.pop_first() };
        match popped == expected {
            true => Ok(()),
            false => Err(format!("a pop took out {popped:?}, not {expected:?}")),
        }
    }

    fn set(&mut self, place: Place, key: Vec<u8>, value: Option<Vec<u8>>) {
        let entries = self.entries(place);
        match value {
            Some(value) => _ = entries.insert(key, value),
            None => _ = entries.remove(&key),
        }
    }

    /// Nobody comes between: it sees what there is under its own writes, and commits.
    fn transaction(&mut self, tx: Transaction, steps: &[Step], abort: bool) -> Result<(), String> {
        let (mut after, mut saved) = (self.contents.clone(), vec![]);
        for step in steps {
            match step {
                Step::Read { space, read } => {
                    let (place, tx) = self.within(&tx, *space)?;
                    let seen = told("a read of a transaction", transactions::perform(read, &tx))?;
                    agrees(read, seen, after.entry(place).or_default())?;
                }
                Step::ForUpdate { space, key } => {
                    let (place, tx) = self.within(&tx, *space)?;
                    let found = told("get_for_update", tx.get_for_update(key_bytes(*key)))?;
                    if found.as_ref() != after.entry(place).or_default().get(&key_bytes(*key)) {
                        return Err(format!("get_for_update of key {key} is wrong"));
                    }
                }
                Step::Put { space, key, value } => {
                    let (key, value) = (key_bytes(*key), self.value(value));
                    let (place, tx) = self.within(&tx, *space)?;
                    told("put in a transaction", tx.put(&key, &value))?;
                    after.entry(place).or_default().insert(key, value);
                }
                Step::Delete { space, key } => {
                    let (place, tx) = self.within(&tx, *space)?;
                    told("delete in a transaction", tx.delete(key_bytes(*key)))?;
                    after.entry(place).or_default().remove(&key_bytes(*key));
                }
                Step::DeleteRange { space, range } => {
                    let (place, tx) = self.within(&tx, *space)?;
                    told("delete_range in a transaction", tx.delete_range(range.bounds()))?;
                    let bounds = range.bounds();
                    after.entry(place).or_default().retain(|key, _| !inside(&bounds, key));
                }
                Step::Savepoint => saved.push((told("savepoint", tx.savepoint())?, after.clone())),
                Step::RollBack(back) if !saved.is_empty() => {
                    saved.truncate(saved.len() - *back as usize % saved.len());
                    let (savepoint, then) = &saved[saved.len() - 1];
                    told("rollback_to", tx.rollback_to(*savepoint))?;
                    after.clone_from(then);
                }
                // Its time would be over, on a real disk sooner than on a simulated one.
                Step::RollBack(_) | Step::Sleep { .. } => {}
            }
        }
        if abort {
            tx.abort();
            return Ok(());
        }
        told("commit of a transaction", tx.commit())?;
        self.contents = after;
        Ok(())
    }

    fn within(&self, tx: &Transaction, space: Place) -> Result<(Place, Transaction), String> {
        let (place, keyspace) = self.space(space);
        Ok((place, told("of", tx.of(keyspace))?))
    }

    fn bulk_load(
        &mut self,
        space: Place,
        entries: &[(u64, Value)],
        empties: bool,
        fails: Option<u64>,
    ) -> Result<(), String> {
        let entries: Entries =
            entries.iter().map(|(key, value)| (key_bytes(*key), self.value(value))).collect();
        let (place, keyspace) = self.space(space);
        let keyspace = keyspace.clone();
        if empties {
            told("delete_range", keyspace.delete_range(..))?;
            self.entries(place).clear();
        }
        let answer = keyspace.try_bulk_load(ending(&entries, fails, || ()));
        match (self.entries(place).is_empty(), ends_early(&entries, fails), answer) {
            (true, false, Ok(_)) => *self.entries(place) = entries,
            (true, true, Err(Ended::Input)) => {}
            (false, _, Err(Ended::Refused(Error::NotEmpty { .. }))) => {}
            (.., answer) => return Err(format!("bulk_load answered {answer:?}")),
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<(), String> {
        let snapshot = told("snapshot", self.db.snapshot())?;
        if self.held.len() == HELD {
            self.held.remove(0);
        }
        self.held.push((snapshot, self.spaces.clone(), self.contents.clone()));
        Ok(())
    }

    fn reread(&self, held: u64, place: Place, read: &Read) -> Result<(), String> {
        let Some(held) = (held as usize).checked_rem(self.held.len()) else {
            return Ok(());
        };
        let (snapshot, spaces, contents) = &self.held[held];
        let place = if spaces.contains_key(&place) { place } else { Place::Default };
        check(read, &snapshot.of(&spaces[&place]), &contents[&place])
    }

    fn own_keyspace(&mut self) -> Result<(), String> {
        if self.spaces.remove(&Place::Own).is_none() {
            return self.create(Place::Own);
        }
        told("drop_keyspace", self.db.drop_keyspace(Place::Own.name()))?;
        self.contents.remove(&Place::Own);
        Ok(())
    }
}

fn durable(durability: Durable) -> Durability {
    match durability {
        Durable::Default => Durability::Default,
        Durable::Sync => Durability::Sync,
        Durable::Async => Durability::Async,
    }
}

/// Reads, and compares with what a keyspace holds.
fn check(read: &Read, on: &dyn Readable, contents: &Entries) -> Result<(), String> {
    let seen = told("a read", perform(read, on))?;
    agrees(read, seen, contents)
}

fn agrees(read: &Read, seen: Seen, contents: &Entries) -> Result<(), String> {
    if let Some(disorder) = seen.disorder {
        return Err(disorder);
    }
    match seen.differs(contents) {
        None => Ok(()),
        Some(key) => Err(format!(
            "key {key:?} holds {:?}, but {read:?} says otherwise",
            contents.get(&key).map(|value| (value.len(), value.first()))
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{database::shape::SyncMode, simulation::Crash};

    fn settings() -> Settings {
        Settings {
            memtable_bytes: 4 << 10,
            segment_bytes: 16 << 10,
            cache_bytes: 0,
            memory_bytes: 2 << 20,
            sync: SyncMode::Async,
            interval_micros: 1000,
            wal: true,
            compression: 0,
            btree: false,
            page_bytes: 4 << 10,
            blob_bytes: None,
            retention_bytes: None,
            log_compression: false,
            shared_keyspaces: 0,
        }
    }

    fn put(key: u64, bytes: u64) -> Operation {
        let (space, durability) = (Place::Default, Durable::Default);
        Operation::Put { space, key, value: Value { bytes, random: true }, durability }
    }

    /// For a map that agrees with everything.
    #[test]
    fn an_answer_that_differs_from_the_map_is_seen() {
        let changes: [fn(&mut Entries); 4] = [
            |_| {},
            |entries| _ = entries.insert(key_bytes(3), vec![]),
            |entries| _ = entries.remove(&key_bytes(2)),
            |entries| entries.values_mut().for_each(|value| value[0] += 1),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let outcome = run(plan(), move |boot| {
                assert_eq!(boot.after, Crash::Ended);
                let contents = Contents::from([(Place::Default, Entries::new())]);
                let alone = Alone::open(&boot.env, &settings(), contents, 0);
                let mut alone = alone.expect("an open database");
                alone.execute(&put(2, 9)).expect("a put");
                change(alone.entries(Place::Default));
                if let Err(why) = alone.check_all() {
                    boot.env.world().violate("map", why);
                }
            });
            let broken = outcome.violation.map(|broken| broken.invariant);
            assert_eq!(broken, (n > 0).then_some("map"), "change {n}");
        }
    }

    /// Openings, flushes and the log of an earlier process lie between a put and its read.
    #[test]
    fn what_was_put_is_there_after_every_opening() {
        let many = (2..40).map(|key| put(key, 3000)).collect();
        let close = |close, operations| Opening { operations, close };
        let reread = Operation::Reread { held: 0, space: Place::Default, read: Read::Get(5) };
        let held = vec![put(5, 8), Operation::Snapshot, put(5, 9), reread];
        let openings = vec![close(false, many), close(true, held), close(false, vec![])];
        let outcome = run_alone(settings(), openings);
        assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
        assert!(outcome.boot_ios[0] > 100, "{:?}", outcome.boot_ios);
    }
}
