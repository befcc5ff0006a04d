//! The public verbs, thin: what they do is in [`crate::db`] and [`crate::handles`].

mod atomically;
#[cfg(test)]
mod tests;
mod transactions;
mod whole;

use crate::{
    config::{Durability, LightningDbConfig},
    db::{
        Db,
        open::{DEFAULT_KEYSPACE, OpenAs},
    },
    env::{Env, OsEnv},
    error::{Error, Result},
    handles::{
        Handle, KeyRange, Keyspace, Scan, Snapshot, Subscription, ValueReader, ValueRef, WriteBatch,
    },
    types::{KeyspaceId, SeqNo},
};
use std::{fmt, io::Read, path::Path, sync::Arc};

/// An open database: a directory of its own, used by one process at a time.
///
/// Share it between threads through its [`Arc`]. The verbs here act on the default keyspace;
/// [`keyspace`](Database::keyspace) gives others. Dropping the last handle closes the database.
///
/// **By default a loss of power may lose the newest commits** (about the last 10 ms): see
/// [`WalSyncMode`](crate::WalSyncMode). A kill of the process loses nothing that was acknowledged.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// use lightning_db::{Database, LightningDbConfig};
///
/// let db = Database::create(&path, LightningDbConfig::default())?;
/// db.put(b"hello", b"world")?;
/// assert_eq!(db.get(b"hello")?.as_deref(), Some(&b"world"[..]));
/// db.delete(b"hello")?;
/// assert!(db.get(b"hello")?.is_none());
/// # Ok::<(), lightning_db::Error>(())
/// ```
pub struct Database {
    default: Keyspace,
    by_id: transactions::ById,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("dir", &self.handle().db.dir).finish_non_exhaustive()
    }
}

impl Database {
    /// Creates a database in a directory that does not exist or is empty.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// use lightning_db::{Database, Error, LightningDbConfig};
    /// let db = Database::create(&path, LightningDbConfig::default())?;
    /// let again = Database::create(&path, LightningDbConfig::default());
    /// assert!(matches!(again, Err(Error::AlreadyExists { .. } | Error::Locked { .. })));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::Error::AlreadyExists): nothing was opened or touched;
    /// [`NotADatabase`](crate::Error::NotADatabase) if the directory holds other files;
    /// [`Locked`](crate::Error::Locked), [`NoSpace`](crate::Error::NoSpace),
    /// [`Io`](crate::Error::Io), [`InvalidArgument`](crate::Error::InvalidArgument).
    pub fn create(path: impl AsRef<Path>, config: LightningDbConfig) -> Result<Arc<Database>> {
        Self::create_with_env(Arc::new(OsEnv::new()), path, config)
    }

    /// Opens a database, and brings back what it held when it was closed, killed or lost power.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// use lightning_db::{Database, LightningDbConfig};
    /// let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "value")?;
    /// drop(db);
    /// let db = Database::open(&path, LightningDbConfig::default())?;
    /// assert_eq!(db.get("key")?.as_deref(), Some(&b"value"[..]));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](crate::Error::NotFound), [`NotADatabase`](crate::Error::NotADatabase),
    /// [`Locked`](crate::Error::Locked), [`Corruption`](crate::Error::Corruption),
    /// [`Unsupported`](crate::Error::Unsupported), [`Io`](crate::Error::Io),
    /// [`InvalidArgument`](crate::Error::InvalidArgument).
    pub fn open(path: impl AsRef<Path>, config: LightningDbConfig) -> Result<Arc<Database>> {
        Self::open_with_env(Arc::new(OsEnv::new()), path, config)
    }

    /// Opens a database, or creates it if there is none. A creation that was interrupted is begun
    /// anew.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// use lightning_db::{Database, LightningDbConfig};
    /// for n in 0..2 {
    ///     let db = Database::open_or_create(&path, LightningDbConfig::default())?;
    ///     assert_eq!(db.iter()?.count(), n);
    ///     db.put("key", "value")?;
    /// }
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`create`](Database::create) and [`open`](Database::open).
    pub fn open_or_create(
        path: impl AsRef<Path>,
        config: LightningDbConfig,
    ) -> Result<Arc<Database>> {
        Self::open_or_create_with_env(Arc::new(OsEnv::new()), path, config)
    }

    /// [`create`](Database::create) in another world than the operating system's.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// use lightning_db::{Database, LightningDbConfig, env::OsEnv};
    /// use std::sync::Arc;
    /// let db = Database::create_with_env(Arc::new(OsEnv::new()), &path, LightningDbConfig::default())?;
    /// # db.put("key", "")?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`create`](Database::create).
    pub fn create_with_env(
        env: Arc<dyn Env>,
        path: impl AsRef<Path>,
        config: LightningDbConfig,
    ) -> Result<Arc<Database>> {
        Self::start(env, path.as_ref(), config, OpenAs::New)
    }

    /// [`open`](Database::open) in another world than the operating system's.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// use lightning_db::{Database, LightningDbConfig, env::OsEnv};
    /// use std::sync::Arc;
    /// # drop(Database::create(&path, LightningDbConfig::default())?);
    /// let db = Database::open_with_env(Arc::new(OsEnv::new()), &path, LightningDbConfig::default())?;
    /// # db.put("key", "")?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`open`](Database::open).
    pub fn open_with_env(
        env: Arc<dyn Env>,
        path: impl AsRef<Path>,
        config: LightningDbConfig,
    ) -> Result<Arc<Database>> {
        Self::start(env, path.as_ref(), config, OpenAs::Existing)
    }

    /// [`open_or_create`](Database::open_or_create) in another world than the operating system's.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// use lightning_db::{Database, LightningDbConfig, env::OsEnv};
    /// use std::sync::Arc;
    /// let (env, config) = (Arc::new(OsEnv::new()), LightningDbConfig::default());
    /// let db = Database::open_or_create_with_env(env, &path, config)?;
    /// # db.put("key", "")?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`open_or_create`](Database::open_or_create).
    pub fn open_or_create_with_env(
        env: Arc<dyn Env>,
        path: impl AsRef<Path>,
        config: LightningDbConfig,
    ) -> Result<Arc<Database>> {
        Self::start(env, path.as_ref(), config, OpenAs::Either)
    }

    fn start(
        env: Arc<dyn Env>,
        path: &Path,
        config: LightningDbConfig,
        open_as: OpenAs,
    ) -> Result<Arc<Database>> {
        let handle = Handle::start(Db::open(env, path, config, open_as)?)?;
        let default = Keyspace { handle, id: KeyspaceId::DEFAULT, name: DEFAULT_KEYSPACE.into() };
        Ok(Arc::new(Database { default, by_id: Default::default() }))
    }

    fn handle(&self) -> &Arc<Handle> {
        &self.default.handle
    }

    /// Sets a key to a value. See [`Keyspace::put`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "old")?;
    /// db.put("key", "new")?;
    /// assert_eq!(db.get("key")?.as_deref(), Some(&b"new"[..]));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    #[inline]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.default.put(key, value)
    }

    /// [`put`](Database::put), durable as `durability` says.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Durability, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_with("payment", "10", Durability::Sync)?; // durable when this returns
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        durability: Durability,
    ) -> Result<()> {
        self.default.put_with(key, value, durability)
    }

    /// Sets a key to all that a reader yields, up to 4 GiB - 1. See [`Keyspace::put_reader`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # use std::io::Read;
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_reader("zeros", std::io::repeat(0).take(2 << 20))?;
    /// assert_eq!(db.get("zeros")?.unwrap().len(), 2 << 20);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put_reader`].
    pub fn put_reader(&self, key: impl AsRef<[u8]>, reader: impl Read) -> Result<()> {
        self.default.put_reader(key, reader)
    }

    /// [`put_reader`](Database::put_reader), durable as `durability` says.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Durability, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_reader_with("key", &b"value"[..], Durability::Sync)?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put_reader`].
    pub fn put_reader_with(
        &self,
        key: impl AsRef<[u8]>,
        reader: impl Read,
        durability: Durability,
    ) -> Result<()> {
        self.default.put_reader_with(key, reader, durability)
    }

    /// The value of a key, to be read piece by piece. See [`Keyspace::get_reader`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "value")?;
    /// let value = std::io::read_to_string(db.get_reader("key")?.unwrap()).unwrap();
    /// assert_eq!(value, "value");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn get_reader(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueReader>> {
        self.default.get_reader(key)
    }

    /// The value of a key, copied out. See [`Keyspace::get`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// assert_eq!(db.get("key")?, None);
    /// db.put("key", "value")?;
    /// assert_eq!(db.get("key")?, Some(b"value".to_vec()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.default.get(key)
    }

    /// The value of a key, where it lies. See [`ValueRef`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "value")?;
    /// let value = db.get_ref("key")?.expect("it was put");
    /// assert!(value.starts_with(b"val"));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn get_ref(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueRef>> {
        self.default.get_ref(key)
    }

    /// Whether a key has a value.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("", "")?; // an empty key and an empty value are valid
    /// assert!(db.contains_key("")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.default.contains_key(key)
    }

    /// Removes a key, if it is there.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "value")?;
    /// db.delete("key")?;
    /// db.delete("never there")?;
    /// assert!(!db.contains_key("key")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.default.delete(key)
    }

    /// Removes all keys of a range, at the cost of one write.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("b", "2"), ("c", "3")])?;
    /// db.delete_range("a".."c")?;
    /// assert_eq!(db.first()?, Some((b"c".to_vec(), b"3".to_vec())));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::delete_range`].
    pub fn delete_range(&self, range: impl KeyRange) -> Result<()> {
        self.default.delete_range(range)
    }

    /// Sets several keys in one commit: all of them or none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("b", "2")])?;
    /// assert_eq!(db.iter()?.count(), 2);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put_batch`].
    pub fn put_batch<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, entries: &[(K, V)]) -> Result<()> {
        self.default.put_batch(entries)
    }

    /// Loads many entries, in the order of their keys, into the empty database: the fastest way to fill one.
    /// See [`Keyspace::bulk_load`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.bulk_load((0..1000_u64).map(|n| (n.to_be_bytes(), "value")))?;
    /// assert_eq!(db.iter()?.count(), 1000);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::bulk_load`].
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<u64> {
        self.default.bulk_load(entries)
    }

    /// [`bulk_load`](Database::bulk_load) of entries that may fail. See [`Keyspace::try_bulk_load`].
    ///
    /// # Errors
    /// As [`Keyspace::try_bulk_load`].
    pub fn try_bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>, E: From<Error>>(
        &self,
        entries: impl IntoIterator<Item = Result<(K, V), E>>,
    ) -> Result<u64, E> {
        self.default.try_bulk_load(entries)
    }

    /// The values of several keys at one moment, in the order of `keys`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("a", "1")?;
    /// assert_eq!(db.get_batch(&["a", "b"])?, [Some(b"1".to_vec()), None]);
    /// db.delete_batch(&["a", "b"])?;
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn get_batch<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        self.default.get_batch(keys)
    }

    /// Hands the value of each key at one moment to `with`, with the key's place in `keys`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("a", "12345")?;
    /// let mut bytes = 0;
    /// db.get_batch_with(&["a", "b"], |_, value| bytes += value.map_or(0, <[u8]>::len))?;
    /// assert_eq!(bytes, 5);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn get_batch_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        with: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.default.get_batch_with(keys, with)
    }

    /// Removes several keys in one commit: all of them or none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("b", "2"), ("c", "3")])?;
    /// db.delete_batch(&["a", "c"])?;
    /// assert_eq!(db.first()?, db.last()?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put_batch`].
    pub fn delete_batch<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<()> {
        self.default.delete_batch(keys)
    }

    /// Commits a batch: all its operations or none. See [`WriteBatch`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, WriteBatch};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let mut batch = WriteBatch::new();
    /// batch.put("a", "1").delete("b");
    /// db.write(batch)?;
    /// assert!(db.contains_key("a")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put_batch`].
    pub fn write(&self, batch: WriteBatch) -> Result<()> {
        self.write_with(batch, Durability::Default)
    }

    /// [`write`](Database::write), durable as `durability` says.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Durability, LightningDbConfig, WriteBatch};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let mut batch = WriteBatch::new();
    /// batch.put("a", "1").put("b", "2");
    /// db.write_with(batch, Durability::Sync)?; // both durable when this returns
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put_batch`].
    pub fn write_with(&self, batch: WriteBatch, durability: Durability) -> Result<()> {
        self.commit(batch, durability).map(|_| ())
    }

    /// [`write_with`](Database::write_with), telling the SeqNo of the batch's last operation. Commits
    /// are ordered by it. An empty batch commits nothing and tells the newest SeqNo that readers see.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Durability, LightningDbConfig, WriteBatch};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let mut batch = WriteBatch::new();
    /// batch.put("a", "1").put("b", "2");
    /// assert_eq!(db.commit(batch, Durability::Async)?.0, 2);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put_batch`].
    pub fn commit(&self, mut batch: WriteBatch, durability: Durability) -> Result<SeqNo> {
        self.handle().db.commit(batch.encoded()?, durability)
    }

    /// The commits to a keyspace whose last SeqNo is not below `from`, and all that follow, as they become durable.
    /// See [`Subscription`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, SeqNo};
    /// # let db = Database::create(&path, LightningDbConfig::durable())?;
    /// let users = db.keyspace("users")?;
    /// let mut commits = db.subscribe(&users, SeqNo(1))?;
    /// users.put("1", "Ada")?;
    /// assert_eq!(commits.next(None)?.map(|committed| committed.seq()), Some(SeqNo(1)));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::subscribe`].
    pub fn subscribe(&self, keyspace: &Keyspace, from: SeqNo) -> Result<Subscription> {
        keyspace.subscribe(from)
    }

    /// The current state, as a view that stays. See [`Snapshot`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "old")?;
    /// let before = db.snapshot()?;
    /// db.delete("key")?;
    /// assert!(before.contains_key("key")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed).
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.default.snapshot()
    }

    /// The entries of a range in key order. See [`KeyRange`] and [`Scan`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("b", "2"), ("c", "3")])?;
    /// assert_eq!(db.range("b"..)?.count(), 2);
    /// assert_eq!(db.range("a"..="b")?.rev().next().unwrap()?.0, b"b");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::range`].
    pub fn range(&self, range: impl KeyRange) -> Result<Scan> {
        self.default.range(range)
    }

    /// All entries in key order. See [`Scan`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("b", "2"), ("a", "1")])?;
    /// for entry in db.iter()? {
    ///     let (key, value) = entry?;
    ///     println!("{key:?} = {value:?}");
    /// }
    /// # assert_eq!(db.iter()?.next().unwrap()?.0, b"a");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed).
    pub fn iter(&self) -> Result<Scan> {
        self.default.iter()
    }

    /// The entries of `start <= key < end` in key order; `None` leaves an end open.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("user:1", "Ada"), ("user:2", "Bob"), ("zoo", "")])?;
    /// assert_eq!(db.scan(Some(b"user:"), Some(b"user:~"))?.count(), 2);
    /// assert_eq!(db.scan_prefix(b"user:")?.count(), 2);
    /// let last = db.scan_reverse(None, None)?.next().unwrap()?;
    /// assert_eq!(last.0, b"zoo");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::range`].
    pub fn scan(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<Scan> {
        self.default.scan(start, end)
    }

    /// The entries of `start <= key < end`, highest key first.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("b", "2"), ("c", "3")])?;
    /// let newest = db.scan_reverse(None, Some(b"c"))?.next().unwrap()?;
    /// assert_eq!(newest.0, b"b");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::range`].
    pub fn scan_reverse(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<Scan> {
        self.default.scan_reverse(start, end)
    }

    /// The entries whose keys begin with `prefix`, in key order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("user:1", "Ada"), ("user:2", "Bob"), ("zoo", "")])?;
    /// assert_eq!(db.scan_prefix("user:")?.count(), 2);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed).
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Scan> {
        self.default.scan_prefix(prefix)
    }

    /// Hands every entry of a range to `with`, in key order, without copying.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("a", "1"), ("b", "22")])?;
    /// let mut bytes = 0;
    /// db.for_each(.., |_, value| bytes += value.len())?;
    /// assert_eq!(bytes, 3);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::for_each`].
    pub fn for_each(&self, range: impl KeyRange, with: impl FnMut(&[u8], &[u8])) -> Result<()> {
        self.default.for_each(range, with)
    }

    /// The entry with the lowest key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// assert_eq!(db.first()?, None);
    /// db.put_batch(&[("b", "2"), ("a", "1")])?;
    /// assert_eq!(db.first()?.unwrap().0, b"a");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn first(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.default.first()
    }

    /// The entry with the highest key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put_batch(&[("b", "2"), ("a", "1")])?;
    /// assert_eq!(db.last()?.unwrap().0, b"b");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub fn last(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.default.last()
    }
}
