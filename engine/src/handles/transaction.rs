//! Transactions: reads and writes of many keys as one step.

mod builder;
mod scan;
mod state;

pub use builder::{IsolationLevel, TransactionBuilder, TransactionOptions};
pub use scan::TransactionScan;

pub(crate) use builder::Settings;
pub(crate) use state::{Attempt, Core};

use super::{Handle, KeyRange, Keyspace, range::owned, snapshot::half_open};
use crate::{
    config::MAX_VALUE_BYTES,
    db::scan::{Bounds, half_open as as_half_open, is_inverted, prefix_bounds},
    error::{Error, Result},
    types::{KeyspaceId, SeqNo},
};
use std::{fmt, sync::Arc};

/// The number of a transaction: see [`Database::begin_transaction`](crate::Database::begin_transaction).
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig, TransactionId};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// let tx: TransactionId = db.begin_transaction()?;
/// db.put_tx(tx, b"key", b"value")?;
/// db.commit_transaction(tx)?;
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub(crate) u64);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionId({})", self.0)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place within a transaction that it can go back to: see [`Transaction::savepoint`].
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig, Savepoint};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// let tx = db.transaction().begin()?;
/// let savepoint: Savepoint = tx.savepoint()?;
/// # tx.rollback_to(savepoint)?;
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savepoint {
    transaction: u64,
    number: u64,
}

/// Reads and writes that become one commit, or nothing. Its writes are seen by itself at once, and by others when
/// it is committed. Dropping it aborts it.
///
/// How it stands to what others do at the same time is its [`IsolationLevel`]. By default it reads one moment, like a
/// [`Snapshot`](crate::Snapshot), and its commit fails with
/// [`TransactionConflict`](crate::Error::TransactionConflict) if another commit wrote one of its keys since that
/// moment. [`Database::execute_transaction`](crate::Database::execute_transaction) tries again by itself.
///
/// It may be used from several threads, one call after the other. It belongs to one keyspace;
/// [`of`](Transaction::of) gives the same transaction in another.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// let db = Database::create(&path, LightningDbConfig::default())?;
/// let tx = db.transaction().begin()?;
/// tx.put("key", "value")?;
/// assert_eq!(tx.get("key")?.as_deref(), Some(&b"value"[..])); // its own write
/// assert_eq!(db.get("key")?, None); // nobody else's yet
/// tx.commit()?;
/// assert_eq!(db.get("key")?.as_deref(), Some(&b"value"[..]));
/// # Ok::<(), lightning_db::Error>(())
/// ```
pub struct Transaction {
    core: Arc<Core>,
    /// Dropped behind the core.
    handle: Arc<Handle>,
    keyspace: KeyspaceId,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Transaction");
        f.field("id", &self.id()).field("keyspace", &self.keyspace).finish_non_exhaustive()
    }
}

impl Transaction {
    pub(crate) fn new(handle: Arc<Handle>, core: Arc<Core>, keyspace: KeyspaceId) -> Transaction {
        Transaction { core, handle, keyspace }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Its number.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let (one, other) = (db.transaction().begin()?, db.transaction().begin()?);
    /// assert_ne!(one.id(), other.id());
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn id(&self) -> TransactionId {
        TransactionId(self.core.id())
    }

    /// The SeqNo of the newest operation of others that its reads see; of a pessimistic transaction that has read
    /// nothing, from now on.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// db.put("key", "value")?;
    /// assert!(tx.seq()? < db.snapshot()?.seq());
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`TransactionEnded`](crate::Error::TransactionEnded),
    /// [`TransactionTimeout`](crate::Error::TransactionTimeout).
    pub fn seq(&self) -> Result<SeqNo> {
        self.core.seq()
    }

    /// The same transaction in another keyspace. Each of them commits and aborts all of it; it is aborted when the
    /// last of them is dropped.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let (users, log) = (db.keyspace("users")?, db.keyspace("log")?);
    /// db.execute_transaction(|tx| {
    ///     tx.of(&users)?.put("1", "Ada")?;
    ///     tx.of(&log)?.put("2026-11-28", "Ada came")
    /// })?;
    /// assert!(users.contains_key("1")? && log.contains_key("2026-11-28")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Error::InvalidArgument) if the keyspace is of another database.
    pub fn of(&self, keyspace: &Keyspace) -> Result<Transaction> {
        if !Arc::ptr_eq(&self.handle, &keyspace.handle) {
            let why = "it is of another database than the transaction".into();
            return Err(Error::InvalidArgument { what: "keyspace", why });
        }
        let (core, handle) = (Arc::clone(&self.core), Arc::clone(&self.handle));
        Ok(Transaction { core, handle, keyspace: keyspace.id })
    }

    /// The value of a key, as the transaction sees it, copied out.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "old")?;
    /// let tx = db.transaction().begin()?;
    /// db.put("key", "new")?;
    /// assert_eq!(tx.get("key")?, Some(b"old".to_vec()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`TransactionEnded`](crate::Error::TransactionEnded),
    /// [`TransactionTimeout`](crate::Error::TransactionTimeout), [`SnapshotTooOld`](crate::Error::SnapshotTooOld),
    /// [`KeyspaceNotFound`](crate::Error::KeyspaceNotFound), [`Closed`](crate::Error::Closed), what reading from
    /// disk found wrong; of a serializable transaction, which remembers what it has read,
    /// [`CommitTooLarge`](crate::Error::CommitTooLarge) if transactions hold a quarter of
    /// [`max_memory`](crate::LightningDbConfig::max_memory).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.core.get(self.keyspace, key.as_ref())
    }

    /// Whether a key has a value.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("a", "1")?;
    /// assert!(tx.contains_key("a")? && !tx.contains_key("b")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Transaction::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// The values of several keys, in the order of `keys`. Together they are found faster than one by one.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("a", "1")?;
    /// assert_eq!(tx.get_batch(&["z", "a"])?, [None, Some(b"1".to_vec())]);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Transaction::get).
    pub fn get_batch<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        self.core.get_batch(self.keyspace, keys)
    }

    /// The value of a key that the transaction is going to write: nobody else may change it before the commit. A
    /// pessimistic transaction waits for the key's lock; what it reads then stays the newest value. If it has read or
    /// locked something else before, and the key was changed since, that is a
    /// [`TransactionConflict`](crate::Error::TransactionConflict), but not under
    /// [`ReadCommitted`](IsolationLevel::ReadCommitted). Other transactions read as [`get`](Transaction::get) does, and
    /// their commit fails if the key was changed, also under `ReadCommitted`, and whether or not they wrote the key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().pessimistic().begin()?;
    /// let stock = tx.get_for_update("stock")?.unwrap_or(b"0".to_vec());
    /// assert_eq!(stock, b"0");
    /// tx.put("stock", "1")?;
    /// tx.commit()?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Transaction::get), and [`Deadlock`](crate::Error::Deadlock),
    /// [`LockTimeout`](crate::Error::LockTimeout), [`ReadOnlyTransaction`](crate::Error::ReadOnlyTransaction).
    pub fn get_for_update(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.core.get_for_update(self.keyspace, key.as_ref())
    }

    /// Sets a key to a value. A pessimistic transaction waits for the key's lock.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("a", "1")?;
    /// tx.commit()?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// After an error the key is as it was, and the transaction goes on unless the error says that it has ended.
    /// [`KeyTooLarge`](crate::Error::KeyTooLarge), [`ValueTooLarge`](crate::Error::ValueTooLarge), of a pessimistic one
    /// [`TransactionConflict`](crate::Error::TransactionConflict) if the key was changed before its lock was there,
    /// [`CommitTooLarge`](crate::Error::CommitTooLarge) if transactions hold a quarter of
    /// [`max_memory`](crate::LightningDbConfig::max_memory),
    /// [`ReadOnlyTransaction`](crate::Error::ReadOnlyTransaction), [`Deadlock`](crate::Error::Deadlock),
    /// [`LockTimeout`](crate::Error::LockTimeout), [`TransactionEnded`](crate::Error::TransactionEnded),
    /// [`TransactionTimeout`](crate::Error::TransactionTimeout),
    /// [`KeyspaceNotFound`](crate::Error::KeyspaceNotFound), [`Closed`](crate::Error::Closed).
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        let value = value.as_ref();
        match value.len() as u64 {
            ..=MAX_VALUE_BYTES => self.core.put(self.keyspace, key.as_ref(), Some(value)),
            len => Err(Error::ValueTooLarge { len, max: MAX_VALUE_BYTES }),
        }
    }

    /// Removes a key, if it is there.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("a", "1")?;
    /// let tx = db.transaction().begin()?;
    /// tx.delete("a")?;
    /// assert!(!tx.contains_key("a")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`put`](Transaction::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.core.put(self.keyspace, key.as_ref(), None)
    }

    /// Removes all keys of a range, those too that others add to it before the commit; whether it fails because of
    /// them, the isolation level says.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("b", "2"), ("c", "3")])?;
    /// let tx = db.transaction().begin()?;
    /// tx.delete_range("a".."c")?;
    /// tx.put("b", "kept")?;
    /// tx.commit()?;
    /// assert_eq!(db.iter()?.count(), 2);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`put`](Transaction::put); [`InvertedRange`](crate::Error::InvertedRange).
    pub fn delete_range(&self, range: impl KeyRange) -> Result<()> {
        let bounds = owned(&range);
        if is_inverted(&bounds) {
            return Err(Error::InvertedRange);
        }
        let (start, end) = as_half_open(bounds);
        self.core.delete_range(self.keyspace, &start, end.as_deref())
    }

    fn walk(&self, bounds: Bounds, reversed: bool) -> Result<TransactionScan> {
        if is_inverted(&bounds) {
            return Err(Error::InvertedRange);
        }
        self.core.scan(&self.handle, self.keyspace, bounds, reversed)
    }

    /// The entries of a range in key order, those among them that the transaction has written. It shows what there
    /// was when it was made: what the transaction writes after that, it does not show; so what it has written in the range is
    /// copied. It may be walked on when the transaction has ended.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("c", "3")])?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("b", "2")?;
    /// let keys: Result<Vec<_>, _> = tx.range("a".."c")?.map(|entry| Ok(entry?.0)).collect();
    /// assert_eq!(keys?, [b"a", b"b"]);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Transaction::get); [`InvertedRange`](crate::Error::InvertedRange).
    pub fn range(&self, range: impl KeyRange) -> Result<TransactionScan> {
        self.walk(owned(&range), false)
    }

    /// All entries in key order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("b", "2")?;
    /// assert_eq!(tx.iter()?.next_back().unwrap()?, (b"b".to_vec(), b"2".to_vec()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Transaction::get).
    pub fn iter(&self) -> Result<TransactionScan> {
        self.range(..)
    }

    /// The entries of `start <= key < end` in key order; `None` leaves an end open.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("b", "2")?;
    /// assert_eq!(tx.scan(Some(b"a"), None)?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`range`](Transaction::range).
    pub fn scan(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<TransactionScan> {
        self.walk(half_open(start, end), false)
    }

    /// The entries of `start <= key < end`, highest key first.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("c", "3")])?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("b", "2")?;
    /// tx.delete("c")?;
    /// assert_eq!(tx.scan_reverse(None, None)?.next().unwrap()?.0, b"b");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`range`](Transaction::range).
    pub fn scan_reverse(
        &self,
        start: Option<&[u8]>,
        end: Option<&[u8]>,
    ) -> Result<TransactionScan> {
        self.walk(half_open(start, end), true)
    }

    /// The entries whose keys begin with `prefix`, in key order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("user:1", "Ada")?;
    /// assert_eq!(tx.scan_prefix("user:")?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Transaction::get).
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<TransactionScan> {
        self.walk(prefix_bounds(prefix.as_ref()), false)
    }

    /// A place to go back to. Savepoints may be nested: going back to one forgets those made after it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("a", "1")?;
    /// let before = tx.savepoint()?;
    /// tx.put("b", "2")?;
    /// tx.rollback_to(before)?;
    /// tx.commit()?;
    /// assert!(db.contains_key("a")? && !db.contains_key("b")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`TransactionEnded`](crate::Error::TransactionEnded),
    /// [`TransactionTimeout`](crate::Error::TransactionTimeout).
    pub fn savepoint(&self) -> Result<Savepoint> {
        let (transaction, number) = (self.core.id(), self.core.savepoint()?);
        Ok(Savepoint { transaction, number })
    }

    /// Undoes what the transaction has written since the savepoint, which stays. What it has read since, and the
    /// locks it has taken, it keeps.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Error, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// let (outer, inner) = (tx.savepoint()?, tx.savepoint()?);
    /// tx.rollback_to(outer)?;
    /// assert!(matches!(tx.rollback_to(inner), Err(Error::InvalidArgument { .. })));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Error::InvalidArgument) if the savepoint is of another transaction, or the
    /// transaction went back to one before it; as [`savepoint`](Transaction::savepoint).
    pub fn rollback_to(&self, savepoint: Savepoint) -> Result<()> {
        if savepoint.transaction != self.core.id() {
            let why = "it is of another transaction".into();
            return Err(Error::InvalidArgument { what: "savepoint", why });
        }
        self.core.roll_back(savepoint.number)
    }

    /// Makes what was written visible, all of it at once, durable as the transaction was told to be. Returns the
    /// SeqNo behind which others see it; of a transaction without writes, the newest that it could have read. Without
    /// writes it fails only because of what it read [for update](Transaction::get_for_update), or if it has ended, or
    /// the database was closed. Large values are written to their files before it is known whether there is a conflict.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Error, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let (one, other) = (db.transaction().begin()?, db.transaction().begin()?);
    /// one.put("key", "1")?;
    /// other.put("key", "2")?;
    /// one.commit()?;
    /// assert!(matches!(other.commit(), Err(Error::TransactionConflict)));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// After any error the transaction has ended, and nothing of it is written, but for
    /// [`Poisoned`](crate::Error::Poisoned), which says what may be.
    /// [`TransactionConflict`](crate::Error::TransactionConflict), [`Deadlock`](crate::Error::Deadlock),
    /// [`LockTimeout`](crate::Error::LockTimeout), [`TransactionEnded`](crate::Error::TransactionEnded),
    /// [`TransactionTimeout`](crate::Error::TransactionTimeout), and as
    /// [`Database::write`](crate::Database::write).
    pub fn commit(self) -> Result<SeqNo> {
        self.core.commit()
    }

    /// Forgets what was written. The same as dropping it, if it is not in use in another keyspace.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let tx = db.transaction().begin()?;
    /// tx.put("key", "value")?;
    /// tx.abort();
    /// assert_eq!(db.get("key")?, None);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn abort(self) {
        self.core.abort();
    }
}
