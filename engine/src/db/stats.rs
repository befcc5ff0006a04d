//! What the database holds and has done.

use super::Db;
use crate::{config::StorageKind, format::record::RECORD_HEADER_BYTES};
use std::time::Duration;

/// Numbers about a database at one moment. See [`Database::stats`](crate::Database::stats).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// use lightning_db::{Database, LightningDbConfig};
/// let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put(b"key", b"value")?;
/// let stats = db.stats()?;
/// assert_eq!(stats.visible_seq, 1);
/// assert_eq!(stats.keyspaces.len(), 1);
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DatabaseStats {
    /// SeqNo of the newest operation that readers see: how many there were since creation.
    pub visible_seq: u64,
    /// Everything up to this position of the log is durable.
    pub durable_lsn: u64,
    /// The end of the log.
    pub log_end_lsn: u64,
    /// Commits since opening.
    pub commits: u64,
    /// Bytes of their operations as the log has them, before compression: keys, values, and a few bytes for each.
    pub operation_bytes: u64,
    /// Bytes of their records in the log: the same, perhaps compressed, and a header for each commit.
    pub log_bytes: u64,
    /// Bytes of all log segment files, spares included.
    pub wal_file_bytes: u64,
    /// Bytes of memory held by memtables, pinned ones included.
    pub memtable_bytes: u64,
    /// Bytes of entries in the memtables that are live.
    pub memtable_used_bytes: u64,
    /// Memtables that wait to be flushed.
    pub sealed_memtables: u64,
    /// Bytes of memory held by cached blocks.
    pub cache_bytes: u64,
    /// Block reads answered from the cache since opening.
    pub cache_hits: u64,
    /// Block reads that went to the disk since opening.
    pub cache_misses: u64,
    /// Flushes since opening.
    pub flushes: u64,
    /// Bytes of the sstables written by them.
    pub flushed_bytes: u64,
    /// Merges of sstables since opening.
    pub compactions: u64,
    /// Bytes of the nodes of trees written by them, and by flushes that merge into trees.
    pub compacted_bytes: u64,
    /// Sstables dropped since opening without being merged, because a newer range delete covers all of
    /// each.
    pub tables_dropped: u64,
    /// Bytes of the file of the trees, its free pages included. 0 if there is none yet.
    pub tree_file_bytes: u64,
    /// Of these, those of free pages.
    pub tree_free_bytes: u64,
    /// Large values that something names, each in a file of its own.
    pub blobs: u64,
    /// Bytes of those.
    pub blob_bytes: u64,
    /// All files of large values: besides those, what is being written or waits to be removed.
    pub blob_files: u64,
    /// Bytes of the values in all of them, as far as they are whole, before compression.
    pub blob_file_bytes: u64,
    /// Bytes of large values committed since opening.
    pub blob_bytes_written: u64,
    /// How often a commit waited for a flush since opening.
    pub stalls: u64,
    /// Commits that opening brought back from the log.
    pub recovered_commits: u64,
    /// Versions that readers still hold besides the current one.
    pub pinned_versions: u64,
    /// Transactions that are open.
    pub open_transactions: u64,
    /// Transactions that were committed since opening.
    pub transactions_committed: u64,
    /// Transactions that ended in another way since opening.
    pub transactions_aborted: u64,
    /// How often since opening a commit found that another had changed what its transaction counted on.
    pub transaction_conflicts: u64,
    /// How long ago the oldest transaction or snapshot that is open began: what was overwritten since is kept for it, but
    /// for transactions under `ReadCommitted`. Scans that outlive theirs do not count.
    pub oldest_snapshot_age: Option<Duration>,
    /// Snapshots that were ended since opening because they were too old.
    pub snapshots_ended: u64,
    /// Each keyspace, by id.
    pub keyspaces: Vec<KeyspaceStats>,
}

impl DatabaseStats {
    /// How many bytes of records of the log, sstables, nodes of trees and large values were written since opening
    /// for each byte of an operation that was committed. What the log is filled up with before a sync is not counted,
    /// nor is the manifest; what opening brought back from the log counts once it is flushed, though it was
    /// committed before. `None`: nothing was committed.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// let db = Database::create(&path, LightningDbConfig::default())?;
    /// assert!(db.stats()?.write_amplification().is_none());
    /// (0..100u32).try_for_each(|n| db.put(n.to_be_bytes(), [7; 1000]))?;
    /// let to_the_log = db.stats()?.write_amplification().unwrap();
    /// db.compact()?;
    /// assert!(to_the_log > 1.0 && db.stats()?.write_amplification().unwrap() > to_the_log);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn write_amplification(&self) -> Option<f64> {
        let large = self.blob_bytes_written;
        let written = self.log_bytes + self.flushed_bytes + self.compacted_bytes + large;
        let asked_for = self.operation_bytes + large;
        (asked_for > 0).then(|| written as f64 / asked_for as f64)
    }

    /// How many bytes the files of log, sstables, trees and large values have for each byte that is in use in
    /// them: the used pages of trees, the entries of sstables before compression, what memtables hold, the
    /// large values that any of these names. It counts
    /// what is deleted or written anew, and not merged yet, as used. `None`: nothing is in use.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// let db = Database::create(&path, LightningDbConfig::default())?;
    /// assert!(db.stats()?.space_amplification().is_none());
    /// (0..100u32).try_for_each(|n| db.put(n.to_be_bytes(), [7; 1000]))?;
    /// assert!(db.stats()?.space_amplification().unwrap() > 1.0); // of the log's 2 MiB little is used
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn space_amplification(&self) -> Option<f64> {
        let of = |number: fn(&KeyspaceStats) -> u64| self.keyspaces.iter().map(number).sum::<u64>();
        let files = self.wal_file_bytes + self.tree_file_bytes + of(|k| k.table_bytes);
        let files = files + self.blob_file_bytes;
        let trees = self.tree_file_bytes - self.tree_free_bytes;
        let used = trees + of(|k| k.raw_bytes) + self.memtable_used_bytes + self.blob_bytes;
        (used > 0).then(|| files as f64 / used as f64)
    }
}

/// Numbers about a keyspace. Entries still in memtables are not counted.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// for keyspace in db.stats()?.keyspaces {
///     println!("{}: {} bytes in {} tables", keyspace.name, keyspace.table_bytes, keyspace.tables);
/// }
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceStats {
    /// Its name.
    pub name: String,
    /// How what is written to it comes into its tree.
    pub storage_kind: StorageKind,
    /// How many sstables hold it.
    pub tables: u64,
    /// Bytes of those.
    pub table_bytes: u64,
    /// Bytes of keys and values in those, before compression.
    pub raw_bytes: u64,
    /// Bytes of memory held by their indexes and filters.
    pub index_bytes: u64,
    /// Entries in those, tombstones included; a key counts once for each that holds it.
    pub table_entries: u64,
    /// How many nodes of its tree lead from the root to an entry, both included. 0: it has none.
    pub tree_depth: u64,
}

impl Db {
    pub(crate) fn stats(&self) -> DatabaseStats {
        self.collect();
        let versions = self.versions.all();
        let version = &versions[0];
        let cache = self.blocks.cache.stats();
        let mut memtables: Vec<_> = versions.iter().flat_map(|v| v.memtables()).collect();
        memtables.sort_by_key(|m| std::sync::Arc::as_ptr(m));
        memtables.dedup_by_key(|m| std::sync::Arc::as_ptr(m));
        let (tree_file_bytes, tree_free_bytes) =
            self.trees.lock().as_ref().map_or((0, 0), |pager| pager.size());
        let (log_end, commits, log_bytes) = {
            let sequencer = self.sequencer.lock();
            (sequencer.tail.last_end(), sequencer.commits, sequencer.committed_bytes)
        };
        let blobs = self.blobs.stats();
        let used = version
            .memtables()
            .filter(|memtable| !memtable.is_empty())
            .map(|memtable| memtable.reserved_bytes() as u64);
        DatabaseStats {
            visible_seq: self.visible().0,
            durable_lsn: self.wal.durable().0,
            log_end_lsn: log_end.0,
            commits,
            operation_bytes: log_bytes - commits * RECORD_HEADER_BYTES as u64
                + self.metrics.log_saved_bytes.get(),
            log_bytes,
            wal_file_bytes: self.wal.file_bytes(),
            memtable_bytes: memtables.iter().map(|m| m.memory_bytes() as u64).sum(),
            memtable_used_bytes: used.sum(),
            sealed_memtables: version.sealed.len() as u64,
            cache_bytes: cache.bytes as u64,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            flushes: self.metrics.flushes.get(),
            flushed_bytes: self.metrics.flushed_bytes.get(),
            compactions: self.metrics.compactions.get(),
            compacted_bytes: self.metrics.compacted_bytes.get(),
            tables_dropped: self.metrics.tables_dropped.get(),
            tree_file_bytes,
            tree_free_bytes,
            blobs: blobs.live,
            blob_bytes: blobs.live_bytes,
            blob_files: blobs.files,
            blob_file_bytes: blobs.file_bytes,
            blob_bytes_written: self.metrics.blob_bytes.get(),
            stalls: self.metrics.stalls.get(),
            recovered_commits: self.metrics.recovered_commits.get(),
            pinned_versions: versions.len() as u64 - 1,
            open_transactions: self.transactions.open.transactions() as u64,
            transactions_committed: self.transactions.committed.get(),
            transactions_aborted: self.transactions.aborted.get(),
            transaction_conflicts: self.transactions.conflicts.get(),
            oldest_snapshot_age: self
                .transactions
                .open
                .oldest()
                .map(|began| self.env.clock().now().saturating_sub(began)),
            snapshots_ended: self.metrics.snapshots_ended.get(),
            keyspaces: version
                .keyspaces
                .iter()
                .map(|k| KeyspaceStats {
                    name: k.name.to_string(),
                    storage_kind: k.storage_kind,
                    tables: k.runs.len() as u64,
                    table_bytes: k.runs.iter().map(|r| r.summary().file_bytes).sum(),
                    raw_bytes: k.runs.iter().map(|r| r.properties().raw_bytes()).sum(),
                    index_bytes: k.runs.iter().map(|r| r.memory_bytes() as u64).sum(),
                    table_entries: k.runs.iter().map(|r| r.summary().contents.entries).sum(),
                    tree_depth: k.tree.as_ref().map_or(0, |tree| u64::from(tree.root.level) + 1),
                })
                .collect(),
        }
    }
}
