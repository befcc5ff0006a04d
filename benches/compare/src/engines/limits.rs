//! What the machine can do without a database: structures of the standard library, in memory,
//! with the same copying.

use crate::{
    store::{Direction, Lookup, Ordered, Reader},
    workload::{Key, entry, sorted},
};
use std::collections::HashMap;

type Bytes = Box<[u8]>;

/// The bound of a get.
pub(crate) struct Map(HashMap<Bytes, Bytes>);

impl Map {
    /// Holds the first `entries` entries.
    pub(crate) fn new(entries: u64) -> Map {
        let mut map = HashMap::with_capacity(entries as usize);
        map.extend((0..entries).map(owned));
        Map(map)
    }
}

impl Lookup for Map {
    type Reader<'a> = &'a Map;

    fn reader(&self) -> &Map {
        self
    }
}

impl Reader for &Map {
    fn get(&mut self, key: &Key) -> Option<impl AsRef<[u8]>> {
        self.0.get(&key[..]).map(|value| value.to_vec())
    }
}

/// The bound of a scan: entries side by side, in the order of their keys.
pub(crate) struct Array(Vec<crate::workload::Entry>);

impl Array {
    /// Holds the first `entries` entries.
    pub(crate) fn new(entries: u64) -> Array {
        Array(sorted(entries).into_iter().map(entry).collect())
    }
}

impl Lookup for Array {
    type Reader<'a> = &'a Array;

    fn reader(&self) -> &Array {
        self
    }
}

impl Reader for &Array {
    fn get(&mut self, key: &Key) -> Option<impl AsRef<[u8]>> {
        let place = self.0.binary_search_by(|entry| entry.key.cmp(key)).ok()?;
        Some(self.0[place].value.to_vec())
    }
}

impl Ordered for Array {
    fn scan(array: &mut &Array, from: &Key, count: usize, mut with: impl FnMut(&[u8])) {
        let start = array.0.partition_point(|entry| entry.key < *from);
        array.0[start..].iter().take(count).for_each(|entry| with(&entry.value));
    }

    fn scan_all(array: &mut &Array, direction: Direction, mut with: impl FnMut(&[u8])) {
        match direction {
            Direction::Forward => array.0.iter().for_each(|entry| with(&entry.value)),
            Direction::Reverse => array.0.iter().rev().for_each(|entry| with(&entry.value)),
        }
    }

    fn scan_copied(array: &mut &Array, mut with: impl FnMut(Vec<u8>, Vec<u8>)) {
        array.0.iter().for_each(|entry| with(entry.key.to_vec(), entry.value.to_vec()));
    }
}

fn owned(index: u64) -> (Bytes, Bytes) {
    let entry = entry(index);
    (entry.key.as_slice().into(), entry.value.as_slice().into())
}
