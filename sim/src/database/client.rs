//! One client: a thread that writes and reads, and checks what it reads.

use super::{
    by_id::has_verbs,
    follow::Following,
    model::{CommitId, Contents, Op, difference},
    operation::{Durable, Operation, Place, Range, Read, Value, Write, key_bytes},
    pieces::Pieces,
    session::{OpenSpace, Over, Session},
    shape::storage_kind,
    transactions::Script,
    verbs::{Readable, Seen},
    workload::Turn,
};
use lightning_db::{Database, Durability, Error, Result, Snapshot, WriteBatch, env::Env};
use lightning_faults::Dice;
use std::{sync::Arc, time::Duration};

/// After this time a sleeping client says that it is alive.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// Snapshots that a client holds at once.
const HELD: usize = 3;

pub(super) struct Client {
    pub(super) session: Arc<Session>,
    pub(super) number: u64,
    /// A keyspace that this client alone writes, creates and drops.
    pub(super) own: Option<OpenSpace>,
    held: Vec<Held>,
    pub(super) following: Vec<Following>,
}

/// A snapshot, the keyspaces that it was read in, and what they held.
struct Held {
    snapshot: Snapshot,
    spaces: Vec<(Place, OpenSpace)>,
    contents: Contents,
}

/// How a commit is asked for: a verb that writes without telling the SeqNo, or one that tells it.
type Ask<'a> = Box<dyn FnOnce() -> Result<Option<u64>> + 'a>;

impl Client {
    pub(super) fn new(session: Arc<Session>, number: u64) -> Client {
        Client { session, number, own: None, held: vec![], following: vec![] }
    }

    /// Does one operation after another; ends early when there is no point in going on.
    pub(super) fn run(&mut self) {
        let exists = self.own_name();
        let known = self.session.process.model.lock().spaces.get(&exists).copied();
        if let Some(id) = known.and_then(|space| space.now)
            && let Ok(keyspace) = self.session.db.keyspace(&exists)
        {
            self.own = Some((keyspace, id));
        }
        for number in 0.. {
            let turn = Turn { session: self.session.number, client: self.number, number };
            let Some(operation) = self.session.process.next_operation(turn) else {
                return;
            };
            let over = self.execute(&operation).is_err();
            // A read that a fault made fail is no reason to end: the next one may succeed.
            let goes_on = is_read(&operation) && self.session.process.world().violation().is_none();
            if over && !goes_on {
                return;
            }
        }
    }

    fn own_name(&self) -> String {
        format!("own-{}", self.number)
    }

    fn execute(&mut self, operation: &Operation) -> Result<(), Over> {
        let world = self.session.process.world();
        world.count(verb(operation));
        world.record("does", &[], || {
            serde_json::to_string(operation).unwrap_or_default().replace('"', "")
        });
        match operation {
            Operation::Commit { writes, durability } => self.commit(writes, *durability),
            Operation::Put { space, key, value, durability } => {
                self.put(*space, *key, value, *durability)
            }
            Operation::PutReader { space, key, value, durability, piece, fails } => {
                self.put_reader(*space, *key, value, *durability, Pieces::new(*piece, *fails))
            }
            Operation::Delete { space, key } => self.delete(*space, *key),
            Operation::DeleteRange { space, range } => self.delete_range(*space, *range),
            Operation::PutBatch { space, entries } => self.put_batch(*space, entries),
            Operation::DeleteBatch { space, keys } => self.delete_batch(*space, keys),
            Operation::Read { space, read } => self.read(*space, read),
            Operation::Snapshot => self.snapshot(),
            Operation::Reread { held, space, read } => self.reread(*held, *space, read),
            Operation::BulkLoad { space, entries, empties, nanos, fails } => {
                self.bulk_load(*space, entries, (*empties, *nanos, *fails))
            }
            Operation::Transaction {
                level,
                pessimistic,
                steps,
                durability,
                abort,
                runs,
                read_only,
                timeout_nanos,
                by_id,
            } => {
                let script = Script {
                    level: *level,
                    pessimistic: *pessimistic,
                    steps,
                    durability: *durability,
                    abort: *abort,
                    runs: *runs,
                    read_only: *read_only,
                    timeout: timeout_nanos.map(Duration::from_nanos),
                };
                match *by_id && has_verbs(&script) {
                    true => self.transaction_by_id(&script),
                    false => self.transaction(&script),
                }
            }
            Operation::CompareAndSwap { space, key, expects, value, nanos } => {
                self.compare_and_swap((*space, *key), *expects, value.as_ref(), *nanos)
            }
            Operation::FetchAndUpdate { space, key, value, nanos } => {
                self.fetch_and_update((*space, *key), value.as_ref(), *nanos)
            }
            Operation::PopFirst { space } => self.pop(*space, false),
            Operation::PopLast { space } => self.pop(*space, true),
            Operation::Follow { space, again, commits, nanos } => {
                self.follow(*space, *again, *commits, Duration::from_nanos(*nanos))
            }
            Operation::Keyspace => self.keyspace(),
            Operation::Checkpoint => self.make_durable("a checkpoint", Database::checkpoint),
            Operation::Compact => self.make_durable("a compaction", Database::compact),
            Operation::StorageKind { space, btree } => self.set_storage_kind(*space, *btree),
            Operation::Close => self.close(),
            Operation::Sleep { nanos } => {
                self.sleep(*nanos);
                Ok(())
            }
        }
    }

    /// Waits. A thread that only sleeps for long looks like one that hangs.
    pub(super) fn sleep(&self, nanos: u64) {
        let (process, mut left) = (&self.session.process, Duration::from_nanos(nanos));
        while !left.is_zero() {
            let part = left.min(LONGEST_SLEEP);
            process.boot.env.clock().sleep(part);
            left -= part;
            process.world().record("slept", &[], || format!("{left:?} are left"));
        }
    }

    /// The keyspace that a name stands for.
    pub(super) fn space(&self, place: Place) -> &OpenSpace {
        let shared = &self.session.shared;
        let found = match place {
            Place::Own => self.own.as_ref(),
            place => shared.iter().find(|(p, _)| *p == place).map(|(_, space)| space),
        };
        found.unwrap_or(&shared[0].1)
    }

    /// The keyspaces that this client uses.
    fn spaces(&self) -> Vec<(Place, OpenSpace)> {
        let own = self.own.clone().map(|own| (Place::Own, own));
        self.session.shared.iter().cloned().chain(own).collect()
    }

    /// The bytes of a value: its number, then what its length and kind ask for.
    pub(super) fn value(&self, value: &Value) -> Vec<u8> {
        let process = &self.session.process;
        let number = {
            let mut model = process.model.lock();
            model.values += 1;
            model.values
        };
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(value.bytes.max(8) as usize, number as u8);
        if value.random {
            Dice::new(process.world().seed(), "value", number).fill(&mut bytes[8..]);
        }
        bytes
    }

    fn commit(&mut self, writes: &[Write], durability: Durable) -> Result<(), Over> {
        let (mut batch, mut ops) = (WriteBatch::new(), vec![]);
        for write in writes {
            match write {
                Write::Put { space, key, value } => {
                    let (keyspace, space) = self.space(*space);
                    let (key, value) = (key_bytes(*key), self.value(value));
                    batch.put_in(keyspace, &key, &value);
                    ops.push(Op::Put(*space, key, value));
                }
                Write::Delete { space, key } => {
                    let (keyspace, space) = self.space(*space);
                    batch.delete_in(keyspace, key_bytes(*key));
                    ops.push(Op::Delete(*space, key_bytes(*key)));
                }
                Write::DeleteRange { space, range } => {
                    let (keyspace, space) = self.space(*space);
                    batch.delete_range_in(keyspace, range.bounds());
                    ops.push(Op::DeleteRange(*space, range.bounds()));
                }
            }
        }
        let db = self.session.db.clone();
        let durability = match durability {
            Durable::Default => (Durability::Default, self.session.process.syncs_by_default()),
            Durable::Sync => (Durability::Sync, true),
            Durable::Async => (Durability::Async, false),
        };
        let ask = Box::new(move || Ok(Some(db.commit(batch, durability.0)?.0)));
        self.submit("commit", ops, durability.1, ask)
    }

    fn put(
        &mut self,
        place: Place,
        key: u64,
        value: &Value,
        durability: Durable,
    ) -> Result<(), Over> {
        let (keyspace, space) = self.space(place).clone();
        let (key, value) = (key_bytes(key), self.value(value));
        let ops = vec![Op::Put(space, key.clone(), value.clone())];
        // The default keyspace answers to the database's own verbs too.
        let db = (place == Place::Default).then(|| self.session.db.clone());
        let put = |durability| match &db {
            Some(db) => db.put_with(&key, &value, durability).map(|()| None),
            None => keyspace.put_with(&key, &value, durability).map(|()| None),
        };
        let by_default = self.session.process.syncs_by_default();
        match durability {
            Durable::Sync => self.submit("put", ops, true, Box::new(|| put(Durability::Sync))),
            Durable::Async => self.submit("put", ops, false, Box::new(|| put(Durability::Async))),
            Durable::Default => {
                let ask = || match &db {
                    Some(db) => db.put(&key, &value).map(|()| None),
                    None => keyspace.put(&key, &value).map(|()| None),
                };
                self.submit("put", ops, by_default, Box::new(ask))
            }
        }
    }

    fn put_reader(
        &mut self,
        place: Place,
        key: u64,
        value: &Value,
        durability: Durable,
        pieces: Pieces,
    ) -> Result<(), Over> {
        let (keyspace, space) = self.space(place).clone();
        let (key, value) = (key_bytes(key), self.value(value));
        let fails = pieces.fails.is_some_and(|fails| fails < value.len() as u64);
        let ops = vec![Op::Put(space, key.clone(), value.clone())];
        let (with, sync) = match durability {
            Durable::Default => (Durability::Default, self.session.process.syncs_by_default()),
            Durable::Sync => (Durability::Sync, true),
            Durable::Async => (Durability::Async, false),
        };
        let db = (place == Place::Default).then(|| self.session.db.clone());
        let ask = move || {
            let reader = pieces.of(value);
            let done = match (&db, durability) {
                (Some(db), Durable::Default) => db.put_reader(&key, reader),
                (Some(db), _) => db.put_reader_with(&key, reader, with),
                (None, Durable::Default) => keyspace.put_reader(&key, reader),
                (None, _) => keyspace.put_reader_with(&key, reader, with),
            };
            done.map(|()| None)
        };
        if !fails {
            return self.submit("put reader", ops, sync, Box::new(ask));
        }
        // Nothing of it may ever be seen, so the model is not told.
        let process = &self.session.process;
        match ask() {
            Err(Error::Reader { .. }) => {
                process.world().count("puts whose reader failed");
                Ok(())
            }
            Err(error) => {
                process.check_error("I-9", "a put whose reader fails", &error)?;
                match error {
                    Error::Poisoned { .. } | Error::Closed => Err(Over),
                    _ => Ok(()),
                }
            }
            Ok(_) => {
                let message = "a put was acknowledged whose reader failed".into();
                process.world().violate("put_reader", message);
                Err(Over)
            }
        }
    }

    fn delete(&mut self, place: Place, key: u64) -> Result<(), Over> {
        let (keyspace, space) = self.space(place).clone();
        let key = key_bytes(key);
        let ops = vec![Op::Delete(space, key.clone())];
        self.submit_by_default(
            "delete",
            ops,
            Box::new(move || keyspace.delete(&key).map(|()| None)),
        )
    }

    pub(super) fn delete_range(&mut self, place: Place, range: Range) -> Result<(), Over> {
        let (keyspace, space) = self.space(place).clone();
        let ops = vec![Op::DeleteRange(space, range.bounds())];
        let ask = move || keyspace.delete_range(range.bounds()).map(|()| None);
        self.submit_by_default("delete range", ops, Box::new(ask))
    }

    fn put_batch(&mut self, place: Place, entries: &[(u64, Value)]) -> Result<(), Over> {
        let (keyspace, space) = self.space(place).clone();
        let entries: Vec<(Vec<u8>, Vec<u8>)> =
            entries.iter().map(|(key, value)| (key_bytes(*key), self.value(value))).collect();
        let ops = entries.iter().map(|(k, v)| Op::Put(space, k.clone(), v.clone())).collect();
        let ask = move || keyspace.put_batch(&entries).map(|()| None);
        self.submit_by_default("put batch", ops, Box::new(ask))
    }

    fn delete_batch(&mut self, place: Place, keys: &[u64]) -> Result<(), Over> {
        let (keyspace, space) = self.space(place).clone();
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key_bytes(*key)).collect();
        let ops = keys.iter().map(|key| Op::Delete(space, key.clone())).collect();
        let ask = move || keyspace.delete_batch(&keys).map(|()| None);
        self.submit_by_default("delete batch", ops, Box::new(ask))
    }

    fn submit_by_default(&self, verb: &str, ops: Vec<Op>, ask: Ask) -> Result<(), Over> {
        self.submit(verb, ops, self.session.process.syncs_by_default(), ask)
    }

    /// Commits, and tells the model what the answer was.
    fn submit(&self, verb: &str, ops: Vec<Op>, sync: bool, ask: Ask) -> Result<(), Over> {
        let process = &self.session.process;
        let world = process.world();
        let operations = ops.len();
        let closed = process.closing().done;
        if operations == 0 {
            // Commits nothing, and so needs no answer of the model.
            return match ask() {
                Ok(_) => process.check_was_open(closed, verb),
                Err(error) => process.check_error("I-9", verb, &error),
            };
        }
        let id = process.model.lock().submit(ops, sync);
        world.take_told();
        let answer = ask();
        let told = world.take_told();
        let seq = answer.as_ref().ok().map(|seq| seq.or(told).unwrap_or(0));
        world.record("commit", &[id as u64, seq.unwrap_or(0)], || {
            let what = format!("{id} by {verb}, {operations} operations, sync {sync}");
            match &answer {
                Ok(_) => format!("{what} -> SeqNo {}", seq.unwrap_or(0)),
                Err(error) => format!("{what} -> {error}"),
            }
        });
        match answer {
            Ok(_) => {
                process.check_was_open(closed, verb)?;
                let now = world.now();
                let result = process.model.lock().acknowledge(id, seq.unwrap_or(0), now);
                process.check(result)
            }
            Err(error) => self.not_committed(id, &error),
        }
    }

    pub(super) fn not_committed(&self, id: CommitId, error: &Error) -> Result<(), Over> {
        let process = &self.session.process;
        let mut dice = process.boot.env.world().dice("not committed");
        process.check_error("I-9", "a commit", error)?;
        if matches!(error, Error::Closed) {
            process.model.lock().refuse(id);
            process.world().count("commits refused by a close");
            return Err(Over);
        }
        if !matches!(error, Error::Poisoned { .. }) {
            // It failed whole, before it got a SeqNo. There may be space later.
            process.model.lock().refuse(id);
            process.world().count("commits refused");
            let pause = Duration::from_micros(dice.skewed(100..500_000));
            process.boot.env.clock().sleep(pause);
            return Ok(());
        }
        process.model.lock().poison(id);
        process.world().count("commits poisoned");
        // Reads go on. Some clients insist on writing.
        if dice.chance(0.3) {
            self.read(Place::Default, &Read::ForEach(EVERYTHING))
        } else {
            Err(Over)
        }
    }

    fn read(&self, place: Place, read: &Read) -> Result<(), Over> {
        self.seen(place, read).map(|_| ())
    }

    /// What a read of the database as it is says; nothing if damage keeps it from saying anything.
    pub(super) fn seen(&self, place: Place, read: &Read) -> Result<Option<Seen>, Over> {
        let process = &self.session.process;
        let (keyspace, space) = self.space(place);
        let began = process.model.lock().begin_read();
        let on: &dyn Readable = match place {
            Place::Default => &*self.session.db,
            _ => keyspace,
        };
        let Some(seen) = process.perform("a read", read, on)? else {
            return Ok(None);
        };
        let result = process.model.lock().read_now(*space, &seen, &began);
        process.check(result)?;
        Ok(Some(seen))
    }

    /// Takes a snapshot, checks all that it shows, and keeps it.
    fn snapshot(&mut self) -> Result<(), Over> {
        let session = &self.session;
        let process = &session.process;
        let began = process.model.lock().begin_read();
        let snapshot = process.checked_read("a snapshot", session.db.snapshot())?;
        let spaces = self.spaces();
        let Some(contents) = session.read_spaces(&snapshot, &spaces)? else {
            return Ok(());
        };
        let seq = snapshot.seq().0;
        let result = process.model.lock().read_at(seq, &began, &contents);
        process.check(result)?;
        process.world().count("snapshots checked");
        if self.held.len() == HELD {
            let oldest = process.dice("snapshot let go").below(HELD as u64);
            self.held.remove(oldest as usize);
        }
        self.held.push(Held { snapshot, spaces, contents });
        Ok(())
    }

    /// Reads a held snapshot again: it shows what it showed before.
    fn reread(&self, held: u64, place: Place, read: &Read) -> Result<(), Over> {
        if self.held.is_empty() {
            return self.read(place, read);
        }
        let held = &self.held[held as usize % self.held.len()];
        let process = &self.session.process;
        let found = held.spaces.iter().find(|(p, _)| *p == place).unwrap_or(&held.spaces[0]);
        let (_, (keyspace, id)) = found;
        let (before, snapshot) = (&held.contents[id], held.snapshot.of(keyspace));
        process.world().count("snapshots read again");
        let Some(seen) = process.perform("a read of a snapshot", read, &snapshot)? else {
            return Ok(());
        };
        let differs = seen.differs(before).map(|key| {
            let (is, was) = (seen_of(&seen, &key), before.get(&key));
            let only = |value: Option<&Vec<u8>>| value.map(|v| (key.clone(), v.clone()));
            difference(*id, &only(was).into_iter().collect(), &is.into_iter().collect())
                .unwrap_or_else(|| format!("{read:?} tells otherwise of key {key:?}"))
        });
        let message = seen.disorder.clone().or(differs.map(|d| format!("a snapshot changed: {d}")));
        let Some(message) = message else { return Ok(()) };
        process.world().violate("I-12", message);
        Err(Over)
    }

    /// Drops this client's own keyspace, or creates it.
    fn keyspace(&mut self) -> Result<(), Over> {
        let (session, name) = (&self.session, self.own_name());
        let result = match self.own.take() {
            None => session.create_keyspace(&name).map(|space| self.own = Some(space)),
            Some((keyspace, id)) => session.drop_keyspace(&name, id).inspect(|()| {
                let answer = keyspace.get("key");
                let right = match answer {
                    Err(Error::KeyspaceNotFound { .. }) => true,
                    Err(Error::Closed) => session.process.closing().begun,
                    _ => false,
                };
                if !right {
                    let message = "a dropped keyspace answers a get".into();
                    session.process.world().violate("keyspace", message);
                }
            }),
        };
        session.process.world().record("keyspace", &[u64::from(result.is_ok())], || {
            format!("{name}: now {:?}, {result:?}", self.own.as_ref().map(|own| own.1))
        });
        match result {
            Ok(()) => Ok(()),
            Err(error) => {
                session.process.check_error("I-9", "a change of keyspaces", &error)?;
                if matches!(error, Error::NoSpace { .. }) {
                    session.process.check_needs_no_space("a change of keyspaces", &error)?;
                }
                // Whether it was done is known only after reopening.
                Err(Over)
            }
        }
    }

    /// Changes how what is written to a keyspace comes into its tree.
    fn set_storage_kind(&self, space: Place, btree: bool) -> Result<(), Over> {
        let process = &self.session.process;
        let (keyspace, id) = self.space(space);
        let created = process.workload.settings.btree;
        let request = process.model.lock().kinds.asked(*id, created, btree);
        let result = keyspace.set_storage_kind(storage_kind(btree));
        process.world().record("kind", &[u64::from(btree)], || format!("{keyspace:?}: {result:?}"));
        process.model.lock().kinds.answered(*id, request, result.is_ok().then_some(btree));
        match result {
            Ok(()) => Ok(()),
            Err(error) => {
                process.check_error("I-9", "a change of a kind", &error)?;
                if matches!(error, Error::NoSpace { .. }) {
                    process.check_needs_no_space("a change of a kind", &error)?;
                }
                Err(Over)
            }
        }
    }

    /// A call after which all is durable that was acknowledged before.
    pub(super) fn make_durable(
        &self,
        what: &'static str,
        call: impl Fn(&Database) -> lightning_db::Result<()>,
    ) -> Result<(), Over> {
        let process = &self.session.process;
        let (seq, closed) = (process.model.lock().acknowledged_seq(), process.closing().done);
        match call(&self.session.db) {
            Ok(()) => {
                process.check_was_open(closed, what)?;
                process.model.lock().durable(seq);
                Ok(())
            }
            Err(error) => process.check_error("I-9", what, &error),
        }
    }

    /// Closes the database under the other clients: what was acknowledged before is durable, and what is
    /// asked for later is refused.
    fn close(&self) -> Result<(), Over> {
        let process = &self.session.process;
        let seq = process.model.lock().acknowledged_seq();
        process.closing().begun = true;
        let result = self.session.db.close();
        process.world().record("close", &[u64::from(result.is_ok())], || format!("{result:?}"));
        match result {
            Ok(()) => {
                process.model.lock().durable(seq);
                process.closing().done = true;
                Ok(())
            }
            Err(error) => {
                process.closing().failed = true;
                process.check_error("I-9", "closing", &error)
            }
        }
    }
}

/// All keys.
pub(super) const EVERYTHING: Range =
    Range { start: super::operation::Edge::Unbounded, end: super::operation::Edge::Unbounded };

/// What a read said of the value of a key.
fn seen_of(seen: &Seen, key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let point = seen.points.iter().find(|(k, _)| k == key).and_then(|(_, got)| got.value());
    let value = point.or_else(|| seen.entries.get(key));
    value.map(|value| (key.to_vec(), value.clone()))
}

fn is_read(operation: &Operation) -> bool {
    matches!(operation, Operation::Read { .. } | Operation::Reread { .. } | Operation::Snapshot)
}

/// The verb that an operation calls, for the summary.
fn verb(operation: &Operation) -> &'static str {
    match operation {
        Operation::Commit { .. } => "verb commit",
        Operation::Put { durability: Durable::Default, .. } => "verb put",
        Operation::Put { .. } => "verb put_with",
        Operation::PutReader { durability: Durable::Default, .. } => "verb put_reader",
        Operation::PutReader { .. } => "verb put_reader_with",
        Operation::Delete { .. } => "verb delete",
        Operation::DeleteRange { .. } => "verb delete_range",
        Operation::PutBatch { .. } => "verb put_batch",
        Operation::DeleteBatch { .. } => "verb delete_batch",
        Operation::Snapshot => "verb snapshot",
        Operation::BulkLoad { .. } => "verb bulk_load",
        Operation::Transaction { runs: true, .. } => "verb run",
        Operation::Transaction { by_id: true, .. } => "verb transaction, perhaps by its number",
        Operation::CompareAndSwap { .. } => "verb compare_and_swap",
        Operation::FetchAndUpdate { .. } => "verb fetch_and_update",
        Operation::PopFirst { .. } => "verb pop_first",
        Operation::PopLast { .. } => "verb pop_last",
        Operation::Transaction { .. } => "verb transaction",
        Operation::Follow { .. } => "verb subscribe",
        Operation::Keyspace => "verb keyspace, drop_keyspace",
        Operation::Checkpoint => "verb checkpoint",
        Operation::Compact => "verb compact",
        Operation::StorageKind { .. } => "verb set_storage_kind",
        Operation::Close => "verb close, while others go on",
        Operation::Sleep { .. } => "sleeps",
        Operation::Read { read, .. } | Operation::Reread { read, .. } => match read {
            Read::Get(_) => "verb get",
            Read::GetRef(_) => "verb get_ref",
            Read::GetReader(..) => "verb get_reader",
            Read::ContainsKey(_) => "verb contains_key",
            Read::GetBatch(_) => "verb get_batch",
            Read::GetBatchWith(_) => "verb get_batch_with",
            Read::First => "verb first",
            Read::Last => "verb last",
            Read::Scan(..) => "verb scan",
            Read::ScanReverse(..) => "verb scan_reverse",
            Read::ScanPrefix(..) => "verb scan_prefix",
            Read::Range(..) => "verb range",
            Read::Iter(_) => "verb iter",
            Read::ForEach(_) => "verb for_each",
        },
    }
}
