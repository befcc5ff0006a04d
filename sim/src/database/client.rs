//! One client: a thread that writes and reads, and checks what it reads.

use super::{
    model::{CommitId, Contents, Op, SpaceId},
    session::{OpenSpace, Over, Session, collect},
};
use lightning_db::{Error, Keyspace, Snapshot, WriteBatch, env::Env};
use lightning_faults::Dice;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Snapshots that a client holds at once.
const HELD: usize = 3;

pub(super) struct Client {
    session: Arc<Session>,
    number: usize,
    /// A keyspace that this client alone writes, creates and drops.
    own: Option<OpenSpace>,
    held: Vec<Held>,
}

type Verb = fn(&mut Client, &mut Dice) -> Result<(), Over>;

/// A snapshot, the keyspaces that it was read in, and what they held.
struct Held {
    snapshot: Snapshot,
    spaces: Vec<OpenSpace>,
    contents: Contents,
}

impl Client {
    pub(super) fn new(session: Arc<Session>, number: usize) -> Client {
        Client { session, number, own: None, held: vec![] }
    }

    /// Does up to `ops` operations; ends early when there is no point in going on.
    pub(super) fn run(&mut self, ops: u64) {
        let exists = self.own_name();
        let known = self.session.process.model.lock().spaces.get(&exists).copied();
        if let Some(id) = known.and_then(|space| space.now)
            && let Ok(keyspace) = self.session.db.keyspace(&exists)
        {
            self.own = Some((keyspace, id));
        }
        for _ in 0..ops {
            if self.operation().is_err() {
                return;
            }
        }
    }

    fn own_name(&self) -> String {
        format!("own-{}", self.number)
    }

    /// The stream of this client's next operation.
    fn dice(&self) -> Dice {
        let process = &self.session.process;
        let mut model = process.model.lock();
        let count = model.client_ops.entry(self.number).or_insert(0);
        *count += 1;
        Dice::new(process.world().seed(), &format!("client {}", self.number), *count)
    }

    fn operation(&mut self) -> Result<(), Over> {
        let dice = &mut self.dice();
        let mix = &self.session.process.shape.mix;
        let kinds: [(u64, Verb); 7] = [
            (mix.write, Client::write),
            (mix.get, Client::get),
            (mix.snapshot, Client::snapshot),
            (mix.reread, Client::reread),
            (mix.keyspace, Client::keyspace),
            (mix.checkpoint, Client::checkpoint),
            (mix.sleep, Client::sleep),
        ];
        let mut at = dice.below(kinds.iter().map(|(weight, _)| weight).sum());
        for (weight, kind) in kinds {
            match at.checked_sub(weight) {
                None => return kind(self, dice),
                Some(rest) => at = rest,
            }
        }
        Ok(())
    }

    fn key(&self, dice: &mut Dice) -> Vec<u8> {
        let n = dice.below(self.session.process.shape.keys);
        match n {
            0 => vec![], // the empty key is a key
            1 => vec![0xff; 40],
            n if n % 17 == 0 => format!("{n:04}").repeat(40).into_bytes(),
            n => format!("k{n:04}").into_bytes(),
        }
    }

    fn value(&self, dice: &mut Dice) -> Vec<u8> {
        let len = dice.skewed(8..self.session.process.shape.value_bytes.max(9));
        let number = {
            let mut model = self.session.process.model.lock();
            model.values += 1;
            model.values
        };
        let mut value = number.to_le_bytes().to_vec();
        value.resize(len as usize, number as u8);
        if dice.chance(0.5) {
            dice.fill(&mut value[8..]); // does not compress
        }
        value
    }

    /// The keyspaces that this client writes.
    fn spaces(&self) -> Vec<OpenSpace> {
        self.session.shared.iter().chain(&self.own).cloned().collect()
    }

    fn write(&mut self, dice: &mut Dice) -> Result<(), Over> {
        let shape = &self.session.process.shape;
        let spaces = self.spaces();
        let (mut batch, mut ops) = (WriteBatch::new(), vec![]);
        for _ in 0..1 + dice.below(shape.batch) {
            let (keyspace, space) = &spaces[dice.below(spaces.len() as u64) as usize];
            ops.push(self.add(&mut batch, keyspace, *space, dice));
        }
        let (durability, sync) = shape.durability(dice);
        let process = &self.session.process;
        let operations = ops.len();
        let id = process.model.lock().submit(ops, sync);
        let result = self.session.db.commit(batch, durability);
        let last = result.as_ref().map_or(0, |seq| seq.0);
        process.world().record("commit", &[id as u64, last], || {
            let what = format!("{id}, {operations} operations, {durability:?}");
            match &result {
                Ok(seq) => format!("{what} -> SeqNo {seq}"),
                Err(error) => format!("{what} -> {error}"),
            }
        });
        match result {
            Ok(seq) => {
                let result = process.model.lock().acknowledge(id, seq.0);
                process.check(result)
            }
            Err(error) => self.not_committed(id, &error, dice),
        }
    }

    fn add(
        &self,
        batch: &mut WriteBatch,
        keyspace: &Keyspace,
        space: SpaceId,
        dice: &mut Dice,
    ) -> Op {
        let shape = &self.session.process.shape;
        if dice.chance(shape.range_deletes) {
            let (mut start, mut end) = (self.key(dice), self.key(dice));
            if start > end {
                std::mem::swap(&mut start, &mut end);
            }
            if start < end {
                batch.delete_range_in(keyspace, start.clone()..end.clone());
                return Op::DeleteRange(space, start, end);
            }
        }
        let key = self.key(dice);
        if dice.chance(shape.deletes) {
            batch.delete_in(keyspace, &key);
            return Op::Delete(space, key);
        }
        let value = self.value(dice);
        batch.put_in(keyspace, &key, &value);
        Op::Put(space, key, value)
    }

    fn not_committed(&mut self, id: CommitId, error: &Error, dice: &mut Dice) -> Result<(), Over> {
        let process = &self.session.process;
        process.check_error("I-9", "a commit", error)?;
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
        if dice.chance(0.3) { self.snapshot(dice) } else { Err(Over) }
    }

    fn get(&mut self, dice: &mut Dice) -> Result<(), Over> {
        let process = &self.session.process;
        let spaces = self.spaces();
        let (keyspace, space) = &spaces[dice.below(spaces.len() as u64) as usize];
        let key = self.key(dice);
        let began = process.model.lock().begin_read();
        let got = process.checked_read("a get", keyspace.get(&key))?;
        let result = process.model.lock().read_key(*space, &key, got.as_deref(), &began);
        process.check(result)
    }

    /// Takes a snapshot, checks all that it shows, and perhaps keeps it.
    fn snapshot(&mut self, dice: &mut Dice) -> Result<(), Over> {
        let session = &self.session;
        let process = &session.process;
        let began = process.model.lock().begin_read();
        let snapshot = process.checked_read("a snapshot", session.db.snapshot())?;
        let spaces = self.spaces();
        let mut contents = Contents::new();
        for (keyspace, id) in &spaces {
            contents.insert(*id, session.read_space(&snapshot.of(keyspace))?);
        }
        let seq = snapshot.seq().0;
        let result = process.model.lock().read_at(seq, began.acknowledged_seq, &contents);
        process.check(result)?;
        process.world().count("snapshots checked");
        if self.held.len() == HELD {
            self.held.remove(dice.below(HELD as u64) as usize);
        }
        self.held.push(Held { snapshot, spaces, contents });
        Ok(())
    }

    /// Reads a held snapshot again: it shows what it showed before.
    fn reread(&mut self, dice: &mut Dice) -> Result<(), Over> {
        if self.held.is_empty() {
            return self.get(dice);
        }
        let held = &self.held[dice.below(self.held.len() as u64) as usize];
        let process = &self.session.process;
        let (keyspace, id) = &held.spaces[dice.below(held.spaces.len() as u64) as usize];
        let (before, snapshot) = (&held.contents[id], held.snapshot.of(keyspace));
        process.world().count("snapshots read again");
        match dice.below(4) {
            0 => self.session.check_same(*id, before, &self.session.read_space(&snapshot)?),
            1 => {
                let key = self.key(dice);
                let got = process.checked_read("a get", snapshot.get(&key))?;
                let one = |value: Option<&Vec<u8>>| {
                    value.map(|v| (key.clone(), v.clone())).into_iter().collect::<BTreeMap<_, _>>()
                };
                self.session.check_same(*id, &one(before.get(&key)), &one(got.as_ref()))
            }
            way => {
                let (mut start, mut end) = (self.key(dice), self.key(dice));
                if start > end {
                    std::mem::swap(&mut start, &mut end);
                }
                let scan = match way {
                    2 => snapshot.scan(Some(&start), Some(&end)),
                    _ => snapshot.scan_reverse(Some(&start), Some(&end)),
                };
                let got = process.checked_read("a scan", scan.and_then(collect))?;
                let expected = before.range(start..end);
                let expected = expected.map(|(k, v)| (k.clone(), v.clone())).collect();
                self.session.check_same(*id, &expected, &got)
            }
        }
    }

    /// Drops this client's own keyspace, or creates it.
    fn keyspace(&mut self, _dice: &mut Dice) -> Result<(), Over> {
        let (session, name) = (&self.session, self.own_name());
        let result = match self.own.take() {
            None => session.create_keyspace(&name).map(|space| self.own = Some(space)),
            Some((keyspace, id)) => session.drop_keyspace(&name, id).inspect(|()| {
                if !matches!(keyspace.get("key"), Err(Error::KeyspaceNotFound { .. })) {
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
                // Whether it was done is known only after reopening.
                Err(Over)
            }
        }
    }

    fn checkpoint(&mut self, _dice: &mut Dice) -> Result<(), Over> {
        let process = &self.session.process;
        let seq = process.model.lock().acknowledged_seq();
        match self.session.db.checkpoint() {
            Ok(()) => {
                process.model.lock().durable(seq);
                Ok(())
            }
            Err(error) => process.check_error("I-9", "a checkpoint", &error),
        }
    }

    fn sleep(&mut self, dice: &mut Dice) -> Result<(), Over> {
        let pause = Duration::from_nanos(dice.skewed(1_000..100_000_000));
        self.session.process.boot.env.clock().sleep(pause);
        Ok(())
    }
}
