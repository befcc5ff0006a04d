//! fjall.
//!
//! A cache that holds the data set ("or more if the data set fits fully into memory": its README),
//! index and filter blocks pinned in every level, and `start_ingestion` for sorted loads ("for
//! maximum bulk load speed": its documentation). Commits that do not wait reach the system's
//! buffers, which is the default. Built without LZ4.

use crate::{
    store::{
        Commits, Direction, Lookup, MEMORY, Ordered, Reader, Store, Transactions, WRITE_BUFFER,
    },
    workload::{Entry, Key},
};
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, OptimisticTxDatabase, OptimisticTxKeyspace,
    PersistMode, Readable, config::PinningPolicy,
};
use std::path::Path;

pub(crate) struct Fjall {
    db: Database,
    keyspace: Keyspace,
    durability: Option<PersistMode>,
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(WRITE_BUFFER as u64)
        .index_block_pinning_policy(PinningPolicy::all(true))
        .filter_block_pinning_policy(PinningPolicy::all(true))
}

impl Lookup for Fjall {
    type Reader<'a> = &'a Keyspace;

    fn reader(&self) -> &Keyspace {
        &self.keyspace
    }
}

impl Reader for &Keyspace {
    fn get(&mut self, key: &Key) -> Option<impl AsRef<[u8]>> {
        Keyspace::get(self, key).unwrap()
    }
}

impl Ordered for Fjall {
    fn scan(keyspace: &mut &Keyspace, from: &Key, count: usize, mut with: impl FnMut(&[u8])) {
        for entry in keyspace.range::<&Key, _>(from..).take(count) {
            with(&entry.value().unwrap());
        }
    }

    fn scan_all(keyspace: &mut &Keyspace, direction: Direction, mut with: impl FnMut(&[u8])) {
        let entries = keyspace.iter();
        match direction {
            Direction::Forward => entries.for_each(|entry| with(&entry.value().unwrap())),
            Direction::Reverse => entries.rev().for_each(|entry| with(&entry.value().unwrap())),
        }
    }

    fn scan_copied(keyspace: &mut &Keyspace, mut with: impl FnMut(Vec<u8>, Vec<u8>)) {
        for entry in keyspace.iter() {
            let (key, value) = entry.into_inner().unwrap();
            with(key.to_vec(), value.to_vec());
        }
    }
}

/// fjall with transactions that find out at their commit whether they were disturbed.
pub(crate) struct Optimistic {
    db: OptimisticTxDatabase,
    keyspace: OptimisticTxKeyspace,
}

impl Transactions for Optimistic {
    fn create(dir: &Path) -> Optimistic {
        let db = OptimisticTxDatabase::builder(dir).cache_size(MEMORY as u64).open().unwrap();
        let keyspace = db.keyspace("default", options).unwrap();
        Optimistic { db, keyspace }
    }

    fn fill(&self, entries: &[Entry]) {
        let mut tx = self.db.write_tx().unwrap();
        for entry in entries {
            tx.insert(&self.keyspace, entry.key, entry.value);
        }
        tx.commit().unwrap().unwrap();
    }

    fn update(&self, key: &Key, change: impl Fn(&mut Vec<u8>)) {
        loop {
            let mut tx = self.db.write_tx().unwrap();
            let found = tx.get(&self.keyspace, key).unwrap().expect("a key that is there");
            let mut value = found.to_vec();
            change(&mut value);
            tx.insert(&self.keyspace, *key, value);
            if tx.commit().unwrap().is_ok() {
                return;
            }
        }
    }
}

impl Store for Fjall {
    type Transactions = Optimistic;

    fn create(dir: &Path, commits: Commits) -> Fjall {
        let db = Database::builder(dir).cache_size(MEMORY as u64).open().unwrap();
        let keyspace = db.keyspace("default", options).unwrap();
        let durability = (commits == Commits::Durable).then_some(PersistMode::SyncData);
        Fjall { db, keyspace, durability }
    }

    fn put(&self, entry: &Entry) {
        self.keyspace.insert(entry.key, entry.value).unwrap();
        if let Some(mode) = self.durability {
            self.db.persist(mode).unwrap();
        }
    }

    fn write(&self, entries: &[Entry]) {
        let mut batch = self.db.batch().durability(self.durability);
        for entry in entries {
            batch.insert(&self.keyspace, entry.key, entry.value);
        }
        batch.commit().unwrap();
    }

    fn load_sorted(&self, entries: impl Iterator<Item = Entry>) {
        let mut ingestion = self.keyspace.start_ingestion().unwrap();
        for entry in entries {
            ingestion.write(entry.key, entry.value).unwrap();
        }
        ingestion.finish().unwrap();
    }

    /// Flushes the memtable and merges all tables.
    fn settle(&mut self) {
        self.keyspace.rotate_memtable_and_wait().unwrap();
        self.keyspace.major_compact().unwrap();
    }
}
