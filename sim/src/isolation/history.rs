//! What clients did and were answered, as the checker wants it told.

use std::collections::BTreeMap;

/// How far a transaction is kept apart from others. The later promise more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Each read sees what was committed when it was made.
    ReadCommitted,
    /// All reads see the state at one moment, and of two that overlap and write a key one fails.
    Snapshot,
    /// As if the transactions had run one after the other, in the order of their commits.
    Serializable,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is in.
    Committed {
        /// Its place in the order of commits: the database's sequence number. No two
        /// transactions that write have the same one; for those that only read it is not looked
        /// at.
        order: u64,
    },
    /// It was asked to commit, and a crash came before the answer. It counts as committed if and
    /// only if anybody read, or the final state holds, something that it wrote.
    Unknown,
    /// It is not in, and never will be.
    Aborted,
}

/// The keys from `start` up to but without `end`; without an `end` all from `start`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key behind.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// All keys.
    pub fn all() -> KeyRange {
        KeyRange::default()
    }

    /// The keys from `start` up to but without `end`.
    pub fn new(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> KeyRange {
        KeyRange { start: start.into(), end: Some(end.into()) }
    }

    /// Whether the key is in it.
    ///
    /// ```
    /// use lightning_sim::isolation::KeyRange;
    /// let range = KeyRange::new(*b"b", *b"d");
    /// assert!(range.contains(b"b") && range.contains(b"c") && !range.contains(b"d"));
    /// ```
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_ref().is_none_or(|end| key < end.as_slice())
    }
}

/// A step of a transaction. Versions are numbers that the client chooses, each for one write of
/// the whole history: a read tells by the version whose write it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A key was given a value, or was deleted.
    Write {
        /// The keyspace's number.
        keyspace: u32,
        /// The key.
        key: Vec<u8>,
        /// The number of this write.
        version: u64,
        /// It is a delete.
        delete: bool,
    },
    /// All keys of a range were deleted.
    DeleteRange {
        /// The keyspace's number.
        keyspace: u32,
        /// The keys.
        range: KeyRange,
        /// The number of this write.
        version: u64,
    },
    /// A key was read.
    Read {
        /// The keyspace's number.
        keyspace: u32,
        /// The key.
        key: Vec<u8>,
        /// Which write the value was from; `None` if there was no value.
        seen: Option<u64>,
    },
    /// The keys of a range were read.
    Scan {
        /// The keyspace's number.
        keyspace: u32,
        /// What was asked for.
        range: KeyRange,
        /// What was covered, if the scan was left before its end: a forward scan of which `"f"`
        /// came last covered its start up to `"f\0"`. `None`: all of `range`.
        reached: Option<KeyRange>,
        /// The keys that were there, and which writes their values were from.
        seen: Vec<(Vec<u8>, u64)>,
    },
}

impl Operation {
    /// Whether it changes something.
    pub fn writes(&self) -> bool {
        matches!(self, Operation::Write { .. } | Operation::DeleteRange { .. })
    }
}

/// One transaction. A write or read outside of transactions is one of a single step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its number; every transaction has another one.
    pub id: u64,
    /// Who ran it. Only told, not judged.
    pub session: u64,
    /// What it was promised.
    pub level: Level,
    /// How it ended.
    pub status: Status,
    /// When it was begun, at the latest: read from a clock that all share, before it was asked
    /// to begin.
    pub began: u64,
    /// When its commit was acknowledged, at the latest: read from that clock after the answer.
    pub ended: Option<u64>,
    /// What it did, in this order.
    pub operations: Vec<Operation>,
}

impl Transaction {
    pub(super) fn writes(&self) -> bool {
        self.operations.iter().any(Operation::writes)
    }
}

/// What some keyspaces hold: for each key the write that its value is from.
pub type Contents = BTreeMap<u32, BTreeMap<Vec<u8>, u64>>;

/// What is to be judged. The database was empty before; what it held must be told as a
/// transaction that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// All transactions, in any order.
    pub transactions: Vec<Transaction>,
    /// What was there after all of them had ended, whole keyspaces each. It is judged as one more
    /// transaction that is Serializable, begins after all others and scans these keyspaces. So a
    /// transaction that was acknowledged and then lost in a crash, as its durability admits, must
    /// be told as [`Status::Unknown`] or [`Status::Aborted`].
    pub final_state: Option<Contents>,
}
