//! What a client does, as data: every verb of the public API.
//!
//! Keys are numbers (`key_bytes`); values are given by their length, and get their bytes when
//! they are written, because every value is unique.

use crate::schedule::number_within;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
};

/// A key, by its number.
pub type Key = u64;

/// The bounds of a range of keys.
pub(super) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The bytes of a key. The empty key is a key; some are long.
pub(super) fn key_bytes(key: Key) -> Vec<u8> {
    match key {
        0 => vec![],
        1 => vec![0xff; 40],
        n if n % 17 == 0 => format!("{n:04}").repeat(40).into_bytes(),
        n => format!("k{n:04}").into_bytes(),
    }
}

/// A keyspace, as clients name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The default keyspace.
    Default,
    /// The first that all clients share.
    Shared1,
    /// The second that all clients share.
    Shared2,
    /// The client's own, which it creates and drops; the default one while it does not exist.
    Own,
}

impl Place {
    /// What the database calls it; a client's own gets its number besides.
    pub(super) fn name(self) -> &'static str {
        match self {
            Place::Default => "default",
            Place::Shared1 => "shared-1",
            Place::Shared2 => "shared-2",
            Place::Own => "own",
        }
    }
}

/// A value that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    /// Its length, at least 8.
    #[serde(deserialize_with = "number_within::<_, _, 8, 1_048_576>")]
    pub bytes: u64,
    /// It cannot be compressed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub random: bool,
}

/// How one commit becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durable {
    /// As the configuration says.
    #[default]
    Default,
    /// Before it is acknowledged.
    Sync,
    /// Later.
    Async,
}

/// One end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edge {
    /// There is none.
    Unbounded,
    /// The range ends with this key.
    Included(Key),
    /// The range ends before (or begins behind) this key.
    Excluded(Key),
}

impl Edge {
    fn bound(self) -> Bound<Vec<u8>> {
        match self {
            Edge::Unbounded => Bound::Unbounded,
            Edge::Included(key) => Bound::Included(key_bytes(key)),
            Edge::Excluded(key) => Bound::Excluded(key_bytes(key)),
        }
    }
}

fn key_of(bound: &Bound<Vec<u8>>) -> Option<&Vec<u8>> {
    match bound {
        Bound::Unbounded => None,
        Bound::Included(key) | Bound::Excluded(key) => Some(key),
    }
}

/// A range of keys. Inverted edges change places, and equal ones include their key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Where it begins.
    pub start: Edge,
    /// Where it ends.
    pub end: Edge,
}

impl Range {
    pub(super) fn bounds(self) -> Bounds {
        let (start, end) = (self.start.bound(), self.end.bound());
        match (key_of(&start), key_of(&end)) {
            (Some(a), Some(b)) if a > b => (end, start),
            (Some(a), Some(b)) if a == b => {
                (Bound::Included(a.clone()), Bound::Included(b.clone()))
            }
            _ => (start, end),
        }
    }
}

/// The part of a map that lies within bounds.
pub(super) fn within<'a, V>(
    map: &'a BTreeMap<Vec<u8>, V>,
    bounds: &Bounds,
) -> impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a V)> {
    map.range::<[u8], _>((as_ref(&bounds.0), as_ref(&bounds.1)))
}

/// Whether a key lies within bounds.
pub(super) fn inside(bounds: &Bounds, key: &[u8]) -> bool {
    RangeBounds::<[u8]>::contains(&(as_ref(&bounds.0), as_ref(&bounds.1)), key)
}

/// The range as the database keeps it.
pub(super) fn as_half_open((start, end): Bounds) -> (Vec<u8>, Option<Vec<u8>>) {
    let behind = |mut key: Vec<u8>| {
        key.push(0);
        key
    };
    let start = match start {
        Bound::Unbounded => vec![],
        Bound::Included(key) => key,
        Bound::Excluded(key) => behind(key),
    };
    let end = match end {
        Bound::Unbounded => None,
        Bound::Excluded(key) => Some(key),
        Bound::Included(key) => Some(behind(key)),
    };
    (start, end)
}

fn as_ref(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
    }
}

/// One operation of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Write {
    /// Sets a key.
    Put {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
        /// To what.
        value: Value,
    },
    /// Removes a key.
    Delete {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
    },
    /// Removes a range.
    DeleteRange {
        /// Where.
        space: Place,
        /// Which keys.
        range: Range,
    },
}

/// Which end of a scan entries are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// The front.
    Front,
    /// The back.
    Back,
    /// Bit by bit of this number, again and again: 0 is the front.
    Both(u64),
}

impl Ends {
    /// Whether a step takes from the back.
    pub(super) fn is_back(self, step: u64) -> bool {
        match self {
            Ends::Front => false,
            Ends::Back => true,
            Ends::Both(pattern) => pattern >> (step % 64) & 1 == 1,
        }
    }
}

/// How a scan is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Walk {
    /// From which end.
    pub ends: Ends,
    /// How many entries at most.
    pub entries: u64,
    /// By `next_ref` and `next_back_ref`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lent: bool,
}

/// A read, of the database as it is or of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Read {
    /// `get`
    Get(Key),
    /// `get_ref`
    GetRef(Key),
    /// `get_reader`, read in pieces of so many bytes
    GetReader(Key, u64),
    /// `contains_key`
    ContainsKey(Key),
    /// `get_batch`
    GetBatch(Vec<Key>),
    /// `get_batch_with`
    GetBatchWith(Vec<Key>),
    /// `first`
    First,
    /// `last`
    Last,
    /// `scan`
    Scan(Option<Key>, Option<Key>, Walk),
    /// `scan_reverse`
    ScanReverse(Option<Key>, Option<Key>, Walk),
    /// `scan_prefix`: so many bytes of a key
    ScanPrefix(Key, u64, Walk),
    /// `range`
    Range(Range, Walk),
    /// `iter`
    Iter(Walk),
    /// `for_each`
    ForEach(Range),
}

/// How a transaction stands to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// `IsolationLevel::ReadCommitted`
    ReadCommitted,
    /// `IsolationLevel::Snapshot`
    Snapshot,
    /// `IsolationLevel::Serializable`
    Serializable,
}

/// What is done in a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// A read.
    Read {
        /// Where.
        space: Place,
        /// What; a verb that transactions do not have stands for its neighbour.
        read: Read,
    },
    /// `get_for_update`
    ForUpdate {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
    },
    /// `put`
    Put {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
        /// To what.
        value: Value,
    },
    /// `delete`
    Delete {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
    },
    /// `delete_range`
    DeleteRange {
        /// Where.
        space: Place,
        /// Which keys.
        range: Range,
    },
    /// `savepoint`
    Savepoint,
    /// `rollback_to`, so many savepoints back.
    RollBack(u64),
    /// Waits.
    Sleep {
        /// How long.
        nanos: u64,
    },
}

/// What a `compare_and_swap` expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expects {
    /// Nothing.
    Nothing,
    /// What a `get` has found just before.
    Found,
    /// A value that nobody has written.
    Other,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a client does next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// A batch, across keyspaces: `commit`.
    Commit {
        /// What is in it.
        writes: Vec<Write>,
        /// How it becomes durable.
        #[serde(default)]
        durability: Durable,
    },
    /// `put`, or `put_with` where the durability is not the default.
    Put {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
        /// To what.
        value: Value,
        /// How it becomes durable.
        #[serde(default)]
        durability: Durable,
    },
    /// `put_reader`, or `put_reader_with` where the durability is not the default.
    PutReader {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
        /// To what.
        value: Value,
        /// How it becomes durable.
        #[serde(default)]
        durability: Durable,
        /// The reader yields pieces of so many bytes.
        #[serde(deserialize_with = "number_within::<_, _, 1, 1_048_576>")]
        piece: u64,
        /// The reader fails behind so many bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fails: Option<u64>,
    },
    /// `delete`
    Delete {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
    },
    /// `delete_range`
    DeleteRange {
        /// Where.
        space: Place,
        /// Which keys.
        range: Range,
    },
    /// `put_batch`
    PutBatch {
        /// Where.
        space: Place,
        /// Keys and values.
        entries: Vec<(Key, Value)>,
    },
    /// `delete_batch`
    DeleteBatch {
        /// Where.
        space: Place,
        /// Which keys.
        keys: Vec<Key>,
    },
    /// A read of what is there now.
    Read {
        /// Where.
        space: Place,
        /// What.
        read: Read,
    },
    /// Takes a snapshot, reads all of it, and holds it.
    Snapshot,
    /// Reads a snapshot held again.
    Reread {
        /// Which of those held.
        held: u64,
        /// Where.
        space: Place,
        /// What.
        read: Read,
    },
    /// `try_bulk_load`, of entries in the order of their keys.
    BulkLoad {
        /// Where.
        space: Place,
        /// Keys and values; of a key that comes more than once, the last.
        entries: Vec<(Key, Value)>,
        /// The keyspace is emptied first.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        empties: bool,
        /// How long each entry is waited for.
        #[serde(default, skip_serializing_if = "is_zero")]
        nanos: u64,
        /// The input fails behind so many entries.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fails: Option<u64>,
    },
    /// A transaction.
    Transaction {
        /// How it stands to others.
        level: Level,
        /// It locks what it writes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pessimistic: bool,
        /// What is done in it.
        steps: Vec<Step>,
        /// How its commit becomes durable.
        #[serde(default)]
        durability: Durable,
        /// It is given up in the end.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        abort: bool,
        /// It is run as a closure, again while others come between.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        runs: bool,
        /// It only reads: its writes are refused.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        read_only: bool,
        /// How long it may be open; as the configuration says where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_nanos: Option<u64>,
        /// It is named by its number, if the verbs for that can do all of it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_id: bool,
    },
    /// `compare_and_swap`
    CompareAndSwap {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
        /// What it must have.
        expects: Expects,
        /// What it gets; without, it is deleted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<Value>,
        /// How long it waits once it knows what it expects.
        #[serde(default, skip_serializing_if = "is_zero")]
        nanos: u64,
    },
    /// `fetch_and_update`
    FetchAndUpdate {
        /// Where.
        space: Place,
        /// Which key.
        key: Key,
        /// What it gets; without, it is deleted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<Value>,
        /// How long the change takes.
        #[serde(default, skip_serializing_if = "is_zero")]
        nanos: u64,
    },
    /// `pop_first`
    PopFirst {
        /// Where.
        space: Place,
    },
    /// `pop_last`
    PopLast {
        /// Where.
        space: Place,
    },
    /// Takes commits to a keyspace from a subscription, which goes on from where the client was before.
    Follow {
        /// Where.
        space: Place,
        /// By `subscribe` anew, though there is a subscription.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
        /// How many commits, at most.
        commits: u64,
        /// How long each is waited for.
        #[serde(default, skip_serializing_if = "is_zero")]
        nanos: u64,
    },
    /// Creates the client's own keyspace, or drops it.
    Keyspace,
    /// `checkpoint`
    Checkpoint,
    /// `compact`
    Compact,
    /// `set_storage_kind`
    StorageKind {
        /// Where.
        space: Place,
        /// To `BTree`, or to `Hybrid`.
        btree: bool,
    },
    /// `close`, while other clients go on.
    Close,
    /// Waits.
    Sleep {
        /// How long.
        nanos: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_never_inverted() {
        let edges = [Edge::Unbounded, Edge::Included(0), Edge::Excluded(0), Edge::Excluded(1)];
        let map: BTreeMap<Vec<u8>, ()> = (0..20).map(|key| (key_bytes(key), ())).collect();
        let mut sizes = vec![];
        for start in edges {
            for end in edges {
                sizes.push(within(&map, &Range { start, end }.bounds()).count());
            }
        }
        // The key 0 is the first of all, the key 1 the last.
        assert_eq!(sizes, [20, 1, 0, 19, 20, 1, 1, 19, 19, 1, 1, 18, 0, 19, 18, 1]);
    }
}
