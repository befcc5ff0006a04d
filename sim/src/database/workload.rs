//! Where a run's sessions and operations come from.

use super::{
    operation::{
        Durable, Edge, Ends, Expects, Key, Level, Operation, Place, Range, Read, Step, Value, Walk,
        Write,
    },
    shape::{Settings, Shape},
};
use crate::{schedule::Schedule, simulation::Boot};
use lightning_faults::Dice;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Keys that transactions of all clients meet at.
const HOT_KEYS: u64 = 4;

/// What one client does in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientScript {
    /// Which client.
    pub client: u64,
    /// What it does, one after another.
    pub operations: Vec<Operation>,
}

/// One opening of the database, until it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Opened by `create` or `open`, where one of them must work; else by `open_or_create`.
    pub strict: bool,
    /// Clients begin, and the database is closed, when the background has nothing to do.
    pub settle: bool,
    /// Ended by `close`, not by dropping the last handle.
    pub close: bool,
    /// Everything is deleted before that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empties: bool,
}

/// A session and its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionScript {
    /// How it begins and ends.
    pub session: Session,
    /// What happens in it.
    pub clients: Vec<ClientScript>,
}

/// What the processes of a run do.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) settings: Settings,
    source: Source,
    /// What was done, boot by boot, if it is to be written down.
    recorded: Option<Mutex<Vec<Vec<SessionScript>>>>,
}

#[derive(Debug)]
enum Source {
    /// Drawn when it is asked for: most of it a crash cuts off.
    Drawn(Box<Shape>),
    Listed(Vec<Vec<SessionScript>>),
}

/// Says which operation: boot, session, client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) session: u64,
    pub(super) client: u64,
    pub(super) number: u64,
}

impl Workload {
    pub(super) fn draw(seed: u64) -> Workload {
        let shape = Shape::draw(seed);
        let settings = shape.settings.clone();
        Workload { settings, source: Source::Drawn(Box::new(shape)), recorded: None }
    }

    /// What a schedule says.
    pub(super) fn listed(schedule: &Schedule) -> Workload {
        let boots = schedule.boots.iter().map(|boot| boot.sessions.clone()).collect();
        let settings = schedule.settings.clone();
        Workload { settings, source: Source::Listed(boots), recorded: None }
    }

    /// The same, written down while it is done.
    pub(super) fn recorded(self) -> Workload {
        Workload { recorded: Some(Mutex::default()), ..self }
    }

    pub(super) fn take_recorded(&self) -> Vec<Vec<SessionScript>> {
        self.recorded
            .as_ref()
            .map(|recorded| std::mem::take(&mut *recorded.lock()))
            .unwrap_or_default()
    }

    /// The next session of a boot, and the numbers of its clients.
    pub(super) fn session(&self, boot: &Boot, number: u64) -> Option<(Session, Vec<u64>)> {
        let next = match &self.source {
            Source::Drawn(shape) => draw_session(shape, boot, number),
            Source::Listed(boots) => boots.get(boot.number).and_then(|sessions| {
                let script = sessions.get(number as usize)?;
                let clients = script.clients.iter().map(|client| client.client).collect();
                Some((script.session, clients))
            }),
        };
        if let (Some((session, clients)), Some(recorded)) = (&next, &self.recorded) {
            let recorded = &mut *recorded.lock();
            recorded.resize(recorded.len().max(boot.number + 1), vec![]);
            let clients = clients.iter();
            let clients =
                clients.map(|client| ClientScript { client: *client, operations: vec![] });
            let script = SessionScript { session: *session, clients: clients.collect() };
            recorded[boot.number].push(script);
        }
        next
    }

    /// A client's next operation.
    pub(super) fn operation(&self, boot: &Boot, turn: Turn) -> Option<Operation> {
        let next = match &self.source {
            Source::Drawn(shape) => draw_operation(shape, boot, turn),
            Source::Listed(boots) => boots.get(boot.number).and_then(|sessions| {
                let clients = &sessions.get(turn.session as usize)?.clients;
                let client = clients.iter().find(|client| client.client == turn.client)?;
                client.operations.get(turn.number as usize).cloned()
            }),
        };
        if let (Some(operation), Some(recorded)) = (&next, &self.recorded) {
            let recorded = &mut *recorded.lock();
            let clients = &mut recorded[boot.number][turn.session as usize].clients;
            if let Some(client) = clients.iter_mut().find(|client| client.client == turn.client) {
                client.operations.push(operation.clone());
            }
        }
        next
    }
}

fn draw_session(shape: &Shape, boot: &Boot, number: u64) -> Option<(Session, Vec<u64>)> {
    let dice = &mut boot.dice("session", number);
    // Once nothing fails any more, what was closed must be there again.
    let sessions = if boot.last { 2 } else { 1 + boot.dice("sessions", 0).below(3) };
    let session = Session {
        strict: dice.chance(0.33),
        settle: dice.chance(if boot.last { 1.0 } else { shape.settles }),
        close: boot.last || dice.chance(0.75),
        empties: dice.chance(shape.empties),
    };
    (number < sessions).then(|| (session, (0..shape.clients).collect()))
}

fn draw_operation(shape: &Shape, boot: &Boot, turn: Turn) -> Option<Operation> {
    let operations = boot.dice("operations", turn.session).below(shape.ops + 1);
    let site = format!("session {} client {}", turn.session, turn.client);
    let mut drawing = Drawing { shape, dice: boot.dice(&site, turn.number) };
    (turn.number < operations).then(|| drawing.operation())
}

/// Draws one operation.
struct Drawing<'a> {
    shape: &'a Shape,
    dice: Dice,
}

impl<'a> Drawing<'a> {
    fn operation(&mut self) -> Operation {
        type Kind<'k> = fn(&mut Drawing<'k>) -> Operation;
        let mix = &self.shape.mix;
        let kinds: [(u64, Kind<'a>); 17] = [
            (mix.commit, Drawing::commit),
            (mix.single, Drawing::single),
            (mix.read, |d| Operation::Read { space: d.space(), read: d.read() }),
            (mix.snapshot, |_| Operation::Snapshot),
            (mix.reread, |d| {
                let held = d.dice.below(8);
                Operation::Reread { held, space: d.space(), read: d.read() }
            }),
            (mix.keyspace, |_| Operation::Keyspace),
            (mix.checkpoint, |_| Operation::Checkpoint),
            (mix.compact, |_| Operation::Compact),
            (mix.sleep, Drawing::sleep),
            (mix.close, |_| Operation::Close),
            (mix.storage, |d| Operation::StorageKind {
                space: d.space(),
                btree: d.dice.chance(0.6),
            }),
            (mix.load, Drawing::load),
            (mix.transaction, Drawing::transaction),
            (mix.follow, Drawing::follow),
            (mix.atomic, Drawing::atomic),
            (mix.reader, Drawing::reader),
            (mix.by_id, Drawing::by_id),
        ];
        let mut at = self.dice.below(kinds.iter().map(|(weight, _)| weight).sum());
        for (weight, kind) in kinds {
            match at.checked_sub(weight) {
                None => return kind(self),
                Some(rest) => at = rest,
            }
        }
        Operation::Checkpoint // only if all weights are 0
    }

    fn transaction(&mut self) -> Operation {
        let level = self.dice.pick(&[
            Level::ReadCommitted,
            Level::Snapshot,
            Level::Serializable,
            Level::Serializable,
        ]);
        let steps = match self.dice.chance(0.6) {
            true => self.trap(),
            false => (0..1 + self.dice.below(8)).map(|_| self.step()).collect(),
        };
        let only_reads = steps.iter().all(|step| {
            matches!(
                step,
                Step::Read { .. } | Step::Sleep { .. } | Step::Savepoint | Step::RollBack(_)
            )
        });
        Operation::Transaction {
            level,
            pessimistic: self.dice.chance(0.3),
            steps,
            durability: self.durability(),
            abort: self.dice.chance(0.1),
            runs: self.dice.chance(0.4),
            read_only: only_reads && self.dice.chance(0.5),
            timeout_nanos: self.timeout(),
            by_id: self.dice.chance(0.3),
        }
    }

    /// Some transactions have little time.
    fn timeout(&mut self) -> Option<u64> {
        self.dice.chance(0.05).then(|| self.dice.skewed(1_000..20_000_000))
    }

    /// A transaction that only reads, while others write for a long time.
    fn reader(&mut self) -> Operation {
        let level = self.dice.pick(&[Level::ReadCommitted, Level::Snapshot, Level::Serializable]);
        let mut steps = vec![];
        for _ in 0..2 + self.dice.below(8) {
            let space = if self.dice.chance(0.5) { self.meeting_place() } else { self.space() };
            let read = match self.dice.chance(0.5) {
                true => Read::Get(self.hot_key()),
                false => self.read(),
            };
            steps.push(Step::Read { space, read });
            if self.dice.chance(0.6) {
                steps.push(Step::Sleep { nanos: self.dice.skewed(1_000..100_000_000) });
            }
        }
        if self.dice.chance(0.1) {
            // It is refused.
            let at = self.dice.below(steps.len() as u64) as usize;
            let (space, key) = (self.space(), self.key());
            steps.insert(at, Step::Put { space, key, value: self.value() });
        }
        Operation::Transaction {
            level,
            pessimistic: self.dice.chance(0.1),
            steps,
            durability: Durable::Default,
            abort: self.dice.chance(0.1),
            runs: self.dice.chance(0.3),
            read_only: true,
            timeout_nanos: self.timeout(),
            by_id: self.dice.chance(0.2),
        }
    }

    /// A transaction that the verbs by number can do.
    fn by_id(&mut self) -> Operation {
        let space = Place::Default;
        let read_only = self.dice.chance(0.2);
        let mut steps = vec![];
        for _ in 0..1 + self.dice.below(6) {
            let key = if self.dice.chance(0.6) { self.hot_key() } else { self.key() };
            steps.push(match self.dice.below(8) {
                0..=2 => Step::Read { space, read: Read::Get(key) },
                3 => Step::Read { space, read: Read::Range(self.range(), self.walk()) },
                4 => Step::Sleep { nanos: self.dice.skewed(1_000..10_000_000) },
                _ if read_only => Step::Read { space, read: Read::Get(key) },
                5 => Step::Delete { space, key },
                _ => Step::Put { space, key, value: self.value() },
            });
        }
        Operation::Transaction {
            level: self.dice.pick(&[Level::ReadCommitted, Level::Snapshot, Level::Snapshot]),
            pessimistic: false,
            steps,
            durability: Durable::Default,
            abort: self.dice.chance(0.1),
            runs: false,
            read_only,
            timeout_nanos: None,
            by_id: true,
        }
    }

    /// A change of one key that depends on what is there, mostly where others meet.
    fn atomic(&mut self) -> Operation {
        let (space, key) = match self.dice.chance(0.7) {
            true => (self.meeting_place(), self.hot_key()),
            false => (self.space(), self.key()),
        };
        let value = (!self.dice.chance(0.2)).then(|| self.value());
        let nanos = if self.dice.chance(0.3) { self.dice.skewed(1_000..1_000_000) } else { 0 };
        match self.dice.below(8) {
            0..=2 => {
                let expects = match self.dice.below(8) {
                    0 => Expects::Nothing,
                    1 => Expects::Other,
                    _ => Expects::Found,
                };
                Operation::CompareAndSwap { space, key, expects, value, nanos }
            }
            3..=5 => Operation::FetchAndUpdate { space, key, value, nanos },
            6 => Operation::PopFirst { space },
            _ => Operation::PopLast { space },
        }
    }

    fn hot_key(&mut self) -> Key {
        self.dice.below(self.shape.keys.clamp(1, HOT_KEYS))
    }

    fn follow(&mut self) -> Operation {
        Operation::Follow {
            space: self.space(),
            again: self.dice.chance(0.2),
            commits: self.dice.skewed(1..64),
            nanos: if self.dice.chance(0.6) { self.dice.skewed(1_000..20_000_000) } else { 0 },
        }
    }

    fn meeting_place(&self) -> Place {
        match self.shape.settings.shared_keyspaces {
            0 => Place::Default,
            _ => Place::Shared1,
        }
    }

    /// What shows whether transactions are kept apart, among keys that all clients use.
    fn trap(&mut self) -> Vec<Step> {
        let space = self.meeting_place();
        let keys = self.shape.keys.clamp(1, HOT_KEYS);
        let (one, other) = (self.dice.below(keys), self.dice.below(keys));
        let get = |key| Step::Read { space, read: Read::Get(key) };
        let kind = self.dice.below(6);
        let mut put = |key| Step::Put { space, key, value: self.value() };
        let mut steps = match kind {
            // A counter.
            0 => vec![get(one), put(one)],
            // Each writes what the other reads.
            1 => vec![get(one), get(other), put(one)],
            // A transfer.
            2 => vec![get(one), get(other), put(one), put(other)],
            // A key among those that another looks for.
            3 => {
                let range = Range { start: Edge::Unbounded, end: Edge::Included(one) };
                vec![Step::Read { space, read: Read::ForEach(range) }, put(other)]
            }
            // A list that grows.
            4 => {
                let range = Range { start: Edge::Included(one), end: Edge::Unbounded };
                vec![get(other), Step::Read { space, read: Read::ForEach(range) }, put(other)]
            }
            // A reader.
            _ => vec![get(one), get(other), get(one), get(other)],
        };
        // Time for others to come between.
        for _ in 0..self.dice.below(3) {
            let at = 1 + self.dice.below(steps.len() as u64 - 1);
            let nanos = self.dice.skewed(1_000..1_000_000);
            steps.insert(at as usize, Step::Sleep { nanos });
        }
        steps
    }

    fn step(&mut self) -> Step {
        let space = self.space();
        match self.dice.below(16) {
            0..=4 => Step::Read { space, read: self.read() },
            5..=6 => Step::ForUpdate { space, key: self.key() },
            7 => Step::Savepoint,
            8 => Step::RollBack(self.dice.below(3)),
            9 => {
                let longest = if self.dice.chance(0.02) { 60_000_000_000 } else { 10_000_000 };
                Step::Sleep { nanos: self.dice.skewed(1_000..longest) }
            }
            _ => match self.write() {
                Write::Put { space, key, value } => Step::Put { space, key, value },
                Write::Delete { space, key } => Step::Delete { space, key },
                Write::DeleteRange { space, range } => Step::DeleteRange { space, range },
            },
        }
    }

    fn load(&mut self) -> Operation {
        let entries = (0..self.dice.below(self.shape.keys)).map(|_| (self.key(), self.value()));
        let entries: Vec<_> = entries.collect();
        Operation::BulkLoad {
            space: match self.dice.chance(0.5) {
                true if self.shape.loads_meet => self.meeting_place(),
                true => Place::Own,
                false => self.space(),
            },
            empties: self.dice.chance(0.8),
            nanos: if self.dice.chance(0.5) { self.dice.skewed(1_000..1_000_000) } else { 0 },
            fails: self.dice.chance(0.1).then(|| self.dice.below(entries.len() as u64 + 1)),
            entries,
        }
    }

    fn sleep(&mut self) -> Operation {
        // Some so long that the database takes itself for idle.
        let longest = if self.dice.chance(0.03) { 60_000_000_000 } else { 100_000_000 };
        Operation::Sleep { nanos: self.dice.skewed(1_000..longest) }
    }

    fn space(&mut self) -> Place {
        let all = [Place::Default, Place::Own, Place::Shared1, Place::Shared2];
        self.dice.pick(&all[..2 + self.shape.settings.shared_keyspaces.min(2)])
    }

    fn key(&mut self) -> Key {
        self.dice.below(self.shape.keys)
    }

    fn keys(&mut self) -> Vec<Key> {
        (0..self.dice.below(self.shape.batch + 1)).map(|_| self.key()).collect()
    }

    fn value(&mut self) -> Value {
        let bytes = self.dice.skewed(8..self.shape.value_bytes.max(9));
        Value { bytes, random: self.dice.chance(0.5) }
    }

    fn range(&mut self) -> Range {
        Range { start: self.edge(), end: self.edge() }
    }

    fn edge(&mut self) -> Edge {
        match self.dice.below(8) {
            0 => Edge::Unbounded,
            1..=4 => Edge::Included(self.key()),
            _ => Edge::Excluded(self.key()),
        }
    }

    fn durability(&mut self) -> Durable {
        match self.dice.chance(self.shape.own_durability) {
            false => Durable::Default,
            true => self.dice.pick(&[Durable::Sync, Durable::Async]),
        }
    }

    fn commit(&mut self) -> Operation {
        let writes = (0..1 + self.dice.below(self.shape.batch)).map(|_| self.write()).collect();
        Operation::Commit { writes, durability: self.durability() }
    }

    fn write(&mut self) -> Write {
        let space = self.space();
        if self.dice.chance(self.shape.range_deletes) {
            return Write::DeleteRange { space, range: self.range() };
        }
        let key = self.key();
        match self.dice.chance(self.shape.deletes) {
            true => Write::Delete { space, key },
            false => Write::Put { space, key, value: self.value() },
        }
    }

    fn single(&mut self) -> Operation {
        let durability = self.durability();
        if self.dice.chance(0.3) {
            let space = self.space();
            return match self.dice.chance(self.shape.deletes) {
                true => Operation::DeleteBatch { space, keys: self.keys() },
                false => {
                    let keys = self.keys();
                    let entries = keys.into_iter().map(|key| (key, self.value())).collect();
                    Operation::PutBatch { space, entries }
                }
            };
        }
        match self.write() {
            Write::Put { space, key, value }
                if self.shape.settings.blob_bytes.is_some() && self.dice.chance(0.4) =>
            {
                let piece = self.dice.skewed(1..4096);
                let fails = self.dice.chance(0.2).then(|| self.dice.below(value.bytes));
                Operation::PutReader { space, key, value, durability, piece, fails }
            }
            Write::Put { space, key, value } => Operation::Put { space, key, value, durability },
            Write::Delete { space, key } => Operation::Delete { space, key },
            Write::DeleteRange { space, range } => Operation::DeleteRange { space, range },
        }
    }

    fn read(&mut self) -> Read {
        if self.shape.settings.blob_bytes.is_some() && self.dice.chance(0.3) {
            return Read::GetReader(self.key(), self.dice.skewed(1..4096));
        }
        if !self.dice.chance(self.shape.scans) {
            return match self.dice.below(10) {
                0..=3 => Read::Get(self.key()),
                4..=5 => Read::GetRef(self.key()),
                6 => Read::ContainsKey(self.key()),
                7..=8 => Read::GetBatch(self.keys()),
                _ => Read::GetBatchWith(self.keys()),
            };
        }
        let edge = |d: &mut Self| d.dice.chance(0.8).then(|| d.key());
        match self.dice.below(10) {
            0 => Read::First,
            1 => Read::Last,
            2 => Read::Scan(edge(self), edge(self), self.walk()),
            3 => Read::ScanReverse(edge(self), edge(self), self.walk()),
            4 => Read::ScanPrefix(self.key(), self.dice.below(6), self.walk()),
            5..=7 => Read::Range(self.range(), self.walk()),
            8 => Read::Iter(self.walk()),
            _ => Read::ForEach(self.range()),
        }
    }

    fn walk(&mut self) -> Walk {
        let ends = match self.dice.below(4) {
            0 => Ends::Front,
            1 => Ends::Back,
            _ => Ends::Both(self.dice.u64()),
        };
        let entries = if self.dice.chance(0.5) { u64::MAX } else { self.dice.skewed(1..64) };
        Walk { ends, entries, lent: self.dice.chance(0.5) }
    }
}
