//! Lightning DB itself.

use crate::{
    store::{
        Commits, Direction, Lookup, MEMORY, Ordered, Reader, Store, Transactions, WRITE_BUFFER,
    },
    workload::{Entry, Key},
};
use lightning_db::{Database, LightningDbConfig, Snapshot, WalSyncMode, WriteBatch};
use std::{path::Path, sync::Arc};

pub(crate) struct Lightning(Arc<Database>);

/// Half of the memory is for the cache of what is not settled, half for the map of what is; the
/// memtables come on top, as everywhere.
fn config(commits: Commits) -> LightningDbConfig {
    LightningDbConfig {
        cache_size: MEMORY / 2,
        mmap_size: Some(MEMORY / 2),
        memtable_size: WRITE_BUFFER,
        max_memory: MEMORY / 2 + 4 * WRITE_BUFFER,
        compression_enabled: false,
        wal_sync_mode: match commits {
            Commits::Fast => WalSyncMode::Async,
            Commits::Durable => WalSyncMode::Sync,
        },
        ..Default::default()
    }
}

impl Lookup for Lightning {
    type Reader<'a> = &'a Database;

    fn reader(&self) -> &Database {
        &self.0
    }

    fn read_together(&self, keys: &[Key], mut with: impl FnMut(&[u8])) {
        let tx = self.0.transaction().read_only().begin().unwrap();
        for key in keys {
            with(&tx.get(key).unwrap().expect("a key that is there"));
        }
        tx.commit().unwrap();
    }

    fn snapshot(&self) -> Option<impl Reader + '_> {
        Some(self.0.snapshot().unwrap())
    }
}

impl Reader for Snapshot {
    fn get(&mut self, key: &Key) -> Option<impl AsRef<[u8]>> {
        Snapshot::get(self, key).unwrap()
    }
}

impl Reader for &Database {
    fn get(&mut self, key: &Key) -> Option<impl AsRef<[u8]>> {
        Database::get(self, key).unwrap()
    }

    fn get_batch(&mut self, keys: &[Key], mut with: impl FnMut(&[u8])) {
        for value in Database::get_batch(self, keys).unwrap() {
            with(&value.expect("a key that is there"));
        }
    }

    fn get_batch_lent(&mut self, keys: &[Key], mut with: impl FnMut(&[u8])) -> bool {
        let each = |_, value: Option<&[u8]>| with(value.expect("a key that is there"));
        self.get_batch_with(keys, each).unwrap();
        true
    }
}

impl Ordered for Lightning {
    fn scan(db: &mut &Database, from: &Key, count: usize, mut with: impl FnMut(&[u8])) {
        let mut scan = db.range(from..).unwrap();
        for _ in 0..count {
            match scan.next_ref().unwrap() {
                Some((_, value)) => with(value),
                None => return,
            }
        }
    }

    fn scan_all(db: &mut &Database, direction: Direction, mut with: impl FnMut(&[u8])) {
        match direction {
            Direction::Forward => db.for_each(.., |_, value| with(value)).unwrap(),
            Direction::Reverse => {
                let mut scan = db.range(..).unwrap();
                while let Some((_, value)) = scan.next_back_ref().unwrap() {
                    with(value);
                }
            }
        }
    }

    fn scan_copied(db: &mut &Database, mut with: impl FnMut(Vec<u8>, Vec<u8>)) {
        for entry in db.iter().unwrap() {
            let (key, value) = entry.unwrap();
            with(key, value);
        }
    }
}

impl Transactions for Lightning {
    fn create(dir: &Path) -> Lightning {
        <Lightning as Store>::create(dir, Commits::Fast)
    }

    fn fill(&self, entries: &[Entry]) {
        self.write(entries);
    }

    fn update(&self, key: &Key, change: impl Fn(&mut Vec<u8>)) {
        self.0
            .execute_transaction(|tx| {
                let mut value = tx.get(key)?.expect("a key that is there");
                change(&mut value);
                tx.put(key, value)
            })
            .unwrap();
    }
}

impl Store for Lightning {
    type Transactions = Lightning;

    fn create(dir: &Path, commits: Commits) -> Lightning {
        Lightning(Database::create(dir, config(commits)).unwrap())
    }

    fn put(&self, entry: &Entry) {
        self.0.put(entry.key, entry.value).unwrap();
    }

    fn write(&self, entries: &[Entry]) {
        let mut batch = WriteBatch::with_capacity(size_of_val(entries) * 5 / 4);
        for entry in entries {
            batch.put(entry.key, entry.value);
        }
        self.0.write(batch).unwrap();
    }

    fn load_sorted(&self, entries: impl Iterator<Item = Entry>) {
        self.0.bulk_load(entries.map(|Entry { key, value }| (key, value))).unwrap();
    }

    fn settle(&mut self) {
        self.0.compact().unwrap();
    }
}
