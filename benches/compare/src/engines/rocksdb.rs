//! RocksDB.
//!
//! The options of the page "Setup Options and Basic Tuning" of its wiki, blocks of 4 KiB instead of
//! 16 (the default; better for gets from memory), a hash index in data blocks ("Data Block Hash
//! Index"), and a table made outside and ingested for sorted loads ("Creating and Ingesting SST
//! files"). Commits that do not wait reach the system's buffers, which is the default.

use crate::{
    store::{
        Commits, Direction, Lookup, MEMORY, Ordered, Reader, Store, Transactions, WRITE_BUFFER,
    },
    workload::{Entry, Key},
};
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB, DBCompressionType,
    DataBlockIndexType, ErrorKind, IngestExternalFileOptions, IteratorMode,
    OptimisticTransactionDB, Options, SstFileWriter, WriteBatch, WriteOptions,
};
use std::path::{Path, PathBuf};

pub(crate) struct RocksDb {
    db: DB,
    options: Options,
    writes: WriteOptions,
    /// A table to be ingested.
    table: PathBuf,
}

fn blocks() -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(MEMORY));
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    blocks
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(6);
    options.set_bytes_per_sync(1 << 20);
    options.set_block_based_table_factory(&blocks());
    options
}

impl Lookup for RocksDb {
    type Reader<'a> = &'a DB;

    fn reader(&self) -> &DB {
        &self.db
    }
}

impl Reader for &DB {
    fn get(&mut self, key: &Key) -> Option<impl AsRef<[u8]>> {
        DB::get(self, key).unwrap()
    }
}

impl Ordered for RocksDb {
    fn scan(db: &mut &DB, from: &Key, count: usize, mut with: impl FnMut(&[u8])) {
        let mut entries = db.raw_iterator();
        entries.seek(from);
        for _ in 0..count {
            match entries.value() {
                Some(value) => with(value),
                None => break,
            }
            entries.next();
        }
        entries.status().unwrap();
    }

    fn scan_all(db: &mut &DB, direction: Direction, mut with: impl FnMut(&[u8])) {
        let mut entries = db.raw_iterator();
        match direction {
            Direction::Forward => entries.seek_to_first(),
            Direction::Reverse => entries.seek_to_last(),
        }
        while let Some(value) = entries.value() {
            with(value);
            match direction {
                Direction::Forward => entries.next(),
                Direction::Reverse => entries.prev(),
            }
        }
        entries.status().unwrap();
    }

    fn scan_copied(db: &mut &DB, mut with: impl FnMut(Vec<u8>, Vec<u8>)) {
        for entry in db.iterator(IteratorMode::Start) {
            let (key, value) = entry.unwrap();
            with(key.into_vec(), value.into_vec());
        }
    }
}

/// RocksDB with transactions that find out at their commit whether they were disturbed.
pub(crate) struct Optimistic(OptimisticTransactionDB);

impl Transactions for Optimistic {
    fn create(dir: &Path) -> Optimistic {
        Optimistic(OptimisticTransactionDB::open(&options(), dir.join("db")).unwrap())
    }

    fn fill(&self, entries: &[Entry]) {
        let tx = self.0.transaction();
        for entry in entries {
            tx.put(entry.key, entry.value).unwrap();
        }
        tx.commit().unwrap();
    }

    fn update(&self, key: &Key, change: impl Fn(&mut Vec<u8>)) {
        loop {
            let tx = self.0.transaction();
            let mut value = tx.get_for_update(key, true).unwrap().expect("a key that is there");
            change(&mut value);
            tx.put(key, value).unwrap();
            match tx.commit() {
                Ok(()) => return,
                Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::TryAgain) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Store for RocksDb {
    type Transactions = Optimistic;

    fn create(dir: &Path, commits: Commits) -> RocksDb {
        let options = options();
        let db = DB::open(&options, dir.join("db")).unwrap();
        let mut writes = WriteOptions::default();
        writes.set_sync(commits == Commits::Durable);
        RocksDb { db, options, writes, table: dir.join("table.sst") }
    }

    fn put(&self, entry: &Entry) {
        self.db.put_opt(entry.key, entry.value, &self.writes).unwrap();
    }

    fn write(&self, entries: &[Entry]) {
        let mut batch = WriteBatch::default();
        for entry in entries {
            batch.put(entry.key, entry.value);
        }
        self.db.write_opt(batch, &self.writes).unwrap();
    }

    fn load_sorted(&self, entries: impl Iterator<Item = Entry>) {
        let mut table = SstFileWriter::create(&self.options);
        table.open(&self.table).unwrap();
        for entry in entries {
            table.put(entry.key, entry.value).unwrap();
        }
        table.finish().unwrap();
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db.ingest_external_file_opts(&options, vec![&self.table]).unwrap();
    }

    /// Flushes the memtable and merges all tables into the lowest level.
    fn settle(&mut self) {
        self.db.flush().unwrap();
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
    }
}
