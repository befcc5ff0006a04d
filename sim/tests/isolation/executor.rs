//! A tiny database of many versions that keeps its levels, or is told to break them, and clients
//! that use it at random.

use lightning_sim::{
    Dice,
    isolation::{History, KeyRange, Level, Operation, Status, Transaction},
};
use std::collections::BTreeMap;

/// How a history is made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) transactions: u64,
    /// How many run at once; 1 is one after the other.
    pub(crate) sessions: usize,
    pub(crate) levels: &'static [Level],
    pub(crate) keys: u64,
    /// How often the answer to a commit is not heard.
    pub(crate) unheard: f64,
    /// Keys are only read and put, one by one.
    pub(crate) registers: bool,
    /// Bugs.
    pub(crate) no_write_conflicts: bool,
    pub(crate) no_validation: bool,
    pub(crate) no_validation_of_scans: bool,
}

impl Plan {
    pub(crate) fn new(transactions: u64, sessions: usize, levels: &'static [Level]) -> Plan {
        Plan {
            transactions,
            sessions,
            levels,
            keys: 8,
            unheard: 0.0,
            registers: false,
            no_write_conflicts: false,
            no_validation: false,
            no_validation_of_scans: false,
        }
    }
}

type Key = Vec<u8>;

fn key_of(number: u64) -> Key {
    format!("{number:06}").into_bytes()
}

/// A transaction that runs.
struct Open {
    told: Transaction,
    snapshot: u64,
    own: BTreeMap<Key, Option<u64>>,
    /// What must not have changed at the commit, and whether a scan read it.
    read: Vec<(KeyRange, bool)>,
    written: Vec<KeyRange>,
    steps_left: u64,
}

struct Database<'p> {
    plan: &'p Plan,
    dice: Dice,
    /// For each key what every commit made of it.
    chains: BTreeMap<Key, Vec<(u64, Option<u64>)>>,
    commits: u64,
    versions: u64,
    clock: u64,
    begun: u64,
    history: History,
}

/// Runs a plan.
pub(crate) fn run(plan: &Plan, seed: u64) -> History {
    let mut database = Database {
        plan,
        dice: Dice::new(seed, "isolation", 0),
        chains: BTreeMap::new(),
        commits: 0,
        versions: 0,
        clock: 0,
        begun: 0,
        history: History::default(),
    };
    let mut sessions: Vec<Option<Open>> = (0..plan.sessions).map(|_| None).collect();
    while database.begun < plan.transactions || sessions.iter().any(Option::is_some) {
        let session = database.dice.below(plan.sessions as u64) as usize;
        database.clock += 1;
        sessions[session] = match sessions[session].take() {
            None if database.begun < plan.transactions => Some(database.begin(session as u64)),
            None => None,
            Some(open) if open.steps_left == 0 => {
                database.end(open);
                None
            }
            Some(open) => Some(database.step(open)),
        };
    }
    database.finish()
}

impl Database<'_> {
    fn begin(&mut self, session: u64) -> Open {
        self.begun += 1;
        let told = Transaction {
            id: self.begun,
            session,
            level: self.dice.pick(self.plan.levels),
            status: Status::Aborted,
            began: self.clock,
            ended: None,
            operations: Vec::new(),
        };
        Open {
            told,
            snapshot: self.commits,
            own: BTreeMap::new(),
            read: Vec::new(),
            written: Vec::new(),
            steps_left: self.dice.range(1..9),
        }
    }

    fn committed(&self, key: &[u8], at: u64) -> Option<u64> {
        let chain = self.chains.get(key)?;
        let newer = chain.partition_point(|(order, _)| *order <= at);
        newer.checked_sub(1).and_then(|newest| chain[newest].1)
    }

    fn value(&self, open: &Open, key: &[u8]) -> Option<u64> {
        let at = match open.told.level {
            Level::ReadCommitted => self.commits,
            Level::Snapshot | Level::Serializable => open.snapshot,
        };
        open.own.get(key).copied().unwrap_or_else(|| self.committed(key, at))
    }

    fn step(&mut self, mut open: Open) -> Open {
        open.steps_left -= 1;
        let from = self.dice.below(self.plan.keys);
        let to = from + self.dice.range(1..5);
        let key = key_of(from);
        let range = KeyRange::new(key.clone(), key_of(to));
        let dice = self.dice.below(20);
        let operation = match if self.plan.registers { dice % 2 * 15 } else { dice } {
            0..8 => {
                open.read.push((one(&key), false));
                let seen = self.value(&open, &key);
                Operation::Read { keyspace: 0, key, seen }
            }
            8..11 => self.scan(&mut open, from, to, range),
            11..19 => {
                self.versions += 1;
                let (version, delete) =
                    (self.versions, !self.plan.registers && self.dice.chance(0.25));
                open.own.insert(key.clone(), (!delete).then_some(version));
                open.written.push(one(&key));
                Operation::Write { keyspace: 0, key, version, delete }
            }
            _ => {
                self.versions += 1;
                open.own.extend((from..to).map(|key| (key_of(key), None)));
                open.written.push(range.clone());
                Operation::DeleteRange { keyspace: 0, range, version: self.versions }
            }
        };
        open.told.operations.push(operation);
        open
    }

    fn scan(&mut self, open: &mut Open, from: u64, to: u64, range: KeyRange) -> Operation {
        let end = if self.dice.chance(0.3) { self.dice.range(from..to) } else { to };
        let reached = (end < to).then(|| KeyRange::new(key_of(from), key_of(end)));
        open.read.push((reached.clone().unwrap_or_else(|| range.clone()), true));
        let seen = (from..end).filter_map(|key| {
            let key = key_of(key);
            let version = self.value(open, &key)?;
            Some((key, version))
        });
        Operation::Scan { keyspace: 0, range, reached, seen: seen.collect() }
    }

    fn changed_since(&self, range: &KeyRange, snapshot: u64) -> bool {
        let newest = |chain: &Vec<(u64, _)>| chain.last().map_or(0, |(order, _)| *order);
        self.chains.iter().any(|(key, chain)| range.contains(key) && newest(chain) > snapshot)
    }

    fn may_commit(&self, open: &Open) -> bool {
        let changed = |range: &KeyRange| self.changed_since(range, open.snapshot);
        let conflicts = open.told.level >= Level::Snapshot && open.written.iter().any(changed);
        let must_hold = |(_, scan): &&(KeyRange, bool)| {
            !(self.plan.no_validation || *scan && self.plan.no_validation_of_scans)
        };
        // One that only reads is as good as run when its snapshot was taken.
        let stale = open.told.level == Level::Serializable
            && !open.written.is_empty()
            && open.read.iter().filter(must_hold).any(|(range, _)| changed(range));
        (!conflicts || self.plan.no_write_conflicts) && !stale
    }

    fn end(&mut self, mut open: Open) {
        let unheard = self.dice.chance(self.plan.unheard);
        if !self.dice.chance(0.05) && self.may_commit(&open) {
            self.commits += u64::from(!open.written.is_empty());
            for (key, version) in std::mem::take(&mut open.own) {
                self.chains.entry(key).or_default().push((self.commits, version));
            }
            open.told.status = Status::Committed { order: self.commits };
            open.told.ended = Some(self.clock);
        }
        if unheard {
            (open.told.status, open.told.ended) = (Status::Unknown, None);
        }
        self.history.transactions.push(open.told);
    }

    fn finish(mut self) -> History {
        let keys = self.chains.iter();
        let last = keys.filter_map(|(key, chain)| Some((key.clone(), chain.last()?.1?)));
        self.history.final_state = Some([(0, last.collect())].into());
        self.history
    }
}

fn one(key: &[u8]) -> KeyRange {
    KeyRange::new(key, [key, b"\0"].concat())
}
