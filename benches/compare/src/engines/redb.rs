//! redb.
//!
//! `Durability::None` for commits that do not wait, and a `CursorMut` for sorted loads ("can be
//! around 3x faster than `insert()`": its changelog, 4.4). Of its builder's settings only the size
//! of the cache is about speed.

use crate::{
    store::{Commits, Direction, Lookup, MEMORY, Ordered, Reader, Store, Transactions},
    workload::{Entry, Key},
};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition,
};
use std::{ops::Bound, path::Path};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("table");

pub(crate) struct Redb {
    db: Database,
    durability: Durability,
}

impl Redb {
    /// Runs `with` in a write transaction.
    fn commit(&self, durability: Durability, with: impl FnOnce(&mut Table<&[u8], &[u8]>)) {
        let mut txn = self.db.begin_write().unwrap();
        txn.set_durability(durability).unwrap();
        with(&mut txn.open_table(TABLE).unwrap());
        txn.commit().unwrap();
    }
}

impl Lookup for Redb {
    type Reader<'a> = ReadOnlyTable<&'static [u8], &'static [u8]>;

    fn reader(&self) -> Self::Reader<'_> {
        self.db.begin_read().unwrap().open_table(TABLE).unwrap()
    }
}

impl Reader for ReadOnlyTable<&'static [u8], &'static [u8]> {
    fn get(&mut self, key: &Key) -> Option<impl AsRef<[u8]>> {
        ReadableTable::get(self, &key[..]).unwrap().map(|value| value.value().to_vec())
    }

    fn get_batch_lent(&mut self, keys: &[Key], mut with: impl FnMut(&[u8])) -> bool {
        for key in keys {
            let value = ReadableTable::get(self, &key[..]).unwrap();
            with(value.expect("a key that is there").value());
        }
        true
    }
}

impl Ordered for Redb {
    fn scan(table: &mut Self::Reader<'_>, from: &Key, count: usize, mut with: impl FnMut(&[u8])) {
        for entry in table.range(&from[..]..).unwrap().take(count) {
            with(entry.unwrap().1.value());
        }
    }

    fn scan_all(table: &mut Self::Reader<'_>, direction: Direction, mut with: impl FnMut(&[u8])) {
        let entries = table.iter().unwrap();
        match direction {
            Direction::Forward => entries.for_each(|entry| with(entry.unwrap().1.value())),
            Direction::Reverse => entries.rev().for_each(|entry| with(entry.unwrap().1.value())),
        }
    }

    fn scan_copied(table: &mut Self::Reader<'_>, mut with: impl FnMut(Vec<u8>, Vec<u8>)) {
        for entry in table.iter().unwrap() {
            let (key, value) = entry.unwrap();
            with(key.value().to_vec(), value.value().to_vec());
        }
    }
}

impl Transactions for Redb {
    fn create(dir: &Path) -> Redb {
        <Redb as Store>::create(dir, Commits::Fast)
    }

    fn fill(&self, entries: &[Entry]) {
        self.write(entries);
    }

    fn update(&self, key: &Key, change: impl Fn(&mut Vec<u8>)) {
        self.commit(self.durability, |table| {
            let found = table.get(&key[..]).unwrap().expect("a key that is there");
            let mut value = found.value().to_vec();
            drop(found);
            change(&mut value);
            table.insert(&key[..], &value[..]).unwrap();
        });
    }
}

impl Store for Redb {
    type Transactions = Redb;

    fn create(dir: &Path, commits: Commits) -> Redb {
        let db = Database::builder().set_cache_size(MEMORY).create(dir.join("redb")).unwrap();
        let durability = match commits {
            Commits::Fast => Durability::None,
            Commits::Durable => Durability::Immediate,
        };
        let redb = Redb { db, durability };
        redb.write(&[]);
        redb
    }

    fn put(&self, entry: &Entry) {
        self.write(std::slice::from_ref(entry));
    }

    fn write(&self, entries: &[Entry]) {
        self.commit(self.durability, |table| {
            for entry in entries {
                table.insert(&entry.key[..], &entry.value[..]).unwrap();
            }
        });
    }

    fn load_sorted(&self, entries: impl Iterator<Item = Entry>) {
        self.commit(self.durability, |table| {
            let mut cursor = table.upper_bound_mut(Bound::<&[u8]>::Unbounded).unwrap();
            for entry in entries {
                cursor.insert_before(&entry.key[..], &entry.value[..]).unwrap();
            }
            cursor.close().unwrap();
        });
    }

    /// A durable commit, then redb's compaction.
    fn settle(&mut self) {
        self.commit(Durability::Immediate, |_| {});
        self.db.compact().unwrap();
    }
}
