//! What a transaction has written and not committed: the newest value of each key, and the ranges it has
//! deleted. It is laid over what the transaction reads, and becomes one commit.

use crate::types::KeyspaceId;
use std::{collections::BTreeMap, ops::Bound};

/// Memory that a written key costs besides its bytes, about.
const ENTRY_BYTES: usize = 64;

/// A value, or `None` for a delete.
pub(crate) type Written = Option<Box<[u8]>>;
/// A deleted range: start, and end if there is one.
pub(crate) type Deleted = (Vec<u8>, Option<Vec<u8>>);

/// The writes of a transaction in all keyspaces.
#[derive(Default)]
pub(crate) struct Writes {
    keyspaces: Vec<(KeyspaceId, InKeyspace)>,
    bytes: usize,
    /// How to undo what was done since the oldest savepoint, newest last.
    undo: Vec<Undo>,
    /// Whether there is a savepoint to go back to.
    undoable: bool,
}

/// The writes in one keyspace.
#[derive(Default)]
pub(crate) struct InKeyspace {
    /// Written after all of `deleted`, or not within.
    pub(crate) entries: BTreeMap<Box<[u8]>, Written>,
    /// In order; none touches another.
    pub(crate) deleted: Vec<Deleted>,
}

enum Undo {
    Entry { at: usize, key: Box<[u8]>, before: Option<Written> },
    Deleted { at: usize, before: Vec<Deleted> },
}

impl Writes {
    pub(crate) fn is_empty(&self) -> bool {
        self.keyspaces.iter().all(|(_, writes)| writes.is_empty())
    }

    /// Bytes of memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The keyspaces, each with its writes.
    pub(crate) fn all(&self) -> impl Iterator<Item = (KeyspaceId, &InKeyspace)> {
        self.keyspaces.iter().map(|(id, writes)| (*id, writes))
    }

    pub(crate) fn of(&self, keyspace: KeyspaceId) -> Option<&InKeyspace> {
        self.all().find(|(id, _)| *id == keyspace).map(|(_, writes)| writes)
    }

    fn place_of(&mut self, keyspace: KeyspaceId) -> usize {
        let at = self.keyspaces.iter().position(|(id, _)| *id == keyspace);
        at.unwrap_or_else(|| {
            self.keyspaces.push((keyspace, InKeyspace::default()));
            self.keyspaces.len() - 1
        })
    }

    /// Sets a key to a value, or deletes it.
    pub(crate) fn put(&mut self, keyspace: KeyspaceId, key: &[u8], value: Option<&[u8]>) {
        let at = self.place_of(keyspace);
        self.replace(at, Box::from(key), Some(value.map(Box::from)));
    }

    /// Puts an entry in the place of what there is of a key, or nothing.
    fn replace(&mut self, at: usize, key: Box<[u8]>, entry: Option<Written>) {
        let undo = self.undoable.then(|| key.clone());
        let key_len = key.len();
        self.bytes += entry.as_ref().map_or(0, |entry| cost(key_len, entry));
        let entries = &mut self.keyspaces[at].1.entries;
        let before = match entry {
            Some(entry) => entries.insert(key, entry),
            None => entries.remove(&key),
        };
        self.bytes -= before.as_ref().map_or(0, |before| cost(key_len, before));
        if let Some(key) = undo {
            self.bytes += key_len + ENTRY_BYTES + before.as_ref().map_or(0, |b| cost(0, b));
            self.undo.push(Undo::Entry { at, key, before });
        }
    }

    /// Deletes all keys of a range that is not empty.
    pub(crate) fn delete_range(&mut self, keyspace: KeyspaceId, start: &[u8], end: Option<&[u8]>) {
        let at = self.place_of(keyspace);
        let bounds = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        let within = self.keyspaces[at].1.entries.range::<[u8], _>(bounds);
        let keys: Vec<_> = within.map(|(key, _)| key.clone()).collect();
        keys.into_iter().for_each(|key| self.replace(at, key, None));
        let deleted = with_range(&self.keyspaces[at].1.deleted, start, end);
        let before = std::mem::replace(&mut self.keyspaces[at].1.deleted, deleted);
        self.bytes += start.len() + end.map_or(0, <[u8]>::len) + ENTRY_BYTES;
        if self.undoable {
            self.bytes += before.len() * ENTRY_BYTES;
            self.undo.push(Undo::Deleted { at, before });
        }
    }

    /// A place that [`Writes::roll_back`] goes back to.
    pub(crate) fn savepoint(&mut self) -> usize {
        self.undoable = true;
        self.undo.len()
    }

    /// Undoes what was written since a savepoint.
    pub(crate) fn roll_back(&mut self, savepoint: usize) {
        self.undoable = false; // undoing is not undone
        while self.undo.len() > savepoint
            && let Some(undo) = self.undo.pop()
        {
            match undo {
                Undo::Entry { at, key, before } => {
                    self.bytes -=
                        key.len() + ENTRY_BYTES + before.as_ref().map_or(0, |b| cost(0, b));
                    self.replace(at, key, before);
                }
                Undo::Deleted { at, before } => {
                    self.bytes -= before.len() * ENTRY_BYTES;
                    self.keyspaces[at].1.deleted = before;
                }
            }
        }
        self.undoable = true;
    }
}

/// What an entry costs.
fn cost(key_len: usize, entry: &Written) -> usize {
    key_len + ENTRY_BYTES + entry.as_ref().map_or(0, |value| value.len())
}

impl InKeyspace {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.deleted.is_empty()
    }

    /// What was written of a key: `None` is nothing, `Some(None)` that it was deleted.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        match self.entries.get(key) {
            Some(written) => Some(written.as_deref()),
            None => is_deleted(&self.deleted, key).then_some(None),
        }
    }
}

/// Whether a key lies in one of the ranges, which are in order.
pub(crate) fn is_deleted(deleted: &[Deleted], key: &[u8]) -> bool {
    let at = deleted.partition_point(|(start, _)| start[..] <= *key);
    let last = at.checked_sub(1).map(|at| &deleted[at]);
    last.is_some_and(|(_, end)| end.as_deref().is_none_or(|end| key < end))
}

/// The ranges with one more, in order, what touches made one.
fn with_range(deleted: &[Deleted], start: &[u8], end: Option<&[u8]>) -> Vec<Deleted> {
    let (mut start, mut end) = (start.to_vec(), end.map(<[u8]>::to_vec));
    let (mut all, mut behind) = (vec![], vec![]);
    for (other_start, other_end) in deleted {
        if other_end.as_ref().is_some_and(|other_end| *other_end < start) {
            all.push((other_start.clone(), other_end.clone()));
        } else if end.as_ref().is_some_and(|end| end < other_start) {
            behind.push((other_start.clone(), other_end.clone()));
        } else {
            start = start.min(other_start.clone());
            end = match (end, other_end) {
                (Some(end), Some(other_end)) => Some(end.max(other_end.clone())),
                _ => None,
            };
        }
    }
    all.push((start, end));
    all.append(&mut behind);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: KeyspaceId = KeyspaceId(1);

    fn get(writes: &Writes, key: &str) -> Option<Option<Vec<u8>>> {
        let found = writes.of(A).and_then(|writes| writes.get(key.as_bytes()));
        found.map(|value| value.map(<[u8]>::to_vec))
    }

    fn put(writes: &mut Writes, key: &str, value: &str) {
        writes.put(A, key.as_bytes(), Some(value.as_bytes()));
    }

    #[test]
    fn the_last_write_of_a_key_counts() {
        let mut writes = Writes::default();
        assert!(writes.is_empty());
        put(&mut writes, "b", "1");
        assert_eq!(get(&writes, "b"), Some(Some(b"1".to_vec())));
        writes.delete_range(A, b"a", Some(b"c"));
        assert_eq!(get(&writes, "b"), Some(None));
        assert_eq!(get(&writes, "c"), None);
        put(&mut writes, "b", "2");
        assert_eq!(get(&writes, "b"), Some(Some(b"2".to_vec())));
        writes.put(A, b"b", None);
        assert_eq!(get(&writes, "b"), Some(None));
        assert_eq!(writes.of(KeyspaceId(2)).and_then(|w| w.get(b"b")), None);
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut deleted = vec![];
        for (start, end) in [("c", Some("e")), ("a", Some("b")), ("g", None), ("b", Some("c"))] {
            deleted = with_range(&deleted, start.as_bytes(), end.map(str::as_bytes));
        }
        let expected: Vec<Deleted> =
            vec![(b"a".to_vec(), Some(b"e".to_vec())), (b"g".to_vec(), None)];
        assert_eq!(deleted, expected);
        for (key, within) in
            [("", false), ("a", true), ("d", true), ("e", false), ("f", false), ("z", true)]
        {
            assert_eq!(is_deleted(&deleted, key.as_bytes()), within, "{key}");
        }
    }

    #[test]
    fn going_back_undoes_all_since() {
        let mut writes = Writes::default();
        put(&mut writes, "a", "1");
        put(&mut writes, "b", "1");
        let before = writes.bytes();
        let outer = writes.savepoint();
        put(&mut writes, "a", "22");
        let inner = writes.savepoint();
        writes.delete_range(A, b"a", None);
        put(&mut writes, "c", "3");
        writes.roll_back(inner);
        assert_eq!(get(&writes, "a"), Some(Some(b"22".to_vec())));
        assert_eq!(get(&writes, "b"), Some(Some(b"1".to_vec())));
        assert_eq!(get(&writes, "c"), None);
        put(&mut writes, "d", "4");
        writes.roll_back(outer);
        assert_eq!(get(&writes, "a"), Some(Some(b"1".to_vec())));
        assert_eq!(get(&writes, "d"), None);
        assert!(writes.bytes() >= before);
        put(&mut writes, "a", "5");
        writes.roll_back(outer);
        assert_eq!(get(&writes, "a"), Some(Some(b"1".to_vec())));
    }
}
