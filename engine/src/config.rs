//! What a user can set.

use crate::error::{Error, Result};
use std::time::Duration;

/// How a commit becomes durable: safe against a loss of power.
///
/// In every mode a kill of the process loses nothing that was acknowledged, and what a
/// loss of power leaves is a prefix of the commit order, never a hole.
///
/// ```
/// use lightning_db::{LightningDbConfig, WalSyncMode};
/// use std::time::Duration;
/// let wal_sync_mode = WalSyncMode::Periodic { interval: Duration::from_secs(1) };
/// let config = LightningDbConfig { wal_sync_mode, ..Default::default() };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WalSyncMode {
    /// Every commit returns only once it is durable. Concurrent commits share a sync.
    Sync,
    /// Commits return at once; the log is synced every `interval` while there is something
    /// to sync. A loss of power loses at most the commits of the last interval plus one sync; where a
    /// sync takes longer than the interval, those of the last two syncs.
    Periodic {
        /// Time between syncs.
        interval: Duration,
    },
    /// **The default: a loss of power may lose the newest commits.** Like `Periodic` with
    /// [`LightningDbConfig::wal_sync_interval`] (10 ms).
    #[default]
    Async,
}

/// How one commit becomes durable, overriding [`WalSyncMode`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, Durability, LightningDbConfig};
/// let db = Database::create(&path, LightningDbConfig::durable())?;
/// db.put_with("cache", "again", Durability::Async)?; // need not wait for the disk
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// As the database's [`WalSyncMode`] says.
    #[default]
    Default,
    /// Return only once the commit is durable.
    Sync,
    /// Return at once.
    Async,
}

/// Block compression. Kept for a block only where it saves at least an eighth.
///
/// ```
/// use lightning_db::Compression;
/// assert_eq!(Compression::from_u32(1), Some(Compression::Zstd));
/// assert_eq!(u32::from(Compression::Lz4), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Compression {
    /// Blocks are stored as they are.
    None = 0,
    /// Zstandard: smallest.
    Zstd = 1,
    /// LZ4: fastest to read.
    Lz4 = 2,
    /// Snappy.
    Snappy = 3,
}

impl Compression {
    /// The compression with this number, as in [`LightningDbConfig::compression_type`].
    ///
    /// ```
    /// # use lightning_db::Compression;
    /// assert_eq!(Compression::from_u32(u32::from(Compression::Lz4)), Some(Compression::Lz4));
    /// assert_eq!(Compression::from_u32(99), None);
    /// ```
    pub fn from_u32(number: u32) -> Option<Compression> {
        match number {
            0 => Some(Compression::None),
            1 => Some(Compression::Zstd),
            2 => Some(Compression::Lz4),
            3 => Some(Compression::Snappy),
            _ => None,
        }
    }
}

impl From<Compression> for u32 {
    fn from(c: Compression) -> u32 {
        c as u32
    }
}

/// How what is written to a keyspace comes into its tree.
///
/// Everything does in the end: no answer differs, and no promise. On a full disk a range delete frees the sstables
/// that it covers at once, and a tree only if it covers all of it; what it frees else comes with a merge.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// use lightning_db::{Database, KeyspaceOptions, LightningDbConfig, StorageKind};
/// let db = Database::create(&path, LightningDbConfig::default())?;
/// let storage_kind = Some(StorageKind::BTree);
/// let options = KeyspaceOptions { storage_kind, ..Default::default() };
/// let books = db.keyspace_with("books", options)?;
/// assert_eq!(books.storage_kind()?, StorageKind::BTree);
/// books.set_storage_kind(StorageKind::Hybrid)?;
/// # assert_eq!(books.storage_kind()?, StorageKind::Hybrid);
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StorageKind {
    /// Memtables are flushed to sstables, which are merged into the tree when there are more than eight of
    /// them, when reads have looked into them so often that the merge is paid for, when they hold many large values,
    /// of which some may be overwritten, or when nothing is written: writes are cheapest.
    #[default]
    Hybrid,
    /// Memtables are merged into the tree directly, without sstables between: reads look in fewest places,
    /// and each memtable rewrites every leaf that it has a key of. Where a merge fails, for want of space
    /// say, the memtable becomes an sstable, which is merged as soon as that is possible; until then those
    /// behind it do too.
    BTree,
}

impl StorageKind {
    /// As the manifest writes it.
    pub(crate) fn number(self) -> u8 {
        match self {
            StorageKind::Hybrid => 0,
            StorageKind::BTree => 1,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<StorageKind> {
        [StorageKind::Hybrid, StorageKind::BTree].into_iter().find(|kind| kind.number() == number)
    }
}

/// Settings of a database. A plain struct: set what you care about and take the rest from
/// [`Default`].
///
/// ```
/// use lightning_db::{LightningDbConfig, WalSyncMode};
/// let config = LightningDbConfig {
///     wal_sync_mode: WalSyncMode::Sync,
///     compression_type: 2, // LZ4
///     ..Default::default()
/// };
/// assert_eq!(config.memtable_size, 64 << 20);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LightningDbConfig {
    /// Bytes of memory for what was read: half of it for the first pages of the file of the trees, in huge pages
    /// where the system has them; up to a quarter for hints to where entries are in trees; the rest for decoded
    /// blocks of sstables, and nodes of trees that are read in no other way. Settled data is read fastest
    /// where half of this holds all of it. Default: 64 MiB.
    pub cache_size: usize,
    /// Whether blocks of sstables and large values in their files are compressed. Trees are not, whose pages are read
    /// in place; the log has [`wal_compression`](LightningDbConfig::wal_compression). Default: true.
    pub compression_enabled: bool,
    /// 0 none, 1 Zstd, 2 LZ4, 3 Snappy; see [`Compression`]. For what
    /// [`compression_enabled`](LightningDbConfig::compression_enabled) is for. Default: 1.
    pub compression_type: u32,
    /// Level of Zstd, 1 (fastest) to 19 (smallest). Default: 3.
    pub compression_level: i32,
    /// Bytes of memory that collect writes before they are flushed to an sstable; sooner if they take more than
    /// twice as many bytes of log, as commits do that wait for the disk one by one. Default: 64 MiB.
    pub memtable_size: usize,
    /// `false`: commits are made durable by [`checkpoint`](crate::Database::checkpoint), `close`, a
    /// flush, a commit with [`Durability::Sync`], or when as much is not durable as the next opening
    /// could copy (1 MiB at first, more in a busy log). The log is still written, so that a kill of the
    /// process loses nothing and a loss of power leaves a prefix of the commit order.
    /// Default: true.
    pub wal_enabled: bool,
    /// How commits become durable. Default: [`WalSyncMode::Async`].
    pub wal_sync_mode: WalSyncMode,
    /// Longest time between syncs of the log while there is something to sync, for commits that do
    /// not wait for the disk; `Periodic` has its own. Default: 10 ms.
    pub wal_sync_interval: Duration,
    /// Largest size of a log segment file in bytes. The first has 1 MiB or this, whichever is
    /// less; under load they grow to this. Default: 64 MiB.
    pub wal_segment_size: u64,
    /// Whether commits of more than 4 KiB are compressed in the log, with LZ4, where that saves an eighth: for slow
    /// disks and for values that compress well. It takes the writer's time. Default: `false`.
    pub wal_compression: bool,
    /// Bytes of log segments, at most, that are kept for subscriptions which have not read them, beyond those that
    /// recovery needs. What has to go is lost to the subscription: it gets [`Lagged`](crate::Error::Lagged). On a
    /// full disk all of them go. Nothing is kept without a subscription. Default: 1 GiB.
    pub wal_retention: u64,
    /// Longest key in bytes, at most 65,535. Default: 1024.
    pub max_key_size: usize,
    /// A value of more bytes goes to a file of its own, a *blob*, which is synced before the put is logged;
    /// log, memory, sstables and trees have a pointer to it. From 64 bytes to 16 MiB. Default: 1 MiB. What it was
    /// when a value was written does not matter later.
    pub blob_threshold: usize,
    /// Whether everything is read from its file, and compared with its checksum, each time it is looked at, instead
    /// of once: nothing that is settled is kept in memory or read in place, so `cache_size` and `mmap_size` say
    /// nothing. It finds damage that comes after a first read, and makes reads many times slower. Of an sstable index,
    /// filter and range deletes are still read and compared once, when it is opened.
    /// Default: `false`.
    pub enable_paranoia_checks: bool,
    /// Bytes of memory for what is written, at most; `cache_size` comes on top of it. A quarter is for memtables that
    /// wait to be flushed, of which there are four at most. A quarter is for what open transactions hold, and no commit
    /// is larger: more is [`CommitTooLarge`](crate::Error::CommitTooLarge). A quarter is for memtables that
    /// were flushed, and are kept for snapshots and transactions alone: if those are more, the oldest of these end, but never the youngest, and
    /// fail with [`SnapshotTooOld`](crate::Error::SnapshotTooOld). Default: 2 GiB.
    pub max_memory: usize,
    /// Bytes of a page of the tree, from 4 KiB to 64 KiB: what a read takes in at once. What it was when
    /// the first tree was written stays.
    pub page_size: usize,
    /// Bytes of the file of the trees that are mapped, at most, to read in place what `cache_size` has no room
    /// for: of a larger file that is read through the cache. `None`: as many as there are. `Some(0)`: none. A
    /// place of a mapped file that the device cannot read, or that another program cuts off, ends the process
    /// with a signal, where a read would return an error. Default: `None`.
    pub mmap_size: Option<usize>,
    /// Kind of the keyspaces that are created without one of their own, the default keyspace of a new
    /// database among them. Those that exist keep theirs, see
    /// [`set_storage_kind`](crate::Keyspace::set_storage_kind). Default: [`StorageKind::Hybrid`].
    pub storage_kind: StorageKind,
    /// Has no effect: there is one log, the good one. Here so that configurations compile.
    pub improved_wal: bool,
    /// Has no effect: there is one log, the good one. Here so that configurations compile.
    pub use_improved_wal: bool,
    /// Transactions that may be open at once. Default: 1000.
    pub max_active_transactions: usize,
    /// How long a transaction may be open, unless it says otherwise itself: one that is open for longer is ended
    /// by the background, which gives back what it holds, and each of its verbs fails with
    /// [`TransactionTimeout`](crate::Error::TransactionTimeout); writes and commits do so at once, reads once it was
    /// ended. Also how long a write without a transaction waits
    /// for the locks of transactions. `Duration::MAX`: for ever. Default: 30 seconds.
    pub transaction_timeout: Duration,
    /// How long what was overwritten or deleted is kept for snapshots and transactions that may look at it, at most:
    /// those that are older end, and fail with [`SnapshotTooOld`](crate::Error::SnapshotTooOld) or
    /// [`TransactionTimeout`](crate::Error::TransactionTimeout). `Duration::MAX`: as long as they are there, and memory
    /// allows. Default: `Duration::MAX`.
    pub version_retention: Duration,
    /// Has no effect: there is one way to commit. Here so that configurations compile.
    pub use_optimized_transactions: bool,
    /// Has no effect: there is one cache. Here so that configurations compile.
    pub use_lock_free_cache: bool,
    /// Has no effect: what every CPU of the target has is used, and more would not be faster. Here so that
    /// configurations compile.
    pub use_simd: bool,
}

impl Default for LightningDbConfig {
    fn default() -> Self {
        LightningDbConfig {
            cache_size: 64 << 20,
            compression_enabled: true,
            compression_type: 1,
            compression_level: 3,
            memtable_size: 64 << 20,
            wal_enabled: true,
            wal_sync_mode: WalSyncMode::Async,
            wal_sync_interval: Duration::from_millis(10),
            wal_segment_size: 64 << 20,
            wal_compression: false,
            wal_retention: 1 << 30,
            max_key_size: 1024,
            blob_threshold: 1 << 20,
            enable_paranoia_checks: false,
            max_memory: 2 << 30,
            page_size: 4096,
            mmap_size: None,
            storage_kind: StorageKind::Hybrid,
            improved_wal: true,
            use_improved_wal: true,
            max_active_transactions: 1000,
            transaction_timeout: Duration::from_secs(30),
            version_retention: Duration::MAX,
            use_optimized_transactions: true,
            use_lock_free_cache: true,
            use_simd: true,
        }
    }
}

/// Values above this, 4 GiB - 1, are [`Error::ValueTooLarge`].
///
/// ```
/// use lightning_db::MAX_VALUE_BYTES;
/// assert_eq!(MAX_VALUE_BYTES, (4 << 30) - 1);
/// ```
pub const MAX_VALUE_BYTES: u64 = u32::MAX as u64;

/// A value that is longer never stands in log, memtable or files of entries, whatever the configuration says.
pub(crate) const INLINE_BYTES_MAX: u64 = 16 << 20;

/// A table of hints is never smaller.
const HINT_BYTES_MIN: usize = 1 << 10;

impl LightningDbConfig {
    /// The default settings with [`WalSyncMode::Sync`]: what a commit acknowledged survives
    /// a loss of power.
    ///
    /// ```
    /// use lightning_db::{LightningDbConfig, WalSyncMode};
    /// assert_eq!(LightningDbConfig::durable().wal_sync_mode, WalSyncMode::Sync);
    /// ```
    pub fn durable() -> LightningDbConfig {
        LightningDbConfig { wal_sync_mode: WalSyncMode::Sync, ..Default::default() }
    }

    /// The compression that new blocks get.
    pub(crate) fn compression(&self) -> Compression {
        match self.compression_enabled {
            true => Compression::from_u32(self.compression_type).unwrap_or(Compression::None),
            false => Compression::None,
        }
    }

    /// How much of the file of the trees is mapped, at most.
    pub(crate) fn map_bytes_max(&self) -> u64 {
        match self.enable_paranoia_checks {
            true => 0,
            false => self.mmap_size.map_or(u64::MAX, |bytes| bytes as u64),
        }
    }

    /// Bytes for all that is kept of files.
    fn cache_bytes(&self) -> usize {
        if self.enable_paranoia_checks { 0 } else { self.cache_size }
    }

    /// Bytes for the first pages of the file of the trees: half of the cache.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.cache_bytes() / 2
    }

    /// Bytes of the largest table of hints: an eighth of the cache, rounded down to a power of two. Smaller
    /// ones whose place it took, each at most half as large as the next, may live beside it.
    pub(crate) fn hint_bytes_max(&self) -> usize {
        match self.cache_bytes() / 8 {
            ..HINT_BYTES_MIN => 0,
            eighth => 1 << eighth.ilog2(),
        }
    }

    /// Bytes of the cache that are not kept for pages and hints.
    pub(crate) fn block_bytes(&self) -> usize {
        self.cache_bytes() - 2 * self.hint_bytes_max() - self.frame_bytes()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let check = |ok: bool, what: &'static str, why: String| match ok {
            true => Ok(()),
            false => Err(Error::InvalidArgument { what, why }),
        };
        check(
            Compression::from_u32(self.compression_type).is_some(),
            "compression_type",
            format!("{} is none of 0 (none), 1 (Zstd), 2 (LZ4), 3 (Snappy)", self.compression_type),
        )?;
        check(
            (1..=19).contains(&self.compression_level),
            "compression_level",
            format!("{} is not between 1 and 19", self.compression_level),
        )?;
        check(
            (1..=65_535).contains(&self.max_key_size),
            "max_key_size",
            format!("{} is not between 1 and 65,535", self.max_key_size),
        )?;
        check(
            (64..=INLINE_BYTES_MAX).contains(&(self.blob_threshold as u64)),
            "blob_threshold",
            format!("{} bytes is not between 64 bytes and 16 MiB", self.blob_threshold),
        )?;
        check(
            self.page_size.is_power_of_two() && (4 << 10..=64 << 10).contains(&self.page_size),
            "page_size",
            format!("{} bytes is not a power of two from 4 KiB to 64 KiB", self.page_size),
        )?;
        check(
            (4 << 10..=4 << 30).contains(&self.memtable_size),
            "memtable_size",
            format!("{} bytes is not between 4 KiB and 4 GiB", self.memtable_size),
        )?;
        check(
            (16 << 10..=1 << 30).contains(&self.wal_segment_size),
            "wal_segment_size",
            format!("{} bytes is not between 16 KiB and 1 GiB", self.wal_segment_size),
        )?;
        check(
            self.max_memory / 4 >= self.memtable_size,
            "max_memory",
            format!("{} bytes is less than four memtables", self.max_memory),
        )
    }
}
