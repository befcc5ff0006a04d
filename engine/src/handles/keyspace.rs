//! A set of keys of its own within a database.

use super::{
    Handle, KeyRange, Scan, Snapshot, Subscription, ValueReader, ValueRef, WriteBatch,
    range::owned, snapshot::half_open,
};
use crate::{
    config::{Compression, Durability, MAX_VALUE_BYTES, StorageKind},
    db::{
        bulk::Empty,
        commit::Encoded,
        read,
        scan::{Bounds, prefix_bounds},
    },
    error::{Error, Result},
    format::{
        ops::Op,
        record::{RECORD_HEADER_BYTES, record_bytes},
    },
    types::{KeyspaceId, SeqNo},
};
use std::{fmt, io::Read, sync::Arc};

/// What a keyspace is created with.
///
/// ```
/// use lightning_db::{Compression, KeyspaceOptions};
/// let options = KeyspaceOptions { compression: Some(Compression::Lz4), ..Default::default() };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceOptions {
    /// Compression of its sstables, for its whole life; `None`: as the database's configuration says.
    pub compression: Option<Compression>,
    /// How what is written comes into its tree; `None`: as the database's configuration says now.
    pub storage_kind: Option<StorageKind>,
}

/// Key and value together of a put that is encoded on the stack.
const SMALL_BYTES: usize = 408;

/// A set of keys of its own: keys of different keyspaces never meet. A commit may span keyspaces
/// ([`WriteBatch`]), and so may a snapshot ([`Snapshot::of`]).
///
/// Cheap to clone, usable from many threads. It keeps the database open while it lives.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("db");
/// # use lightning_db::{Database, LightningDbConfig};
/// # let db = Database::create(&path, LightningDbConfig::default())?;
/// let users = db.keyspace("users")?;
/// users.put("ada", "1815")?;
/// assert_eq!(users.get("ada")?.as_deref(), Some(&b"1815"[..]));
/// assert!(db.get("ada")?.is_none());
/// # Ok::<(), lightning_db::Error>(())
/// ```
#[derive(Clone)]
pub struct Keyspace {
    pub(crate) handle: Arc<Handle>,
    pub(crate) id: KeyspaceId,
    pub(crate) name: Arc<str>,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyspace").field("id", &self.id).field("name", &self.name).finish()
    }
}

impl Keyspace {
    /// Its name.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// assert_eq!(users.name(), "users");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a key to a value.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// users.put("1", "Ada Lovelace")?;
    /// assert_eq!(users.get("1")?, Some(b"Ada Lovelace".to_vec()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyTooLarge`](crate::Error::KeyTooLarge), [`ValueTooLarge`](crate::Error::ValueTooLarge),
    /// [`KeyspaceNotFound`](crate::Error::KeyspaceNotFound) if it was dropped,
    /// [`LockTimeout`](crate::Error::LockTimeout) if a pessimistic transaction has kept the key locked for
    /// [`transaction_timeout`](crate::LightningDbConfig::transaction_timeout),
    /// [`NoSpace`](crate::Error::NoSpace), [`Poisoned`](crate::Error::Poisoned),
    /// [`Closed`](crate::Error::Closed).
    #[inline]
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, Durability::Default)
    }

    /// [`put`](Keyspace::put), durable as `durability` says.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Durability, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_with("1", "Ada", Durability::Sync)?; // durable when this returns
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`put`](Keyspace::put).
    #[inline]
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        durability: Durability,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        if key.len() + value.len() > SMALL_BYTES {
            if value.len() > self.handle.db.config.blob_threshold {
                return self.put_large(key, value, durability);
            }
            let mut batch = WriteBatch::with_capacity(key.len() + value.len() + 24);
            batch.put_id(self.id, key, value);
            return self.write(batch, durability);
        }
        // As one operation of a batch, but without a batch's memory.
        let op = Op::Put { keyspace: self.id, key, value };
        let payload_len = op.encoded_len();
        let mut record = [0; record_bytes(SMALL_BYTES + 24)];
        op.encode(&mut record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload_len]);
        let record = &mut record[..record_bytes(payload_len)];
        let batch = Encoded { record, payload_len, operations: 1 };
        self.handle.db.commit(batch, durability).map(|_| ())
    }

    /// A large value goes to its file without being copied into a batch.
    #[cold]
    fn put_large(&self, key: &[u8], value: &[u8], durability: Durability) -> Result<()> {
        match value.len() as u64 {
            ..=MAX_VALUE_BYTES => self.put_reader_with(key, value, durability),
            len => Err(Error::ValueTooLarge { len, max: MAX_VALUE_BYTES }),
        }
    }

    /// Sets a key to all that a reader yields, up to 4 GiB - 1, without holding it in memory: more than
    /// [`blob_threshold`](crate::LightningDbConfig::blob_threshold) bytes go to a file of their own as they
    /// come, and less is an ordinary put. All or nothing: nobody sees the value before the reader has ended,
    /// and of a reader that fails nothing is left.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # use std::io::Read;
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let films = db.keyspace("films")?;
    /// films.put_reader("metropolis", std::io::repeat(7).take(3 << 20))?;
    /// assert_eq!(films.get_reader("metropolis")?.expect("it was put").len(), 3 << 20);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`put`](Keyspace::put), and [`Reader`](crate::Error::Reader) with what the reader failed with.
    pub fn put_reader(&self, key: impl AsRef<[u8]>, reader: impl Read) -> Result<()> {
        self.put_reader_with(key, reader, Durability::Default)
    }

    /// [`put_reader`](Keyspace::put_reader), durable as `durability` says. A value with a file of its own is
    /// on disk in any case; that it is the key's value is what becomes durable now or later.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Durability, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let films = db.keyspace("films")?;
    /// films.put_reader_with("short", &b"a few bytes"[..], Durability::Sync)?;
    /// assert_eq!(films.get("short")?, Some(b"a few bytes".to_vec()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`put_reader`](Keyspace::put_reader).
    pub fn put_reader_with(
        &self,
        key: impl AsRef<[u8]>,
        mut reader: impl Read,
        durability: Durability,
    ) -> Result<()> {
        let db = &self.handle.db;
        db.put_reader(self.id, key.as_ref(), &mut reader, durability).map(|_| ())
    }

    /// Removes a key, if it is there.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// users.delete("1")?;
    /// assert!(!users.contains_key("1")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`put`](Keyspace::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.delete_id(self.id, key.as_ref());
        self.write(batch, Durability::Default)
    }

    /// Removes all keys of a range, at the cost of one write.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob"), ("3", "Cy")])?;
    /// users.delete_range("2"..)?;
    /// assert_eq!(users.iter()?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`put`](Keyspace::put); [`InvertedRange`](crate::Error::InvertedRange).
    pub fn delete_range(&self, range: impl KeyRange) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.delete_range_id(self.id, &range);
        self.write(batch, Durability::Default)
    }

    /// Sets several keys in one commit: all of them or none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob")])?;
    /// assert_eq!(users.iter()?.count(), 2);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`put`](Keyspace::put); [`CommitTooLarge`](crate::Error::CommitTooLarge);
    /// [`Deadlock`](crate::Error::Deadlock) if it and transactions with locks wait for each other again and again.
    pub fn put_batch<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, entries: &[(K, V)]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in entries {
            batch.put_id(self.id, key.as_ref(), value.as_ref());
        }
        self.write(batch, Durability::Default)
    }

    /// Removes several keys in one commit: all of them or none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob")])?;
    /// users.delete_batch(&["1", "2"])?;
    /// assert_eq!(users.first()?, None);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`put_batch`](Keyspace::put_batch).
    pub fn delete_batch<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<()> {
        let mut batch = WriteBatch::new();
        for key in keys {
            batch.delete_id(self.id, key.as_ref());
        }
        self.write(batch, Durability::Default)
    }

    /// Loads many entries into the keyspace, which has none, in the order of their keys: the fastest way to
    /// fill one, as they go neither through the log nor through memory. All or nothing: before it returns
    /// nothing of them is to be seen, and when it has returned they are durable, whatever the configuration
    /// says, and so is all that was committed before. Returns how many there were.
    ///
    /// Others may write to the keyspace meanwhile. What they commit after the load has begun, before it takes the
    /// first entry, is newer than what is loaded: their values stay, and so do their deletes. Commits do not
    /// wait for a load, nor does a load end before its entries do; while it goes on, what is written to
    /// the keyspace is not merged. A transaction that counts on something in the keyspace, and commits while it is
    /// loaded, is in conflict. A load does not wait for locks.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Error, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let squares = db.keyspace("squares")?;
    /// let loaded = squares.bulk_load((0..1000_u64).map(|n| (n.to_be_bytes(), (n * n).to_string())))?;
    /// assert_eq!(loaded, 1000);
    /// assert_eq!(squares.get(12_u64.to_be_bytes())?, Some(b"144".to_vec()));
    /// assert!(matches!(squares.bulk_load([("a", "b")]), Err(Error::NotEmpty { .. })));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// After an error nothing was loaded, and the space is given back.
    /// [`NotEmpty`](crate::Error::NotEmpty); [`BadEntry`](crate::Error::BadEntry) if a key is not greater than
    /// the one before it, or longer than `max_key_size`, or a value is too long;
    /// [`InvalidArgument`](crate::Error::InvalidArgument) while another load of the keyspace is under way;
    /// [`KeyspaceNotFound`](crate::Error::KeyspaceNotFound) if it was dropped, before or meanwhile;
    /// [`NoSpace`](crate::Error::NoSpace), [`Io`](crate::Error::Io), [`Poisoned`](crate::Error::Poisoned),
    /// [`Closed`](crate::Error::Closed).
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<u64> {
        self.try_bulk_load(entries.into_iter().map(Ok))
    }

    /// [`bulk_load`](Keyspace::bulk_load) of entries that have to be got from somewhere, which may fail. The
    /// first error ends the load and is returned; nothing was loaded then.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let words = db.keyspace("words")?;
    /// let file = b"apple 1\nbanana 2\n";
    /// words.try_bulk_load(std::io::BufRead::lines(&file[..]).map(|line| {
    ///     let line = line?;
    ///     let (word, count) = line.split_once(' ').ok_or("a line without a space")?;
    ///     Ok::<_, Box<dyn std::error::Error>>((word.to_owned(), count.to_owned()))
    /// })).unwrap();
    /// assert_eq!(words.get("banana")?.as_deref(), Some(&b"2"[..]));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`bulk_load`](Keyspace::bulk_load), and what `entries` fails with.
    pub fn try_bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>, E: From<Error>>(
        &self,
        entries: impl IntoIterator<Item = Result<(K, V), E>>,
    ) -> Result<u64, E> {
        let keyspace = Empty { id: self.id, name: &self.name };
        self.handle.db.bulk_load(keyspace, entries.into_iter())
    }

    #[inline]
    fn write(&self, mut batch: WriteBatch, durability: Durability) -> Result<()> {
        self.handle.db.commit(batch.encoded()?, durability).map(|_| ())
    }

    /// The value of a key, copied out.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// assert_eq!(users.get("1")?, None);
    /// users.put("1", "Ada")?;
    /// assert_eq!(users.get("1")?, Some(b"Ada".to_vec()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// What reading from disk found wrong; [`Closed`](crate::Error::Closed).
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.handle.db.get(self.id, key.as_ref())
    }

    /// The value of a key, where it lies.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// assert_eq!(users.get_ref("1")?.expect("it was put").len(), 3);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Keyspace::get).
    pub fn get_ref(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueRef>> {
        let db = &self.handle.db;
        db.check_open()?;
        let (version, visible) = db.view();
        ValueRef::new(db, version, |v| read::find(v, visible, self.id, key.as_ref()))
    }

    /// The value of a key, to be read piece by piece: of one that has a file of its own no more than a piece
    /// is in memory.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # use std::io::{Read, Seek, SeekFrom};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let films = db.keyspace("films")?;
    /// films.put("metropolis", vec![7; 2 << 20])?;
    /// let mut film = films.get_reader("metropolis")?.expect("it was put");
    /// film.seek(SeekFrom::End(-1)).unwrap();
    /// let mut last = vec![];
    /// film.read_to_end(&mut last).unwrap();
    /// assert_eq!((film.len(), last), (2 << 20, vec![7]));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Keyspace::get).
    pub fn get_reader(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueReader>> {
        self.handle.db.check_open()?;
        let view = self.handle.db.view();
        ValueReader::find(&self.handle, view, self.id, key.as_ref())
    }

    /// Whether a key has a value.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// assert!(!users.contains_key("1")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Keyspace::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.handle.db.has_value(self.id, key.as_ref())
    }

    /// The current state, as a view that stays.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// let before = users.snapshot()?;
    /// users.put("1", "Ada")?;
    /// assert!(!before.contains_key("1")?);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed).
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::new(&self.handle, self.id)
    }

    /// The values of several keys at one moment, in the order of `keys`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// assert_eq!(users.get_batch(&["0", "1"])?, [None, Some(b"Ada".to_vec())]);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Keyspace::get).
    pub fn get_batch<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(keys.len());
        self.get_batch_with(keys, |_, value| values.push(value.map(<[u8]>::to_vec)))?;
        Ok(values)
    }

    /// Hands the value of each key at one moment to `with`, with the key's place in `keys`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// let mut found = vec![];
    /// users.get_batch_with(&["0", "1"], |i, value| if value.is_some() { found.push(i) })?;
    /// assert_eq!(found, [1]);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Keyspace::get); `with` was called for the keys before.
    pub fn get_batch_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        with: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<()> {
        self.handle.db.get_batch_with(self.id, keys, with)
    }

    fn walk(&self, bounds: Bounds, reversed: bool) -> Result<Scan> {
        self.handle.db.check_open()?;
        Scan::new(Arc::clone(&self.handle), self.handle.db.view(), self.id, bounds, reversed)
    }

    /// The entries of a range in key order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob"), ("3", "Cy")])?;
    /// assert_eq!(users.range("1".."3")?.count(), 2);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvertedRange`](crate::Error::InvertedRange), [`Closed`](crate::Error::Closed).
    pub fn range(&self, range: impl KeyRange) -> Result<Scan> {
        self.walk(owned(&range), false)
    }

    /// All entries in key order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob")])?;
    /// let keys: Result<Vec<_>, _> = users.iter()?.map(|entry| entry.map(|(key, _)| key)).collect();
    /// assert_eq!(keys?, [b"1", b"2"]);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed).
    pub fn iter(&self) -> Result<Scan> {
        self.range(..)
    }

    /// The entries of `start <= key < end` in key order; `None` leaves an end open.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob")])?;
    /// assert_eq!(users.scan(Some(b"2"), None)?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`range`](Keyspace::range).
    pub fn scan(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<Scan> {
        self.walk(half_open(start, end), false)
    }

    /// The entries of `start <= key < end`, highest key first.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob")])?;
    /// assert_eq!(users.scan_reverse(None, None)?.next().unwrap()?.0, b"2");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`range`](Keyspace::range).
    pub fn scan_reverse(&self, start: Option<&[u8]>, end: Option<&[u8]>) -> Result<Scan> {
        self.walk(half_open(start, end), true)
    }

    /// The entries whose keys begin with `prefix`, in key order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("ada:born", "1815"), ("bob:born", "1923")])?;
    /// assert_eq!(users.scan_prefix("ada:")?.count(), 1);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`iter`](Keyspace::iter).
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Scan> {
        self.walk(prefix_bounds(prefix.as_ref()), false)
    }

    /// Hands every entry of a range to `with`, in key order, without copying.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob")])?;
    /// let mut bytes = 0;
    /// users.for_each(.., |key, value| bytes += key.len() + value.len())?;
    /// assert_eq!(bytes, 8);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`range`](Keyspace::range), and what reading from disk found wrong.
    pub fn for_each(&self, range: impl KeyRange, mut with: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut scan = self.range(range)?;
        while let Some((key, value)) = scan.next_ref()? {
            with(key, value);
        }
        Ok(())
    }

    /// The entry with the lowest key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob")])?;
    /// assert_eq!(users.first()?, Some((b"1".to_vec(), b"Ada".to_vec())));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Keyspace::get).
    pub fn first(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.iter()?.next().transpose()
    }

    /// The entry with the highest key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// # let users = db.keyspace("users")?;
    /// users.put_batch(&[("1", "Ada"), ("2", "Bob")])?;
    /// assert_eq!(users.last()?.unwrap().0, b"2");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Keyspace::get).
    pub fn last(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.iter()?.next_back().transpose()
    }

    /// The commits to this keyspace whose last SeqNo is not below `from`, and all that follow. See
    /// [`Subscription`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, SeqNo};
    /// # let db = Database::create(&path, LightningDbConfig::durable())?;
    /// let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// users.put("2", "Grace")?;
    /// let mut commits = users.subscribe(SeqNo(2))?;
    /// assert_eq!(commits.try_next()?.map(|committed| committed.seq()), Some(SeqNo(2)));
    /// assert_eq!(commits.try_next()?, None);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Lagged`](crate::Error::Lagged) if the log does not hold them any more, the keyspace was bulk-loaded since or
    /// is not the one that had this name then, or `from` is behind the SeqNo that is given next;
    /// [`KeyspaceNotFound`](crate::Error::KeyspaceNotFound) if it was dropped; what reading from disk found wrong;
    /// [`Closed`](crate::Error::Closed). Before it is refused because of a load or of another keyspace, a commit may use
    /// up a SeqNo: then also what [`put`](Keyspace::put) may return, such as [`NoSpace`](crate::Error::NoSpace),
    /// [`Poisoned`](crate::Error::Poisoned) or [`LockTimeout`](crate::Error::LockTimeout).
    pub fn subscribe(&self, from: SeqNo) -> Result<Subscription> {
        Subscription::new(self, from)
    }

    /// How what is written here comes into the tree.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, StorageKind};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// assert_eq!(db.keyspace("users")?.storage_kind()?, StorageKind::Hybrid);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyspaceNotFound`](crate::Error::KeyspaceNotFound) if it was dropped,
    /// [`Closed`](crate::Error::Closed).
    pub fn storage_kind(&self) -> Result<StorageKind> {
        self.handle.db.storage_kind(self.id)
    }

    /// Changes how what is written here comes into the tree: from now on, durably when this returns. What
    /// is there already is converted in the background, while reads and writes go on; a crash meanwhile
    /// loses nothing, and opening goes on with it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig, StorageKind};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let users = db.keyspace("users")?;
    /// users.set_storage_kind(StorageKind::BTree)?;
    /// assert_eq!(users.storage_kind()?, StorageKind::BTree);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyspaceNotFound`](crate::Error::KeyspaceNotFound) if it was dropped,
    /// [`NoSpace`](crate::Error::NoSpace), [`Poisoned`](crate::Error::Poisoned),
    /// [`Closed`](crate::Error::Closed).
    pub fn set_storage_kind(&self, kind: StorageKind) -> Result<()> {
        self.handle.db.set_storage_kind(self.id, kind)
    }
}
