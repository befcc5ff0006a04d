//! The history of a session for the checker of isolation: every commit that was submitted, and what transactions
//! have read. The model itself knows more, as it knows at which SeqNo each transaction looks; the checker knows
//! nothing of that, and judges by what was seen only.

use super::{Answer, Broken, CommitId, Model, Op, SpaceId, broken};
use crate::isolation::{self, Anomaly, History, KeyRange, Level, Operation, Status, check};
use std::collections::BTreeMap;
use std::ops::Bound;

macro_rules! names {
    ($level:literal) => {
        names!($level: "histories", "contradiction", "value out of thin air", "own write missed", "write cycle",
            "aborted read", "intermediate read", "circular information", "lost update", "read skew",
            "read skew of a scan", "no snapshot", "real time", "write skew", "phantom")
    };
    ($level:literal: $($name:literal),*) => { [$(concat!("isolation of ", $level, ": ", $name)),*] };
}

/// What is counted of the transactions of each level: the histories that had some, and those in which an anomaly was
/// found, in the order of [`Anomaly::ALL`].
const ADMITTED: [(Level, [&str; 15]); 3] = [
    (Level::ReadCommitted, names!("ReadCommitted")),
    (Level::Snapshot, names!("Snapshot")),
    (Level::Serializable, names!("Serializable")),
];

/// Histories of more commits are not judged: it would take long.
const COMMITS_MAX: usize = 5000;

/// What a transaction did besides its commit.
#[derive(Debug)]
pub(in super::super) struct Told {
    /// What it wrote, if that was submitted.
    pub(in super::super) commit: Option<CommitId>,
    pub(in super::super) client: u64,
    pub(in super::super) level: Level,
    /// Moments before it was begun, and behind its end.
    pub(in super::super) began: u64,
    pub(in super::super) ended: Option<u64>,
    /// It has committed, though it wrote nothing.
    pub(in super::super) committed: bool,
    pub(in super::super) reads: Vec<Operation>,
}

/// The number of a value: which write it is from.
pub(in super::super) fn version(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |number| u64::from_le_bytes(*number))
}

/// A range as the checker has it.
pub(in super::super) fn key_range((start, end): &super::Bounds) -> KeyRange {
    let behind = |key: &Vec<u8>| [&key[..], &[0]].concat();
    let start = match start {
        Bound::Unbounded => vec![],
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => behind(key),
    };
    let end = match end {
        Bound::Unbounded => None,
        Bound::Excluded(key) => Some(key.clone()),
        Bound::Included(key) => Some(behind(key)),
    };
    KeyRange { start, end }
}

impl Model {
    /// Judges what the transactions of the last session saw, as far as it is known.
    pub(super) fn judge_isolation(&mut self) -> Result<(), Broken> {
        let told = std::mem::take(&mut self.told);
        // A load has no place among the commits.
        if told.is_empty() || !self.loads.is_empty() || self.commits.len() > COMMITS_MAX {
            return Ok(());
        }
        let mut deletes = 1 << 48;
        let mut reads: BTreeMap<CommitId, Told> = BTreeMap::new();
        let mut transactions = vec![self.before()];
        for told in told {
            match told.commit {
                Some(id) => _ = reads.insert(id, told),
                None => transactions.push(isolation::Transaction {
                    id: transactions.len() as u64 + (1 << 32),
                    session: told.client,
                    level: told.level,
                    status: match told.committed {
                        true => Status::Committed { order: 0 },
                        false => Status::Aborted,
                    },
                    began: told.began,
                    ended: told.ended,
                    operations: told.reads,
                }),
            }
        }
        for (id, commit) in self.commits.iter().enumerate() {
            let told = reads.remove(&id);
            let (client, level, began) = match &told {
                Some(told) => (told.client, told.level, told.began),
                None => (u64::MAX, Level::ReadCommitted, commit.submitted),
            };
            let mut operations = told.map(|told| told.reads).unwrap_or_default();
            operations.extend(commit.ops.iter().map(|op| {
                deletes += 1;
                operation(op, deletes)
            }));
            let status = match commit.answer {
                Answer::Acknowledged(order) => Status::Committed { order },
                Answer::InFlight | Answer::Unknown => Status::Unknown,
                Answer::Refused => Status::Aborted,
            };
            let (id, ended) = (id as u64 + 1, commit.answered);
            transactions.push(isolation::Transaction {
                id,
                session: client,
                level,
                status,
                began,
                ended,
                operations,
            });
        }
        let mut history = History { transactions, final_state: None };
        let report = check(&history);
        if !report.forbidden().is_empty() {
            return broken("isolation", report.to_string());
        }
        self.tell_what_each_level_admits(&mut history);
        Ok(())
    }

    /// Counts for each level what would have been forbidden if its transactions had been serializable, and no others.
    fn tell_what_each_level_admits(&mut self, history: &mut History) {
        let levels: Vec<_> = history.transactions.iter().map(|t| (t.level, t.session)).collect();
        for (level, [histories, names @ ..]) in ADMITTED {
            let of_level = |(of, session): &(Level, u64)| *of == level && *session != u64::MAX;
            if !levels.iter().any(of_level) {
                continue;
            }
            self.admitted.push(histories);
            for (transaction, told) in history.transactions.iter_mut().zip(&levels) {
                transaction.level = match of_level(told) {
                    true => Level::Serializable,
                    false => Level::ReadCommitted,
                };
            }
            let report = check(history);
            let found = Anomaly::ALL.iter().zip(names);
            let found = found.filter(|(anomaly, _)| report.forbidden().contains_key(anomaly));
            self.admitted.extend(found.map(|(_, name)| name));
        }
    }

    /// What was there before.
    fn before(&self) -> isolation::Transaction {
        let write = |keyspace: SpaceId, (key, value): (&Vec<u8>, &Vec<u8>)| Operation::Write {
            keyspace,
            key: key.clone(),
            version: version(value),
            delete: false,
        };
        let contents = self.base.contents.iter();
        let writes = contents.flat_map(|(space, entries)| entries.iter().map(|e| write(*space, e)));
        isolation::Transaction {
            id: 0,
            session: u64::MAX,
            level: Level::ReadCommitted,
            status: Status::Committed { order: self.base.seq },
            began: 0,
            ended: Some(0),
            operations: writes.collect(),
        }
    }
}

fn operation(op: &Op, number: u64) -> Operation {
    match op {
        Op::Put(keyspace, key, value) => Operation::Write {
            keyspace: *keyspace,
            key: key.clone(),
            version: version(value),
            delete: false,
        },
        Op::Delete(keyspace, key) => Operation::Write {
            keyspace: *keyspace,
            key: key.clone(),
            version: number,
            delete: true,
        },
        Op::DeleteRange(keyspace, bounds) => Operation::DeleteRange {
            keyspace: *keyspace,
            range: key_range(bounds),
            version: number,
        },
    }
}
