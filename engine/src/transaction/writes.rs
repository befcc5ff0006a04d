//! What a transaction has written and not committed: the newest value of each key, and the ranges it has
//! deleted. It is laid over what the transaction reads, and becomes one commit.

use crate::types::KeyspaceId;
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

/// Memory that a written key costs besides its bytes, about.
const ENTRY_BYTES: usize = 64;

/// A value, or `None` for a delete.
pub(crate) type Written = Option<Box<[u8]>>;
/// Deleted ranges: of each the start, and the end if there is one. None touches another.
pub(crate) type Deleted = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The writes of a transaction in all keyspaces.
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
    pub(crate) deleted: Deleted,
}

/// What there was in a keyspace before: of a key, or of the deleted range that begins there.
enum Undo {
    Entry { at: usize, key: Box<[u8]>, before: Option<Written> },
    Deleted { at: usize, start: Vec<u8>, before: Option<Option<Vec<u8>>> },
}

impl Writes {
    pub(crate) const NONE: Writes =
        Writes { keyspaces: vec![], bytes: 0, undo: vec![], undoable: false };

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
        self.bytes += entry.as_ref().map_or(0, |entry| cost(&key, entry.as_deref()));
        let entries = &mut self.keyspaces[at].1.entries;
        let before = match entry {
            Some(entry) => {
                let len = key.len();
                let before = entries.insert(key, entry);
                self.bytes -= before.as_ref().map_or(0, |b| len + cost(&[], b.as_deref()));
                before
            }
            None => {
                let before = entries.remove(&key);
                self.bytes -= before.as_ref().map_or(0, |b| cost(&key, b.as_deref()));
                before
            }
        };
        if let Some(key) = undo {
            self.note(Undo::Entry { at, key, before });
        }
    }

    /// The same for a deleted range.
    fn replace_deleted(&mut self, at: usize, start: Vec<u8>, range: Option<Option<Vec<u8>>>) {
        let undo = self.undoable.then(|| start.clone());
        let len = start.len();
        self.bytes += range.as_ref().map_or(0, |end| cost(&start, end.as_deref()));
        let deleted = &mut self.keyspaces[at].1.deleted;
        let before = match range {
            Some(end) => deleted.insert(start, end),
            None => deleted.remove(&start),
        };
        self.bytes -= before.as_ref().map_or(0, |end| len + cost(&[], end.as_deref()));
        if let Some(start) = undo {
            self.note(Undo::Deleted { at, start, before });
        }
    }

    fn note(&mut self, undo: Undo) {
        self.bytes += undo.cost();
        self.undo.push(undo);
    }

    /// Deletes all keys of a range that is not empty.
    pub(crate) fn delete_range(&mut self, keyspace: KeyspaceId, start: &[u8], end: Option<&[u8]>) {
        let at = self.place_of(keyspace);
        let bounds = (Included(start), end.map_or(Unbounded, Excluded));
        let within = self.keyspaces[at].1.entries.range::<[u8], _>(bounds);
        let keys: Vec<_> = within.map(|(key, _)| key.clone()).collect();
        keys.into_iter().for_each(|key| self.replace(at, key, None));
        let (mut start, mut end) = (start.to_vec(), end.map(<[u8]>::to_vec));
        for (other, other_end) in touching(&self.keyspaces[at].1.deleted, &start, end.as_deref()) {
            self.replace_deleted(at, other.clone(), None);
            start = start.min(other);
            end = end.zip(other_end).map(|(end, other_end)| end.max(other_end));
        }
        self.replace_deleted(at, start, Some(end));
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
            self.bytes -= undo.cost();
            match undo {
                Undo::Entry { at, key, before } => self.replace(at, key, before),
                Undo::Deleted { at, start, before } => self.replace_deleted(at, start, before),
            }
        }
        self.undoable = true;
    }
}

impl Undo {
    fn cost(&self) -> usize {
        match self {
            Undo::Entry { key, before, .. } => {
                cost(key, before.as_ref().and_then(|b| b.as_deref()))
            }
            Undo::Deleted { start, before, .. } => {
                cost(start, before.as_ref().and_then(|end| end.as_deref()))
            }
        }
    }
}

/// What an entry costs, or a range.
pub(crate) fn cost(key: &[u8], with: Option<&[u8]>) -> usize {
    ENTRY_BYTES + key.len() + with.map_or(0, <[u8]>::len)
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

/// Whether a key lies in one of the ranges.
pub(crate) fn is_deleted(deleted: &Deleted, key: &[u8]) -> bool {
    let last = deleted.range::<[u8], _>((Unbounded, Included(key))).next_back();
    last.is_some_and(|(_, end)| end.as_deref().is_none_or(|end| key < end))
}

/// The ranges that overlap or adjoin one.
fn touching(
    deleted: &Deleted,
    start: &[u8],
    end: Option<&[u8]>,
) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let before = deleted.range::<[u8], _>((Unbounded, Excluded(start))).next_back();
    let before = before.filter(|(_, end)| end.as_deref().is_none_or(|end| end >= start));
    let behind = deleted.range::<[u8], _>((Included(start), end.map_or(Unbounded, Included)));
    before.into_iter().chain(behind).map(|(start, end)| (start.clone(), end.clone())).collect()
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
        let mut writes = Writes::NONE;
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
        let mut writes = Writes::NONE;
        for (start, end) in [("c", Some("e")), ("a", Some("b")), ("g", None), ("b", Some("c"))] {
            writes.delete_range(A, start.as_bytes(), end.map(str::as_bytes));
        }
        let deleted = writes.of(A).unwrap().deleted.clone();
        let expected = [(b"a".to_vec(), Some(b"e".to_vec())), (b"g".to_vec(), None)];
        assert_eq!(deleted, Deleted::from(expected));
        for (key, within) in
            [("", false), ("a", true), ("d", true), ("e", false), ("f", false), ("z", true)]
        {
            assert_eq!(is_deleted(&deleted, key.as_bytes()), within, "{key}");
        }
    }

    #[test]
    fn going_back_undoes_all_since() {
        let mut writes = Writes::NONE;
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
        assert_eq!(writes.bytes(), before);
        put(&mut writes, "a", "5");
        writes.roll_back(outer);
        assert_eq!(get(&writes, "a"), Some(Some(b"1".to_vec())));
    }

    /// Whatever is written and undone, in whatever order: it is as at the savepoint, and what it costs is known
    /// to the byte.
    #[test]
    fn going_back_is_exact() {
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let mut writes = Writes::NONE;
            let mut model: Vec<Option<Option<u64>>> = vec![None; 16];
            let mut saved = vec![];
            for _ in 0..40 {
                let (a, b) = (next(16), next(17));
                match next(8) {
                    0..=2 => {
                        let value = next(1000);
                        writes.put(A, &[a as u8], Some(&vec![7; value as usize]));
                        model[a as usize] = Some(Some(value));
                    }
                    3 => {
                        writes.put(A, &[a as u8], None);
                        model[a as usize] = Some(None);
                    }
                    4 | 5 if a < b => {
                        let end = [b as u8];
                        writes.delete_range(A, &[a as u8], (b < 16).then_some(&end[..]));
                        model[a as usize..b as usize].fill(Some(None));
                    }
                    6 => saved.push((writes.savepoint(), writes.bytes(), model.clone())),
                    7 if !saved.is_empty() => {
                        saved.truncate(1 + next(saved.len() as u64) as usize);
                        let (savepoint, bytes, then) = saved.last().unwrap();
                        writes.roll_back(*savepoint);
                        assert_eq!(writes.bytes(), *bytes);
                        model.clone_from(then);
                    }
                    _ => {}
                }
                for (key, expected) in model.iter().enumerate() {
                    let found = writes.of(A).and_then(|writes| writes.get(&[key as u8]));
                    let found = found.map(|value| value.map(|bytes| bytes.len() as u64));
                    assert_eq!(found, *expected, "{key}");
                }
            }
        }
    }
}
